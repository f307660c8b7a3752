// The training loop. Called by train.cc, which reads the command line. Torch-free header.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "train_settings.h"

namespace longstride::cli {

// What holds for one sitting of a run and is not saved with it.
struct Sitting {
  std::string run;           // folder of the run's checkpoints
  std::string from;          // a run or checkpoint to go on from, `run` or another; "": it is a new run
  nlohmann::json changes;    // resume: settings given on the command line, which must be ones that may change
  int64_t threads = 0;       // 0: those of the checkpoint when resuming, else LibTorch's choice
  int64_t eval_every = 0;    // steps; 0: at each tenth of the budget
  int64_t eval_windows = 4;  // held-out windows of `context` bytes; 0: no evaluation
  int64_t save_every = 0;    // steps; 0: every five minutes
  int64_t keep = 2;          // checkpoints
  int64_t stop_after = 0;    // steps of this sitting; 0: no such limit
  std::string log;           // JSON lines; "": none
  bool json = false;         // the summary as JSON on stdout
  bool quiet = false;        // no progress

  bool resumed() const { return !from.empty(); }
};

// Settings that a resumed run may change; every other one is fixed by the checkpoint.
bool may_change_on_resume(const std::string& setting);

// Trains and returns the exit code: kOk, or kInterrupted after a Ctrl-C (the run is saved then). Throws Error for bad
// input before anything is written, std::runtime_error for failures while running.
int train(const TrainSettings& settings, const Sitting& sitting);

}  // namespace longstride::cli
