// Folders and links of a run: see checkpoint_store.h.
#include "checkpoint_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "core/json.h"
#include "core/printable.h"
#include "corpus.h"
#include "json_text.h"
#include "longstride/error.h"

namespace longstride::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLatest = "latest";
constexpr const char* kStepPrefix = "step-";
constexpr const char* kModelConfig = "config.json";

std::string digest_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::vector<char> chunk(1 << 20);
  uint64_t hash = kHashStart;
  while (in.read(chunk.data(), static_cast<std::streamsize>(chunk.size())), in.gcount() > 0) {
    hash = hash_bytes(chunk.data(), static_cast<size_t>(in.gcount()), hash);
  }
  return fmt::format("{:016x}", hash);
}

// The step in a checkpoint's name, or -1.
int64_t step_of(const std::string& name) {
  if (name.rfind(kStepPrefix, 0) != 0) return -1;
  const std::string digits = name.substr(std::strlen(kStepPrefix));
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::stoll(digits);
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

fs::path find_checkpoint(const fs::path& path) {
  if (!fs::exists(path)) throw Error(fmt::format("no checkpoint at '{}': no such folder", path.string()));
  if (!fs::is_directory(path)) {
    throw Error(fmt::format(
        "'{}' is not a checkpoint: it is a file; name the folder that 'longstride train --out' wrote", path.string()));
  }
  if (fs::exists(path / kModelConfig)) return path;
  if (fs::exists(path / kLatest / kModelConfig)) return path / fs::read_symlink(path / kLatest);
  throw Error(fmt::format("'{}' is not a checkpoint: it holds neither {} nor a link '{}' to one", path.string(),
                          kModelConfig, kLatest));
}

bool holds_run(const fs::path& path) { return fs::is_symlink(path / kLatest); }

void sync_to_disk(const fs::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = file >= 0 && fsync(file) == 0;
  const int reason = errno;
  if (file >= 0) close(file);
  if (!synced)
    throw std::runtime_error(fmt::format("cannot write '{}' to the disk: {}", path.string(), std::strerror(reason)));
}

void point_latest(const fs::path& run, const std::string& name) {
  const fs::path beside = run / fmt::format("{}.next", kLatest);
  std::error_code error;
  fs::remove(beside, error);
  fs::create_directory_symlink(name, beside, error);
  if (!error) fs::rename(beside, run / kLatest, error);
  if (error)
    throw std::runtime_error(fmt::format("cannot set the link '{}': {}", (run / kLatest).string(), error.message()));
  sync_to_disk(run);
}

void remove_old_checkpoints(const fs::path& run, int64_t keep) {
  std::error_code error;
  const std::string latest = fs::read_symlink(run / kLatest, error).string();
  std::vector<std::string> names;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(run)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || entry.is_symlink()) continue;
    if (step_of(name) >= 0) {
      names.push_back(name);
    } else if (name.find(kStepPrefix) != std::string::npos && name.find("step-") <= 1) {
      leftovers.push_back(entry.path());  // "step-00000120.<something>" or ".step-...": a save that was killed
    }
  }
  std::sort(names.begin(), names.end(), [](const auto& a, const auto& b) { return step_of(a) > step_of(b); });
  for (size_t i = 0; i < names.size(); ++i) {
    if (static_cast<int64_t>(i) >= keep && names[i] != latest) fs::remove_all(run / names[i], error);
  }
  for (const fs::path& leftover : leftovers) fs::remove_all(leftover, error);
}

nlohmann::json digests(const fs::path& folder) {
  nlohmann::json files = nlohmann::json::object();
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == kStateFile || !entry.is_regular_file()) continue;
    files[name] = {{"bytes", entry.file_size()}, {"fnv1a", digest_of(entry.path())}};
  }
  return files;
}

nlohmann::json verified_state(const fs::path& checkpoint) {
  const auto corrupt = [&](const std::string& why) {
    throw Error(fmt::format("the checkpoint '{}' is corrupt: {}", checkpoint.string(), why));
  };
  if (!fs::exists(checkpoint / kStateFile)) {
    throw Error(fmt::format("the checkpoint '{}' has no {}", checkpoint.string(), kStateFile));
  }
  nlohmann::json state;
  try {
    state = with_bytes(core::read_json("state", checkpoint / kStateFile));
  } catch (const Error& error) {
    corrupt(fmt::format("{} is not readable: {}", kStateFile, error.what()));
  }
  if (!state.is_object() || !state.contains("files") || !state["files"].is_object() || !state.contains("settings")) {
    corrupt(fmt::format("{} lacks its files or its settings", kStateFile));
  }
  for (const auto& [name, saved] : state["files"].items()) {
    const bool complete = saved.is_object() && saved.contains("bytes") && saved["bytes"].is_number_unsigned() &&
                          saved.contains("fnv1a") && saved["fnv1a"].is_string();
    const std::string file_name = core::printable(name);
    if (!complete) corrupt(fmt::format("{} describes {} incompletely", kStateFile, file_name));
    // Only names: a path could lead anywhere.
    if (fs::path(name).filename() != name) corrupt(fmt::format("{} names a file {}", kStateFile, file_name));
    const fs::path file = checkpoint / name;
    std::error_code error;  // of a name that no file can have, too
    const uint64_t found = fs::file_size(file, error);
    if (error) corrupt(fmt::format("{} is missing: {}", file_name, error.message()));
    const uint64_t bytes = saved["bytes"].get<uint64_t>();
    if (found != bytes) corrupt(fmt::format("{} has {} bytes, {} were saved", file_name, found, bytes));
    if (digest_of(file) != saved["fnv1a"].get<std::string>()) {
      corrupt(fmt::format("{} is not as it was saved", file_name));
    }
  }
  return state;
}

}  // namespace longstride::cli
