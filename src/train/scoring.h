// Bits per byte of a model on given windows of text. Called by train (at its own context) and eval (at many).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "longstride/nn.h"
#include "train/corpus.h"
#include "train/ranks.h"

namespace longstride::train {

struct ScoringPlan {
  std::vector<size_t> starts;  // of windows of window_bytes + 1 bytes
  int64_t window_bytes = 0;
  int64_t context = 0;       // <= window_bytes: the model reads the last `context` bytes before the window's last byte
  int64_t scored_bytes = 0;  // <= context: the last bytes of the window are what is scored, the same at every context
  bool bf16 = false;
};

// Mean bits per byte of each window, in the order of `starts`. Eval mode, no gradients; the mode is put back.
// `on_window` is told how many windows are done and may stop the scoring by returning false (the result is then
// shorter).
std::vector<double> window_bits(LongNetLM& model, const Text& text, const ScoringPlan& plan,
                                const std::function<bool(size_t)>& on_window = {});

// The same on several ranks, which share the windows out and have all of the result. `go_on` is asked in between, on
// every rank and alike; where it says no, the result is empty.
std::vector<double> window_bits(LongNetLM& model, const Text& text, const ScoringPlan& plan, const Ranks& ranks,
                                const std::function<bool()>& go_on);

struct Mean {
  double value = 0.0;
  double standard_error = 0.0;  // 0 for a single value
};
Mean mean_of(const std::vector<double>& values);

// `count` samples of `size` bytes at the given starts as int64 [count, size]; a start may wrap round the end of the
// text.
at::Tensor byte_tensor(const Text& text, const std::vector<size_t>& starts, int64_t size);

}  // namespace longstride::train
