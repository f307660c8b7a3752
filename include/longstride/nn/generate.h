// Text generation with LongNetLM: sampling and the loop around LongNetLM::decode.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "longstride/nn/longnet_lm.h"

namespace longstride {

struct GenerateOptions {
  int64_t max_tokens = 256;           // tokens to generate, >= 1
  double temperature = 1.0;           // 0: greedy (the largest logit; the smallest token among equals)
  int64_t top_k = 0;                  // sample among the k likeliest; 0: all
  double top_p = 1.0;                 // sample among the likeliest that reach this mass, in (0, 1]
  std::optional<uint64_t> seed;       // of sampling; unset: drawn from torch's generator
  std::optional<int64_t> stop_token;  // a row ends behind it
  int64_t prefill_tokens = 8192;      // the prompt is read in chunks of this many tokens, which bounds memory
  void validate() const;              // throws Error
};

// Called with one token per batch row behind every step; false ends generation.
using OnTokens = std::function<bool(const std::vector<int64_t>&)>;

// prompt [batch, len >= 1] int64 -> generated tokens [batch, n <= max_tokens], int64 on the CPU. Rows that met
// stop_token are filled with it. The model must be in eval mode; len + max_tokens may not exceed its max_len. The same
// seed gives the same tokens, and the same that recomputing every step from scratch gives.
at::Tensor generate(LongNetLM& model, const at::Tensor& prompt, const GenerateOptions& options = {},
                    const OnTokens& on_tokens = {});

// One token from logits [vocab], given a uniform number in [0, 1): what generate() does at every step.
int64_t sample_token(const at::Tensor& logits, const GenerateOptions& options, double uniform);

}  // namespace longstride
