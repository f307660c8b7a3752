// Folders and links of a run: what is written whole, which is the newest, and which are removed.
#include "train/checkpoint_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/files.h"
#include "core/json.h"
#include "core/text_stream.h"
#include "longstride/error.h"
#include "train/corpus.h"

namespace longstride::train {
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

bool is_checkpoint(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / kModelConfig, error);
}

// Whether something stands at `latest` of `run`, whatever it is.
bool has_latest(const fs::path& run) {
  std::error_code error;
  return fs::exists(fs::symlink_status(run / kLatest, error));
}

// The checkpoint of `run` with the highest step; empty: there is none.
fs::path newest_step(const fs::path& run) {
  std::error_code error;
  fs::path newest;
  for (fs::directory_iterator entry(run, error), end; entry != end; entry.increment(error)) {
    const int64_t step = step_of(entry->path().filename().string());
    if (step >= 0 && is_checkpoint(entry->path()) && (newest.empty() || step > step_of(newest.filename().string()))) {
      newest = entry->path();
    }
  }
  return newest;
}

// The checkpoint that `latest` of `run` names. A copy of a run may hold a folder in place of the link (cp -rL), which
// is a checkpoint like any other, or nothing (copies without links): the newest one then. Empty: there is none. Throws
// Error if what stands at `latest` leads to no checkpoint.
fs::path named_by_latest(const fs::path& run) {
  const fs::path latest = run / kLatest;
  if (!has_latest(run)) return newest_step(run);
  std::error_code error;
  const bool link = fs::is_symlink(fs::symlink_status(latest, error));
  const fs::path target = link ? fs::read_symlink(latest, error) : fs::path();
  if (is_checkpoint(latest)) return link ? run / target : latest;
  const fs::file_status end = fs::status(latest, error);
  std::string why = link ? fmt::format("is a link to '{}', which is not there", target.string()) : "is a file";
  if (fs::is_directory(end)) why = "is a folder that holds no checkpoint";
  if (link && fs::exists(end)) why = fmt::format("is a link to '{}', which is no checkpoint", target.string());
  if (error == std::errc::too_many_symbolic_link_levels) why = "is a link that leads round in a circle";
  const fs::path newest = newest_step(run);
  throw Error(fmt::format("'{}' {}; {}", latest.string(), why,
                          newest.empty() ? std::string("there is no other checkpoint in that folder")
                                         : fmt::format("move it away, and '{}' takes its place", newest.string())));
}

std::string text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// Whether two folders hold one checkpoint: state.json has the digests of all other files.
bool same_checkpoint(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const std::string state = text_of(a / kStateFile);
  return !state.empty() && state == text_of(b / kStateFile);
}

// Whether `folder`, which need not exist, is or would be a checkpoint of the run in the folder above it.
bool is_step_of_run(const fs::path& folder) {
  if (folder.filename() == kLatest) return is_checkpoint(folder);
  return step_of(folder.filename().string()) >= 0 && holds_run(folder.parent_path());
}

// `run`, the folder above the checkpoint `path`, as it was typed where that leads there.
fs::path as_typed(const fs::path& run, const fs::path& path) {
  fs::path typed = path.lexically_normal();
  if (!typed.has_filename()) typed = typed.parent_path();
  typed = typed.has_parent_path() ? typed.parent_path() : fs::path(".");
  std::error_code error;
  return fs::equivalent(typed, run, error) ? typed : run;
}

// The checkpoint that `path`, which need not exist, lies in or is; empty if it lies in none.
fs::path checkpoint_around(const fs::path& path) {
  std::error_code error;
  fs::path inner = fs::weakly_canonical(fs::absolute(path, error), error);
  while (inner.has_relative_path() && !is_step_of_run(inner)) inner = inner.parent_path();
  return inner.has_relative_path() ? inner : fs::path();
}

// Moves a folder at `latest` to where it is not in the way of the link: a checkpoint to the name of its step; one that
// stands there too is removed; anything else is kept under another name. Until the link is made the newest step is what
// readers find.
void put_aside(const fs::path& run, const fs::path& latest) {
  std::error_code error;
  fs::path place;
  try {
    place = run / checkpoint_name(verified_state(latest).at("position").at("step").get<int64_t>());
  } catch (const std::exception&) {
    // It is no whole checkpoint, whatever it is.
  }
  const bool twice = !place.empty() && same_checkpoint(latest, place);
  if (twice) {
    place = run / fmt::format(".{}.partial-copy", kLatest);
    fs::remove_all(place, error);
  }
  for (int i = 1; place.empty() || fs::exists(fs::symlink_status(place, error)); ++i) {
    place = run / fmt::format("{}.kept-{}", kLatest, i);
  }
  fs::rename(latest, place);
  if (twice) fs::remove_all(place);
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

fs::path find_checkpoint(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    const bool link = fs::is_symlink(fs::symlink_status(path, error));
    throw Error(fmt::format("no checkpoint at '{}': {}", path.string(),
                            link ? "it is a link to what is not there" : "no such folder"));
  }
  if (error) throw Error(fmt::format("no checkpoint at '{}': {}", path.string(), error.message()));
  if (!fs::is_directory(status)) {
    throw Error(fmt::format(
        "'{}' is not a checkpoint: it is a file; name the folder that 'longstride train --out' wrote", path.string()));
  }
  if (is_checkpoint(path)) return path;
  if (fs::path named = named_by_latest(path); !named.empty()) return named;
  throw Error(fmt::format("'{}' is not a checkpoint: it holds neither {} nor a link '{}' to one", path.string(),
                          kModelConfig, kLatest));
}

bool holds_run(const fs::path& path) { return has_latest(path) || !newest_step(path).empty(); }

fs::path run_to_resume(const fs::path& path) {
  find_checkpoint(path);
  fs::path run = path;
  if (is_checkpoint(path)) {
    const fs::path whole = fs::canonical(path);
    run = whole.parent_path();
    if (!is_step_of_run(whole) || !has_latest(run)) {
      throw Error(
          fmt::format("'{0}' is a checkpoint outside of a run; say where the run goes on: --resume {0} --out FOLDER",
                      path.string()));
    }
    run = as_typed(run, path);
  }
  if (const fs::path around = checkpoint_around(run); !around.empty()) {
    throw Error(fmt::format(
        "the run '{0}' lies in the checkpoint '{1}', which is removed when newer ones are saved; let it go on "
        "elsewhere: --resume {2} --out FOLDER",
        run.string(), around.string(), path.string()));
  }
  if (!is_checkpoint(path)) return run;
  if (const fs::path newest = named_by_latest(run); !same_checkpoint(newest, path)) {
    throw Error(fmt::format(
        "'{0}' is not the newest checkpoint of its run, which is '{1}'; go on from that one by --resume {2}, or branch "
        "off from here by --resume {0} --out ANOTHER_FOLDER",
        path.string(), newest.string(), run.string()));
  }
  return run;
}

void check_outside_checkpoints(const char* argument, const fs::path& path) {
  const fs::path around = checkpoint_around(path);
  if (around.empty()) return;
  throw Error(fmt::format(
      "{}: '{}' lies in the checkpoint '{}', which is removed when newer ones are saved; name another place", argument,
      path.string(), around.string()));
}

void check_new_run(const fs::path& run) {
  if (holds_run(run)) {
    throw Error(fmt::format(
        "'{0}' already holds a run; go on with it by --resume {0}, or name another folder with --out", run.string()));
  }
  if (is_checkpoint(run)) {
    throw Error(fmt::format("--out: '{}' is a checkpoint itself, for it holds {}; name another folder", run.string(),
                            kModelConfig));
  }
  check_outside_checkpoints("--out", run);
}

void point_latest(const fs::path& run, const std::string& name) {
  std::error_code error;
  const fs::path latest = run / kLatest;
  if (fs::is_directory(fs::symlink_status(latest, error))) put_aside(run, latest);
  core::replace_link(latest, name);
}

void remove_old_checkpoints(const fs::path& run, int64_t keep) {
  std::error_code error;
  const std::string latest = fs::read_symlink(run / kLatest, error).string();
  std::vector<std::string> names;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(run)) {
    const std::string name = entry.path().filename().string();
    if (core::left_half_done(name, kStepPrefix) || core::left_half_done(name, kLatest)) {
      leftovers.push_back(entry.path());
    } else if (entry.is_directory(error) && !entry.is_symlink(error) && step_of(name) >= 0) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end(), [](const auto& a, const auto& b) { return step_of(a) > step_of(b); });
  for (size_t i = 0; i < names.size(); ++i) {
    // A run that lies in a checkpoint, where an earlier version of the program put it, is not thrown away with it.
    if (static_cast<int64_t>(i) >= keep && names[i] != latest && !holds_run(run / names[i])) {
      fs::remove_all(run / names[i], error);
    }
  }
  for (const fs::path& leftover : leftovers) fs::remove_all(leftover, error);
}

core::Json digests(const fs::path& folder) {
  core::Json files = core::Json::object();
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == kStateFile || !entry.is_regular_file()) continue;
    files[name] = {{"bytes", entry.file_size()}, {"fnv1a", digest_of(entry.path())}};
  }
  return files;
}

core::Json verified_state(const fs::path& checkpoint) {
  const auto corrupt = [&](const std::string& why) {
    throw Error(fmt::format("the checkpoint '{}' is corrupt: {}", checkpoint.string(), why));
  };
  if (!fs::exists(checkpoint / kStateFile)) {
    throw Error(fmt::format("the checkpoint '{}' has no {}", checkpoint.string(), kStateFile));
  }
  core::Json state;
  try {
    state = core::with_bytes(core::read_json("state", checkpoint / kStateFile));
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

}  // namespace longstride::train
