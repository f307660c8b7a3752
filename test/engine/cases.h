// Cases for every engine and for the op: options chosen from a table of factors, tensors, and what the oracle says of
// them. Torch-free. Called by the tests of src/engine and of src/op.
//
//   for_each_case(2000, Poison::kUnread, [](const Case& c) { EXPECT_EQ("", check(c)) << c.words(); });
//
// Arrays are dense, row-major and double, already rounded to the case's dtype: q, d_out [batch, len_q, heads, dim];
// k, v [batch, len_k, kv_heads, dim]; d_lse [batch, heads, len_q]. What no pair may read is NaN (see Poison).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "oracle/attention.h"

namespace longstride::test {

// One value per factor, an index into that factor's levels.
enum Factor {
  kRule,       // modulo, block, group, explicit table
  kMixing,     // joint, head_partition, head_partition with average
  kPadding,    // masked, zero_keys
  kCausal,     // no, yes
  kDocuments,  // none, cu_seqlens, lengths
  kStart,      // query_start unset, in the middle
  kDropoutP,   // 0, 0.3
  kHeads,      // heads / kv_heads: 4/4, 1/1, 6/3, 5/5, 8/4, 3/1
  kGroups,  // nested, one group w >= len r = 1, not nesting, r > w, five groups, one small group, drawn from the seed
  kDLse,    // no gradient through lse, one
  kScale,   // default, 0, -0.7
  kLayout,  // contiguous, padded rows, heads outermost
  kDType,   // float64, float32, bfloat16, float16
  kDim,     // 8, 1, 3, 16, 20, 33
  kLength,  // 61, 0, 1, tile - 1, tile, tile + 1, 139, drawn from the seed
  kTile,    // tile_rows 8, 4, 16, 128
  kBlocks,  // no block pattern, one alone (no groups), one beside the groups, two of different block sizes alone
  kWindow,  // no sliding window, one beside what there is, one with sinks beside it, one in place of the groups
  kAlibi,   // no slopes, the usual ones of so many heads, drawn from the seed: none, below zero, steep
  kFactors
};
using Choice = std::vector<int>;  // kFactors entries

const std::vector<int>& levels_of_factors();  // how many levels each factor has

// A covering array: every pair of levels of every two factors stands in at least one choice. The same on every call.
const std::vector<Choice>& pairwise_choices();

Choice random_choice(uint64_t seed);

// What is NaN in the inputs because no pair reads it.
enum class Poison {
  kNone,
  kUnread,  // rows of k and v that no query of their head sees, of q and d_out that see nothing, and their d_lse
};

struct Case {
  Choice choice;
  uint64_t seed = 0;
  oracle::Options options;
  core::DType dtype = core::DType::kFloat64;
  bool has_d_lse = false;
  Geometry geometry;  // small tiles, so that short sequences have many
  std::vector<double> q;
  std::vector<double> k;
  std::vector<double> v;
  std::vector<double> d_out;
  std::vector<double> d_lse;  // empty if !has_d_lse

  Pattern pattern() const;
  Extent extent() const;
  double scale() const { return options.scale_used(); }
  oracle::Forward forward() const { return oracle::forward(options, q, k, v); }
  oracle::Backward backward() const { return oracle::backward(options, q, k, v, d_out, d_lse); }
  // The options in one line and how to run this case alone.
  std::string words() const;
};

// Has the last word on a case's dtype and options before its tensors are drawn: for engines that know shapes beyond the
// table of factors.
using Adjust = std::function<void(core::DType&, oracle::Options&)>;

// Factors that contradict one another are settled here: with head_partition there are at least as many KV heads as
// groups; query_start needs len_k >= 1; dropout seeds come from `seed`.
Case make_case(const Choice& choice, uint64_t seed, Poison poison = Poison::kUnread, const Adjust& adjust = {});

// Makes the heads of a case a share of more, as ranks have them that divide the heads.
inline void share_heads(oracle::Options& o) {
  o.first_head = 1 + static_cast<int64_t>(o.dropout_seed % 5);
  o.all_heads = o.first_head + o.heads + static_cast<int64_t>(o.dropout_seed % 3);
}

// x rounded to dtype.
double rounded(double x, core::DType dtype);
// Half the distance from 1 to the next number: what one rounding may do, relatively.
double roundoff(core::DType dtype);

// What this build does of `count` random cases, or of what they must have met: under a sanitizer, where the same lines
// take five to ten times as long, a fifth.
constexpr int64_t share(int64_t count) {
#ifdef LONGSTRIDE_SANITIZED
  return count / 5;
#else
  return count;
#endif
}

// Calls check(case) for the pairwise grid and for share(random_count) seeded random cases; or, with
// LONGSTRIDE_CASE=SEED:CHOICE in the environment (words() prints it), for that case alone.
void for_each_case(int64_t random_count, Poison poison, const std::function<void(const Case&)>& check,
                   const Adjust& adjust = {});

}  // namespace longstride::test
