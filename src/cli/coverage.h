// How much of a dense model's attention a pattern would keep: what its queries weigh, held against who sees whom.
// Called by compare.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "longstride/pattern.h"
#include "train/corpus.h"
#include "train/scoring.h"

namespace longstride::cli {

// Means over heads and queries.
struct Coverage {
  double mass = 0;      // of a query's weights, the sum of those that the pattern shows
  double heaviest = 0;  // of a query's heaviest weights, the share (by number) that the pattern shows
};

// weights [heads, len, len]: causal attention probabilities, row q over keys 0 to q. seen, of the same shape, bool:
// what the pattern shows, nothing above the diagonal. The heaviest of row q are its ceil(share * (q + 1)) largest, at
// least one; of equal ones any. share in (0, 1].
Coverage coverage(const at::Tensor& weights, const at::Tensor& seen, double share);

struct LayerCoverage {
  train::Mean mass, heaviest;  // over the windows
};

struct CoverageWork {
  std::vector<size_t> starts;  // of windows of len bytes
  int64_t len = 0;
  double share = 0.01;
  std::vector<Pattern> patterns;  // causal
};

// Throws Error unless the pattern of --dense sees every pair of `len` tokens.
void check_sees_all(const Pattern& dense, int64_t len, int64_t kv_heads);

// [pattern][layer] of the model in `checkpoint`, which must see everything. `on_window` is told how many
// windows are done.
std::vector<std::vector<LayerCoverage>> coverage_of_model(const std::filesystem::path& checkpoint,
                                                          const train::Text& text, const CoverageWork& work,
                                                          const std::function<void(size_t)>& on_window);

}  // namespace longstride::cli
