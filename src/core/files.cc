// Whole-or-nothing files and directories, and whole files read, over POSIX calls: streams say neither that a file is a
// folder nor why they fail.
#include "core/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <stdexcept>
#include <system_error>

#include "longstride/error.h"

namespace longstride::core {
namespace {

namespace fs = std::filesystem;

// One write call moves at most 2^31 - 4096 bytes on Linux.
constexpr size_t kMaxTransferBytes = size_t{1} << 30;

constexpr int kMostLinks = 40;  // as the kernel follows

// In the names of what is not in its place yet.
constexpr const char* kPartial = ".partial-";

std::string reason(int error) { return std::system_category().message(error); }

[[noreturn]] void refuse_input(const std::string& argument, const std::string& path, int error) {
  const std::string named = argument.empty() ? "" : fmt::format(" ({})", argument);
  if (error == ENOENT || path.empty()) throw Error(fmt::format("no such file: '{}'{}", path, named));
  if (error == EISDIR) throw Error(fmt::format("'{}'{} is a folder; name a file", path, named));
  throw Error(fmt::format("cannot read '{}'{}: {}", path, named, reason(error)));
}

// A name beside `path` that nobody else uses.
fs::path beside(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  // Of a long name the beginning: the whole must be one that a file system takes.
  const std::string own = path.filename().string().substr(0, 200);
  return path.parent_path() / fmt::format(".{}{}{}-{}", own, kPartial, ::getpid(), counter++);
}

// Where a write to `path` ends, links followed, those among them that lead to no file yet.
fs::path end_of_links(fs::path path) {
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(fs::symlink_status(path, error)); ++i) {
    const fs::path target = fs::read_symlink(path, error);
    if (error) break;
    path = target.is_absolute() ? target : path.parent_path() / target;
  }
  return path;
}

void flush_folder(const fs::path& folder) {
  const int file = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  const int error = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  // A file system that cannot flush a folder says so; there is nothing to undo then. A disk that fails is told.
  if (error == EIO || error == ENOSPC || error == EDQUOT) {
    refuse_file(folder, "it cannot be flushed: " + reason(error));
  }
}

}  // namespace

void refuse_file(const fs::path& path, const std::string& why) {
  throw Error(fmt::format("cannot use {}: {}", path.string(), why));
}

WriteTarget write_target(const fs::path& given) {
  WriteTarget target{given};
  struct stat found = {};
  if (::stat(given.c_str(), &found) != 0) target.missing = errno;
  target.mode = target.missing == 0 ? found.st_mode : 0;
  target.device = target.missing == 0 && !S_ISREG(target.mode) && !S_ISDIR(target.mode);
  // Links to devices stay: those in /proc/self/fd, where /dev/stdout leads, name what is no path.
  if (!target.device) target.path = end_of_links(given);
  return target;
}

OutputFile::OutputFile(fs::path path) : path_(std::move(path)), target_(write_target(path_)) {
  if (!target_.device) partial_ = beside(target_.path);
  const bool replaces = target_.missing == 0;  // it may be its owner's alone
  file_ = target_.device ? ::open(path_.c_str(), O_WRONLY | O_CLOEXEC)
                         : ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, replaces ? 0600 : 0666);
  if (file_ < 0) refuse_file(path_, "it cannot be created: " + reason(errno));
}

OutputFile::~OutputFile() {
  if (file_ < 0) return;
  ::close(file_);
  if (!target_.device) ::unlink(partial_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  std::string_view left(static_cast<const char*>(data), bytes);
  if (const int error = write_all(file_, left)) refuse_file(path_, "it cannot be written wholly: " + reason(error));
}

void OutputFile::commit() {
  if (!target_.device) {
    if (target_.missing == 0 && ::fchmod(file_, target_.mode & 07777) != 0) {
      refuse_file(path_, "it cannot get the mode of what it replaces: " + reason(errno));
    }
    if (::fsync(file_) != 0 && errno != EINVAL) refuse_file(path_, "it cannot be flushed: " + reason(errno));
  }
  int error = ::close(file_) == 0 ? 0 : errno;
  file_ = -1;
  if (target_.device) {
    if (error != 0) refuse_file(path_, "it cannot be written wholly: " + reason(error));
    return;
  }
  if (error == 0 && ::rename(partial_.c_str(), target_.path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(partial_.c_str());
    refuse_file(path_, "it cannot be put in place: " + reason(error));
  }
  flush_folder(target_.path.parent_path());
}

void write_file(const fs::path& path, std::string_view bytes) try {
  OutputFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
} catch (const Error& error) {
  throw std::runtime_error(error.what());
}

int write_all(int file, std::string_view& left) {
  while (!left.empty()) {
    const ssize_t done = ::write(file, left.data(), std::min(left.size(), kMaxTransferBytes));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? errno : ENOSPC;
    left.remove_prefix(done);
  }
  return 0;
}

std::pair<std::string, int> read_rest(int file) {
  std::string bytes;
  char chunk[1 << 16];
  for (;;) {
    const ssize_t got = ::read(file, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return {std::move(bytes), got < 0 ? errno : 0};
    bytes.append(chunk, got);
  }
}

std::string read_input(const std::string& argument, const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse_input(argument, path, errno);
  auto [bytes, error] = read_rest(file);
  ::close(file);
  if (error != 0) refuse_input(argument, path, error);
  return std::move(bytes);
}

std::string read_standard_input(const std::string& argument) {
  auto [bytes, error] = read_rest(STDIN_FILENO);
  if (error != 0) throw Error(fmt::format("cannot read standard input ({} -): {}", argument, reason(error)));
  return std::move(bytes);
}

InputFile::InputFile(fs::path path) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_ < 0) refuse_file(path_, reason(errno));
  struct stat status = {};
  if (::fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file_);
    refuse_file(path_, "it is not a regular file");
  }
  bytes_ = static_cast<uint64_t>(status.st_size);
}

InputFile::~InputFile() { ::close(file_); }

void InputFile::read(uint64_t offset, void* data, size_t bytes) const {
  char* place = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pread(file_, place, std::min(bytes, kMaxTransferBytes), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) refuse_file(path_, "it cannot be read: " + reason(errno));
    if (done == 0) refuse_file(path_, "it is truncated");
    place += done;
    offset += static_cast<uint64_t>(done);
    bytes -= done;
  }
}

void replace_directory(const fs::path& given, const std::function<void(const fs::path&)>& fill) {
  std::error_code error;
  // Through a link to what it names, and without a trailing separator.
  fs::path target = fs::weakly_canonical(given, error);
  if (error) refuse_file(given, error.message());
  if (!target.has_filename()) target = target.parent_path();
  const bool replaces = fs::exists(target, error);
  if (replaces && !fs::is_directory(target, error)) refuse_file(given, "it is not a directory");
  fs::create_directories(target.parent_path(), error);
  if (error) refuse_file(given, error.message());
  const fs::path staging = beside(target);
  if (!fs::create_directory(staging, error)) refuse_file(given, "it cannot be created: " + error.message());
  try {
    fill(staging);
    flush_folder(staging);
    if (!replaces) {
      if (::rename(staging.c_str(), target.c_str()) != 0) refuse_file(given, reason(errno));
    } else if (::renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
      if (errno != EINVAL && errno != ENOSYS) refuse_file(given, reason(errno));
      // This file system cannot exchange: two renames, and the old one back if the second fails.
      const fs::path old = beside(target);
      if (::rename(target.c_str(), old.c_str()) != 0) refuse_file(given, reason(errno));
      if (::rename(staging.c_str(), target.c_str()) != 0) {
        const int why = errno;
        (void)::rename(old.c_str(), target.c_str());
        refuse_file(given, reason(why));
      }
      fs::remove_all(old, error);
    }
  } catch (...) {
    fs::remove_all(staging, error);
    throw;
  }
  flush_folder(target.parent_path());
  fs::remove_all(staging, error);
}

void replace_link(const fs::path& link, const fs::path& target) {
  const fs::path next = beside(link);
  if (::symlink(target.c_str(), next.c_str()) != 0) refuse_file(link, "it cannot be linked: " + reason(errno));
  if (::rename(next.c_str(), link.c_str()) != 0) {
    const int error = errno;
    ::unlink(next.c_str());
    refuse_file(link, "it cannot be put in place: " + reason(error));
  }
  flush_folder(link.parent_path());
}

bool left_half_done(const std::string& name, const std::string& of) {
  return name.rfind("." + of, 0) == 0 && name.find(kPartial, of.size()) != std::string::npos;
}

}  // namespace longstride::core
