// A sequence that lies with several ranks, as the modules see it: how long it is, where this rank's rows stand in it,
// and its attention. Called by the modules, where place() has set it.
#pragma once

#include <functional>

#include "longstride/nn/attention.h"
#include "longstride/parallel.h"

namespace longstride::nn {

inline constexpr const char* kOverRanks = "where the sequence lies with several ranks";

struct Placement {
  RankGroup group;  // of several ranks
  std::string layout;

  // Throws Error if an attention cannot run over several ranks.
  static void check(const DilatedAttentionImpl&);
  static void set(DilatedAttentionImpl&, std::shared_ptr<const Placement>);  // null: with this process

  // Where this rank's rows stand in the sequence, int64 [rows]. Throws Error unless they are those of its shard.
  at::Tensor positions(const char* argument, int64_t rows, const CallOptions&) const;
  // attention() over the shards. Throws Error, also for options that several ranks have not.
  AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern&,
                            const AttentionOptions&) const;
  // Throws Error unless ranks divide the heads of a scorer that learns, which its gates take.
  void check_learning(const BlockScorerImpl&) const;
  // Of all ranks' numbers; an Error that one rank's throws is thrown on all.
  int64_t sum(const char* what, const std::function<int64_t()>& number) const;
};

// Tokens of a whole sequence of which this process has `rows`: its own, or those of a shard. Throws Error.
int64_t whole_length(const Placement* at, const char* argument, int64_t rows, const CallOptions&);

// Factors of the rows of a call, the first of which stands at position0 if all is with this process; else position0 is
// that of the sequence's first row.
RotaryFactors row_factors(const MultiheadDilatedAttentionOptions&, const Placement* at, const CallOptions&,
                          int64_t position0, int64_t rows, at::ScalarType dtype, at::Device device);

// Throws Error: with several ranks there is no decoding.
void refuse_decoding(const Placement* at);

}  // namespace longstride::nn
