// The folder of a run: one folder a checkpoint (step-00000120), and `latest`, a symbolic link that is swapped by one
// rename, so that it names a whole checkpoint at every instant. Called by the trainer and
// the commands that read a run. Torch-free.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/json.h"

namespace longstride::train {

// Files of a checkpoint besides config.json and model.safetensors, which are the model's.
inline constexpr const char* kTrainingFile = "training.safetensors";  // AdamW's moments and the generator
inline constexpr const char* kStateFile = "state.json";               // settings, position, and digests of all files

// "step-00000120"
std::string checkpoint_name(int64_t step);

// The checkpoint that `path` means: `path` itself if it holds a model, else what its `latest` names, a link or, in a
// copy that followed it, a folder; without a `latest` the newest step. Throws Error otherwise.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

// Whether `path` is a folder that holds a run (something at `latest`, or steps).
bool holds_run(const std::filesystem::path& path);

// Throws Error unless a new run can begin in the folder `run`: it holds no run and no checkpoint and lies in none.
void check_new_run(const std::filesystem::path& run);

// Throws Error, which names `argument`, if `path`, which need not exist, lies in a checkpoint of a run: what is written
// there goes when the checkpoint does.
void check_outside_checkpoints(const char* argument, const std::filesystem::path& path);

// The folder of the run that goes on when `path` is resumed: `path` itself, or the run that owns the checkpoint
// `path`. Throws Error for a checkpoint that no run owns, and for one that is not the newest of its run: what comes
// behind it would contradict the later ones.
std::filesystem::path run_to_resume(const std::filesystem::path& path);

// Makes `latest` of `run` name the folder `name` in it, and forces the link to the disk. A folder that stands at
// `latest` is moved aside; nothing is lost but a second copy of a checkpoint. Throws std::exception.
void point_latest(const std::filesystem::path& run, const std::string& name);

// Removes all checkpoints of `run` but the `keep` with the highest steps, the one that `latest` names and any that
// holds a run of its own, and what a killed save left over.
void remove_old_checkpoints(const std::filesystem::path& run, int64_t keep);

// Size and digest of each file in `folder`, but state.json itself: what verify_digests checks.
core::Json digests(const std::filesystem::path& folder);

// The checkpoint's state.json after its files were checked against it. Throws Error if it is missing, not readable, or
// any file differs from what was saved.
core::Json verified_state(const std::filesystem::path& checkpoint);

}  // namespace longstride::train
