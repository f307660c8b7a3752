// Files that are written wholly or not at all, and directories that are swapped in as a whole. Torch-free. Called by
// safetensors and checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace longstride::nn {

// Throws Error: "cannot use <path>: <reason>".
[[noreturn]] void refuse_file(const std::filesystem::path& path, const std::string& reason);

// Written under another name in the same folder; commit() flushes it to the disk and renames it. Without a commit
// nothing remains. Every failure throws Error with the system's reason.
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
  std::filesystem::path partial_;
  int file_ = -1;
};

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
// system can, and removed afterwards. On any exception `directory` is as it was and nothing is left beside it.
void replace_directory(const std::filesystem::path& directory,
                       const std::function<void(const std::filesystem::path&)>& fill);

}  // namespace longstride::nn
