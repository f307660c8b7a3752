// See output_file.h. Permissions are not asked for but tried: of a root user, on a read-only disk and in /proc the
// answers of access() are not what a write gets.
#include "output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "longstride/error.h"

namespace longstride::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;  // as the kernel follows

// The folder that holds `path`; "." of a bare name.
fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// A file of our own in `folder`, open and empty, and its name; -1 and errno if there cannot be one.
int open_beside(const fs::path& folder, std::string& name) {
  name = (folder / ".longstride-XXXXXX").string();
  return mkostemp(name.data(), O_CLOEXEC);
}

// Why no file can be made in `folder`: an errno, 0 if one can.
int why_not_in(const fs::path& folder) {
  std::string name;
  const int file = open_beside(folder, name);
  if (file < 0) return errno;
  close(file);
  unlink(name.c_str());
  return 0;
}

// Where a write to `path` ends, links followed, those among them that lead to no file yet.
fs::path end_of_links(fs::path path) {
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(fs::symlink_status(path, error)); ++i) {
    const fs::path target = fs::read_symlink(path, error);
    if (error) break;
    path = target.is_absolute() ? target : folder_of(path) / target;
  }
  return path;
}

// Where and how a file is written.
struct Target {
  fs::path path;
  int missing = 0;      // the errno with which it is not there; 0: it is
  mode_t mode = 0;      // if it is there
  bool device = false;  // or a pipe: it is written to, for nothing can take its place
};

Target target_of(const std::string& given) {
  Target target{given};
  struct stat found {};
  if (stat(given.c_str(), &found) != 0) target.missing = errno;
  target.mode = target.missing == 0 ? found.st_mode : 0;
  target.device = target.missing == 0 && !S_ISREG(target.mode) && !S_ISDIR(target.mode);
  // Links to devices stay: those in /proc/self/fd, where /dev/stdout leads, name what is no path.
  if (!target.device) target.path = end_of_links(given);
  return target;
}

// Why `path` cannot be written, "" if it can.
std::string why_not(const std::string& given) {
  if (given.empty()) return "must be the name of a file to write, got ''";
  const auto refusal = [&](const std::string& why) { return fmt::format("cannot write '{}': {}", given, why); };
  const Target target = target_of(given);
  if (target.missing == ENOENT && !target.path.has_filename())
    return refusal("it names a folder that is not there; name a file");
  if (target.missing != 0 && target.missing != ENOENT) return refusal(std::strerror(target.missing));
  if (S_ISDIR(target.mode)) return refusal("it is a folder; name a file");
  if (target.missing == 0 && access(given.c_str(), W_OK) != 0) return refusal(std::strerror(errno));
  if (target.device) return "";
  const fs::path folder = folder_of(target.path);
  struct stat holder {};
  if (stat(folder.c_str(), &holder) != 0)
    return refusal(errno == ENOENT ? fmt::format("there is no folder '{}'; make it first", folder.string())
                                   : std::strerror(errno));
  if (const int reason = why_not_in(folder); reason != 0)
    return refusal(fmt::format("no file can be made in its folder: {}", std::strerror(reason)));
  return "";
}

[[noreturn]] void fail(const std::string& path, int reason) {
  throw std::runtime_error(fmt::format("cannot write '{}': {}", path, std::strerror(reason)));
}

// Writes and closes; an errno, 0 if all went well.
int write_all(int file, std::string_view bytes) {
  int reason = 0;
  while (reason == 0 && !bytes.empty()) {
    const ssize_t put = write(file, bytes.data(), bytes.size());
    if (put >= 0) bytes.remove_prefix(static_cast<size_t>(put));
    if (put < 0 && errno != EINTR) reason = errno;
  }
  if (close(file) != 0 && reason == 0) reason = errno;
  return reason;
}

}  // namespace

CLI::Validator output_file() {
  return CLI::Validator([](std::string& given) { return why_not(given); }, "");
}

void check_output_folder(const std::string& argument, const std::string& path) {
  if (path.empty()) throw Error(fmt::format("{} must be the name of a folder, got ''", argument));
  const auto refuse = [&](const std::string& why) {
    throw Error(fmt::format("{}: cannot write into '{}': {}", argument, path, why));
  };
  std::error_code error;
  const fs::path whole = fs::path(path).lexically_normal();
  std::vector<fs::path> missing;  // from the innermost out
  for (fs::path folder = whole; !folder.empty() && !fs::exists(fs::symlink_status(folder, error));) {
    if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory)
      refuse(error.message());
    if (folder.has_filename()) missing.push_back(folder);
    folder = folder.parent_path();
  }
  const fs::path there = missing.empty() ? whole : folder_of(missing.back());
  if (!fs::is_directory(there, error)) {
    if (fs::is_symlink(fs::symlink_status(there, error)))
      refuse(fmt::format("'{}' is a link that leads to no folder; remove it or name another", there.string()));
    refuse(fmt::format("'{}' is a file; name a folder", there.string()));
  }
  int reason = 0;
  std::vector<fs::path> made;
  for (auto folder = missing.rbegin(); reason == 0 && folder != missing.rend(); ++folder) {
    if (mkdir(folder->c_str(), 0777) == 0) {
      made.push_back(*folder);
    } else if (errno != EEXIST) {
      reason = errno;
    }
  }
  if (reason == 0) reason = why_not_in(whole);
  for (auto folder = made.rbegin(); folder != made.rend(); ++folder) rmdir(folder->c_str());
  if (reason != 0) refuse(std::strerror(reason));
}

void write_output(const std::string& given, std::string_view bytes) {
  const Target target = target_of(given);
  if (target.device) {
    const int file = open(given.c_str(), O_WRONLY | O_CLOEXEC);
    const int reason = file < 0 ? errno : write_all(file, bytes);
    if (reason != 0) fail(given, reason);
    return;
  }
  std::string beside;
  const int file = open_beside(folder_of(target.path), beside);
  if (file < 0) fail(given, errno);
  // mkostemp's file is the owner's alone; this one gets the mode that it replaces, or that of any file made here.
  const mode_t mask = umask(0);
  umask(mask);
  int reason = fchmod(file, target.missing == 0 ? target.mode & 07777 : 0666 & ~mask) == 0 ? 0 : errno;
  const int written = write_all(file, bytes);
  if (reason == 0) reason = written;
  if (reason == 0 && rename(beside.c_str(), target.path.c_str()) != 0) reason = errno;
  if (reason == 0) return;
  unlink(beside.c_str());
  fail(given, reason);
}

}  // namespace longstride::cli
