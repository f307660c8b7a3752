// What the kernels of this folder share: the sizes of a rank's tensors, and its engine as src/parallel calls it.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "op/parallel/rank_call.h"

namespace longstride::op {

// [rows of all messages, 2 * dim], yet to be written.
Tensor empty_message(const RankCall&, const std::vector<parallel::Message>&, ScalarType);
// [batch, rows, heads, dim], [batch, rows, kv_heads, dim] and [batch, heads, rows] of the shard.
std::array<int64_t, 4> sizes_of_out(const engine::Problem&);
std::array<int64_t, 4> sizes_of_shard_keys(const engine::Problem&);
std::array<int64_t, 3> sizes_of_lse(const engine::Problem&);
// [batch * kv_heads, keys, 2, dim]
std::array<int64_t, 4> sizes_of_keys(const RankCall&);
// [batch, heads, queries, dim]
std::array<int64_t, 4> sizes_of_queries(const RankCall&);

// Refuse tensors that are not as the kernel before gave them, or the exchange.
void check_contiguous(std::string_view name, const Tensor&, const RankCall&, std::span<const int64_t> sizes,
                      ScalarType);
void check_message(std::string_view name, const Tensor&, const RankCall&, const std::vector<parallel::Message>&,
                   ScalarType);
void check_results(const Tensor& out, const Tensor& lse, const RankCall&);
// Of the backward, in any strides.
void check_like_results(const RankCall&, const Tensor& d_out, const std::optional<Tensor>& d_lse, const Tensor& out,
                        const Tensor& lse);

// They remember which engine ran.
parallel::ForwardEngine forward_engine(const RankCall&);
parallel::BackwardEngine backward_engine(const RankCall&);

// The plans of a backward, kept while it runs.
struct HeldPlans {
  explicit HeldPlans(const RankCall&);
  std::shared_ptr<const parallel::RankPlans> transposed, forward;
  parallel::BackwardPlans plans() const { return {*transposed, forward.get()}; }
};

}  // namespace longstride::op
