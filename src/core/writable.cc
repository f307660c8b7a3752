// Whether a file can be written before work for it begins. Permissions are not asked for but tried: of a root user, on
// a read-only disk and in /proc the answers of access() are not what a write gets.
#include "core/writable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/files.h"
#include "longstride/error.h"

namespace longstride::core {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

std::string why_not_writable(const std::string& given) {
  if (given.empty()) return "must be the name of a file to write, got ''";
  const auto refusal = [&](const std::string& why) { return fmt::format("cannot write '{}': {}", given, why); };
  const WriteTarget target = write_target(given);
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
  const fs::path nearest = missing.empty() ? whole : folder_of(missing.back());
  if (!fs::is_directory(nearest, error)) {
    if (fs::is_symlink(fs::symlink_status(nearest, error)))
      refuse(fmt::format("'{}' is a link that leads to no folder; remove it or name another", nearest.string()));
    refuse(fmt::format("'{}' is a file; name a folder", nearest.string()));
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

}  // namespace longstride::core
