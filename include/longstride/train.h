// Training a byte-level LongNetLM on files of text, as `longstride train` does it: checkpoints that a run goes on from
// bit for bit, held-out scoring, a learning rate by the share of the budget that is spent, a log. Nothing is printed;
// an observer is told.
//
//   longstride::TrainSettings settings;
//   settings.data = {"src"};
//   settings.steps = 100;
//   longstride::TrainObserver observer;
//   observer.on_step = [](const longstride::TrainStep& step) { std::cout << step.step << ' ' << step.loss << '\n'; };
//   longstride::train_language_model(settings, {.run = "runs/src"}, observer);
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "longstride/nn/longnet_lm.h"
#include "longstride/parallel.h"

namespace longstride {

// What defines a run: the text, the model, and how it is trained. Saved with every checkpoint; a resumed run takes them
// from there.
struct TrainSettings {
  // The text: files, and folders read to any depth.
  std::vector<std::string> data;
  std::vector<std::string> ext;       // only files ending so; empty: all text files
  std::vector<std::string> held_out;  // files and folders to hold out, in place of a share
  double held_out_share = 0.05;       // of the files
  // Over bytes: vocab is 256. By default segments 1024, 4096, 16384, 65536 at rates 1, 4, 16, 64.
  LongNetLMConfig model;
  // The training.
  int64_t context = 16384;  // bytes a sample
  // The first steps' context, which doubles up to `context` over the first three quarters of the budget. 0, or no
  // less than `context`: always `context`.
  int64_t context_from = 0;
  int64_t batch = 1;  // samples a forward
  // While the context is short a forward takes as many samples more as make up so many bytes, so that it has enough to
  // compute. 0: always `batch`.
  int64_t step_bytes = 0;
  int64_t accumulate = 1;  // forwards a step
  int64_t steps = 0;       // the budget: one of these two is > 0
  double minutes = 0.0;
  double lr = 3e-3;        // peak, of AdamW
  double warmup = 0.05;    // share of the budget in which the rate climbs
  double lr_floor = 0.05;  // where the cosine ends, as a share of lr
  double weight_decay = 0.1;
  double beta2 = 0.98;
  double clip = 1.0;               // of the gradient's norm; 0: none
  std::string precision = "fp32";  // or "bf16": autocast
  uint64_t seed = 1;               // of the weights, the order of the text and dropout

  TrainSettings();
  int64_t bytes_per_step() const { return context * batch * accumulate; }  // once the context is whole
  void validate() const;  // throws Error, which names the option of `longstride train`
  // The options of `longstride train` by name (lr_floor for --lr-floor), the model's among them; fields of the model
  // that have no option are in an object "model". Bytes that are no UTF-8 are written as `longstride --help` says.
  std::string to_json() const;
  // What is not given is as in `base`. A budget takes the place of the other one, segments and rates that of a pattern
  // and of blocks; other heads or positions leave ALiBi's slopes to the paper's rule. Throws Error for an unknown name
  // or a value of a wrong kind; nothing is validated.
  static TrainSettings from_json(std::string_view text, const TrainSettings& base = {});
};

// The processes that share a run. Each calls train_language_model with the same settings and sitting; a step is that of
// one process within rounding, its samples shared out. The first rank alone writes, checkpoints and the log; all read
// the text, and a checkpoint that they go on from. Groups of c10d that take tensors of the CPU, and of the device.
struct TrainRanks {
  RankGroup world;  // all of them; empty: this process alone
  // Ranks 0 to c - 1 of `world`, c to 2 c - 1 and so on, this one among them: each has a part of the same sequences.
  // Empty: every rank has whole sequences.
  RankGroup context;
  // Where a rank that fails leaves word for the others, whose errors then name it; may be empty.
  c10::intrusive_ptr<c10d::Store> store;
};

// What holds for one sitting of a run and is not saved with it.
struct TrainSitting {
  std::string run;             // folder of the run's checkpoints
  std::string from;            // a run or checkpoint to go on from, `run` or another; "": it is a new run
  std::string changes = "{}";  // resume: settings that change, as JSON; of those only steps, minutes and data may
  int64_t threads = 0;         // 0: those of the checkpoint when resuming, else LibTorch's choice
  int64_t eval_every = 0;      // steps; 0: at each tenth of the budget
  int64_t eval_windows = 4;    // held-out windows of `context` bytes; 0: no evaluation
  int64_t save_every = 0;      // steps; 0: every five minutes
  int64_t keep = 2;            // checkpoints
  int64_t stop_after = 0;      // steps of this sitting; 0: no such limit
  std::string log;             // JSON lines; "": none
  // "cpu", "cuda" (the first GPU) or "cuda:1": where the model, its gradients and AdamW's moments lie. Checkpoints do
  // not say.
  std::string device = "cpu";
  TrainRanks ranks;

  bool resumed() const { return !from.empty(); }
};

struct TrainStart {
  int64_t step = 0;      // done before, of a run that goes on
  double seconds = 0.0;  // of training before
  int64_t parameters = 0;
  int64_t context = 0, context_from = 0, bytes_per_step = 0;  // context_from: of the first step of a new run
  int64_t budget_steps = 0;                                   // the budget: one of the two is 0
  double budget_minutes = 0.0;
  int64_t train_bytes = 0, train_files = 0, held_out_bytes = 0, held_out_files = 0;
  int64_t eval_windows = 0;  // 0 though some were asked for: the held-out text is shorter than the context
  int64_t threads = 0;
  int64_t threads_before = 0;  // of the run that goes on, bit for bit if they are the same; 0: it is a new run
  std::string machine;         // one line: threads, processor, LibTorch, precision, engine
  int64_t ranks = 1;
  int64_t context_parallel = 1;  // ranks of each sequence
};

struct TrainStep {
  int64_t step = 0;
  int64_t context = 0;     // bytes a sample of this step
  double loss = 0.0;       // in nats
  double mean_loss = 0.0;  // moving mean
  double learning_rate = 0.0;
  double gradient_norm = 0.0;
  double step_seconds = 0.0;       // moving mean
  double seconds = 0.0;            // of training so far, all sittings
  double share = 0.0;              // of the budget
  std::optional<double> held_out;  // bits per byte, when last evaluated
};

struct TrainEvaluation {
  int64_t step = 0;
  double seconds = 0.0;
  double held_out = 0.0;           // bits per byte
  std::optional<double> training;  // bits per byte, moving mean
};

// All of them may be empty. What they throw ends the run as any failure does: the checkpoints from before stay. Every
// rank's observer is told.
struct TrainObserver {
  std::function<bool()> should_stop;  // asked between forwards; true, on any rank: save what is done and stop
  std::function<void(const TrainStart&)> on_start;
  std::function<void(const TrainStep&)> on_step;
  std::function<void(const TrainEvaluation&)> on_evaluation;
  std::function<void(const std::string& checkpoint)> on_save;
  std::function<void(const std::string& words)> on_note;  // what went wrong and does not end the run
};

struct TrainSummary {
  std::string status;  // "finished", "paused" (stop_after) or "interrupted" (should_stop)
  int64_t steps = 0;
  int64_t steps_this_sitting = 0;
  double seconds = 0.0;                             // of training, all sittings
  double loss = 0.0;                                // of the last step, in nats; NaN: none was done
  std::optional<double> held_out_before, held_out;  // bits per byte, before the first step and last
  double bytes_per_second = 0.0;                    // in steps alone
  int64_t threads = 0;
  std::string checkpoint;
  int64_t log_lines_dropped = 0;
  int64_t peak_device_bytes = 0;  // the most that tensors on the GPU took; 0: on the CPU
};

// Trains until the budget is spent, stop_after or should_stop. Throws Error for bad input before anything is written,
// std::runtime_error for failures while running (a disk that is full, a loss that is not finite), on all ranks;
// CommError where another rank has ended or is late.
TrainSummary train_language_model(const TrainSettings& settings, const TrainSitting& sitting,
                                  const TrainObserver& observer = {});

}  // namespace longstride
