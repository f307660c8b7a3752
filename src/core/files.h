// Files that are written wholly or not at all, directories and links that are swapped in as a whole, and files that an
// argument names, read with our own words for what cannot be. Torch-free. Called by safetensors and checkpoints, by the
// trainer, by every command, and wherever a picture or a report is written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace longstride::core {

// Throws Error: "cannot use <path>: <reason>".
[[noreturn]] void refuse_file(const std::filesystem::path& path, const std::string& reason);

// Where and how a file is written.
struct WriteTarget {
  std::filesystem::path path;  // links followed, those among them that lead to no file yet
  int missing = 0;             // the errno with which it is not there; 0: it is
  unsigned mode = 0;           // of what is there
  bool device = false;         // or a pipe: it is written to, for nothing can take its place
};
WriteTarget write_target(const std::filesystem::path& given);

// Written under another name in the same folder; commit() flushes it to the disk and renames it onto what stands there,
// whose mode it gets; links are followed. Without a commit nothing remains. A device or a pipe is written to as it is.
// Every failure throws Error with the system's reason.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  void write(const void* data, size_t bytes);
  void commit();

 private:
  std::filesystem::path path_;
  WriteTarget target_;
  std::filesystem::path partial_;  // empty: a device
  int file_ = -1;
};

// A whole file so written. Throws std::runtime_error: its name was found good before the work (writable.h), so what
// fails now is no bad input.
void write_file(const std::filesystem::path& path, std::string_view bytes);

// Writes to an open file until nothing is `left`: 0, or the errno of why the rest could not be written.
int write_all(int file, std::string_view& left);

// What is left of an open file, and 0 or the errno that ended it.
std::pair<std::string, int> read_rest(int file);

// The bytes of the file at `path`. Throws Error, which names `argument` (none if empty) and says why: no such file, a
// folder, no permission, ...
std::string read_input(const std::string& argument, const std::string& path);

// All of standard input, in the same way.
std::string read_standard_input(const std::string& argument);

class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  uint64_t bytes() const { return bytes_; }
  void read(uint64_t offset, void* data, size_t bytes) const;

 private:
  std::filesystem::path path_;
  int file_ = -1;
  uint64_t bytes_ = 0;
};

// Fills a folder beside `directory` and puts it in its place: an existing one is exchanged in one step where the file
// system can, and removed afterwards. On any exception `directory` is as it was and nothing is left beside it; only
// where the disk fails after the exchange, the old one is kept beside the new one.
void replace_directory(const std::filesystem::path& directory,
                       const std::function<void(const std::filesystem::path&)>& fill);

// Makes `link` a symbolic link to `target` in one rename, and forces it to the disk. What stands there before, a link,
// a file or nothing, is gone after that rename and untouched if anything fails; a folder is refused.
void replace_link(const std::filesystem::path& link, const std::filesystem::path& target);

// Whether `name` is what a process that was killed left beside a file, folder or link whose name begins with `of`.
bool left_half_done(const std::string& name, const std::string& of);

}  // namespace longstride::core
