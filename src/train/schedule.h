// The learning rate and the context as functions of progress, and progress as a function of the budget. Called by
// train. Torch-free.
#pragma once

#include <cstdint>
#include <optional>

namespace longstride::train {

// How long a run lasts: exactly one of the two is set.
struct Budget {
  std::optional<int64_t> steps;
  std::optional<double>
      minutes;  // of training time, saving and evaluation included, summed over all sittings of the run
};

// The share of the budget that is spent when `steps_done` steps took `seconds` so far, in [0, 1].
double progress(const Budget& budget, int64_t steps_done, double seconds);

struct Schedule {
  double peak = 3e-3;
  double warmup_share = 0.05;  // of the run, in [0, 1): the rate climbs linearly from peak / 50
  double floor_share = 0.05;   // of the peak, in [0, 1]: where the cosine ends
};

// The rate of the step that begins at `progress`.
double learning_rate(const Schedule& schedule, double progress);

// The context of the step that begins at `progress`: `from`, twice that and so on, each for an equal share of the first
// three quarters of the run, and `whole` in the last. from = 0 or from >= whole: always `whole`.
int64_t context_at(int64_t from, int64_t whole, double progress);

// Samples of a forward: `batch`, or as many as make up `bytes` where that is more.
int64_t samples_at(int64_t context, int64_t batch, int64_t bytes);

}  // namespace longstride::train
