// Whole-or-nothing files and directories over POSIX calls.
#include "nn/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "longstride/error.h"

namespace longstride::nn {
namespace {

namespace fs = std::filesystem;

// One write call moves at most 2^31 - 4096 bytes on Linux.
constexpr size_t kMaxTransferBytes = size_t{1} << 30;

// In the names of what is not in its place yet.
constexpr const char* kPartial = ".partial-";

std::string reason(int error) { return std::system_category().message(error); }

// A name beside `path` that nobody else uses.
fs::path beside(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  fs::path name = path;
  name.replace_filename(fmt::format(".{}{}{}-{}", path.filename().string(), kPartial, ::getpid(), counter++));
  return name;
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

OutputFile::OutputFile(fs::path path) : path_(std::move(path)), partial_(beside(path_)) {
  file_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file_ < 0) refuse_file(path_, "it cannot be created: " + reason(errno));
}

OutputFile::~OutputFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(partial_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(file_, at, std::min(bytes, kMaxTransferBytes));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) refuse_file(path_, "it cannot be written wholly: " + reason(done < 0 ? errno : ENOSPC));
    at += done;
    bytes -= static_cast<size_t>(done);
  }
}

void OutputFile::commit() {
  if (::fsync(file_) != 0 && errno != EINVAL) refuse_file(path_, "it cannot be flushed: " + reason(errno));
  const int closed = ::close(file_);
  file_ = -1;
  if (closed != 0 || ::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(partial_.c_str());
    refuse_file(path_, "it cannot be put in place: " + reason(error));
  }
  flush_folder(path_.parent_path());
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
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pread(file_, at, std::min(bytes, kMaxTransferBytes), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) refuse_file(path_, "it cannot be read: " + reason(errno));
    if (done == 0) refuse_file(path_, "it is truncated");
    at += done;
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<size_t>(done);
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

}  // namespace longstride::nn
