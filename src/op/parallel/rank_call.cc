// Arguments of an operator of a rank become shards, a problem of their rows, and plans from the cache.
#include "op/parallel/rank_call.h"

#include <fmt/format.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>

#include "core/refuse.h"
#include "op/checks.h"
#include "op/device_list.h"
#include "op/parallel/cuda/device_moves.h"
#include "op/problem.h"
#include "op/refs.h"
#include "parallel/host_moves.h"

namespace longstride::op {
namespace {

using core::refuse;

void check_rank(const ShardArguments& given) {
  if (given.ranks < 1 || given.ranks > parallel::Shards::kMostRanks)
    refuse("ranks", fmt::format("must be in [1, {}]", parallel::Shards::kMostRanks), given.ranks);
  if (given.rank < 0 || given.rank >= given.ranks)
    refuse("rank", fmt::format("must be in [0, {})", given.ranks), given.rank);
  if (given.heads_among < 1 || given.ranks % given.heads_among != 0)
    refuse("heads_among", fmt::format("must divide the {} ranks", given.ranks), given.heads_among);
}

// Views that have all heads where tensors have a share of them, as patterns know heads by their number among all. The
// tensors' own memory is checked before: of these no more than the share may be read.
struct AllHeads {
  AllHeads(const Views<int64_t>& of_share, int64_t among) : views(of_share) {
    if (among == 1) return;
    const std::array<const char*, 3> names = {"q", "k", "v"};
    const std::array<ArrayView<int64_t>*, 3> all = {&views.q, &views.k, &views.v};
    for (size_t n = 0; n < 3; ++n) {
      ArrayView<int64_t>& t = *all[n];
      check_handed_in(names[n], t);
      if (t.dim() != 4) continue;
      sizes[n] = {t.sizes[0], t.sizes[1], t.sizes[2] * among, t.sizes[3]};
      strides[n] = {t.strides[0], t.strides[1], 0, t.strides[3]};
      t.sizes = sizes[n];
      t.strides = strides[n];
    }
  }
  AllHeads(const AllHeads&) = delete;
  AllHeads& operator=(const AllHeads&) = delete;

  Views<int64_t> views;
  std::array<std::array<int64_t, 4>, 3> sizes, strides;
};

}  // namespace

std::vector<int64_t> boundaries_of(const Tensor& boundaries) {
  const ArrayView<int64_t> t = Access<Tensor>::view(boundaries);
  check_handed_in("boundaries", t);
  if (t.dim() != 1 || (t.dtype != ScalarType::Int && t.dtype != ScalarType::Long))
    refuse("boundaries", "must be an int32 or int64 tensor of one dimension", checks::dtype_and_shape(t));
  return Access<Tensor>::numbers(boundaries);
}

parallel::Shards shards_of(const ShardArguments& given) {
  check_rank(given);
  const bool zigzag = given.layout == name(parallel::Layout::kZigzag);
  if (!zigzag && given.layout != name(parallel::Layout::kContiguous))
    refuse("layout", "must be \"contiguous\" or \"zigzag\"", fmt::format("\"{}\"", given.layout));
  const std::vector<int64_t>& at = given.boundaries;
  if (at.empty() || at[0] != 0)
    refuse("boundaries", "must begin with 0", at.empty() ? "none" : fmt::format("{}", at[0]));
  if (at.size() == 2 && zigzag) return parallel::Shards::zigzag(at[1], given.ranks);
  if (at.size() == 2) return parallel::Shards::even(at[1], given.ranks);
  if (zigzag)
    refuse("boundaries", "must be 0 and the length of the sequence where the layout is zigzag, whose shards are even",
           fmt::format("{} positions", at.size()));
  if (static_cast<int64_t>(at.size()) != given.ranks + 1)
    refuse("boundaries", fmt::format("must have {} positions for {} ranks", given.ranks + 1, given.ranks), at.size(),
           "rank i holds the tokens from boundaries[i] to boundaries[i + 1]");
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < at.size(); ++i) {
    if (at[i] < at[i - 1])
      refuse(fmt::format("boundaries[{}]", i), fmt::format("must be at least boundaries[{}], {}", i - 1, at[i - 1]),
             at[i]);
    lengths.push_back(at[i] - at[i - 1]);
  }
  return parallel::Shards::of_lengths(lengths);
}

RankCall::RankCall(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call, const ShardArguments& shards) {
  const int64_t among = shards.heads_among;
  checks::check_sharded(call, "where the sequence lies in shards");
  const AllHeads of_all(views_of(q, k, v), among);
  const Views<int64_t>& of = of_all.views;
  key_.call.pattern = *with_rows(check_forward(of, call), q, call);
  key_.shards = shards_of(shards).joined(among);
  key_.rank = shards.rank / among;
  key_.share = {among, shards.rank % among};
  key_.step = shards.step;
  const int64_t rows = key_.shards.rows(key_.rank);
  if (of.q.sizes[1] != rows)
    refuse("q", fmt::format("must have the {} rows of the shard of rank {}", rows, key_.rank), checks::shape(of.q),
           "boundaries and layout say who holds which tokens");
  Extent& extent = key_.call.extent;
  extent = {.batch = of.q.sizes[0], .heads = of.q.sizes[2], .kv_heads = of.k.sizes[2]};
  extent.len_q = extent.len_k = key_.shards.len();
  if (given(call.cu_seqlens)) extent.cu_seqlens = Access<Tensor>::numbers(*call.cu_seqlens);
  if (given(call.lengths)) extent.lengths = Access<Tensor>::numbers(*call.lengths);
  extent.validate();
  rank_ = rank_of(key_);

  place_ = of.q.place;
  using torch::stable::accelerator::DeviceGuard;
  if (place_.is_cuda()) on_device_ = std::make_shared<DeviceGuard>(place_.index);
  dtype_ = of.q.dtype;
  problem_ = problem_of(dtype_of(dtype_), of.q.sizes[3], call, key_.call.pattern, extent);
  problem_.len_q = problem_.len_k = rows;
  problem_.all_heads = problem_.heads;
  problem_.heads /= among;
  problem_.first_head = key_.share.at * problem_.heads;
  problem_.kv_heads /= among;
  problem_.q = read(q);
  problem_.k = read(k);
  problem_.v = read(v);
  if (const auto slopes = slopes_of(call)) {
    problem_.alibi_slopes = static_cast<const float*>(slopes->const_data_ptr()) + key_.share.at * problem_.heads;
    slopes_ = std::make_shared<Tensor>(*slopes);
  }
  if (problem_.drops()) {
    problem_.dropout_seed = static_cast<const int64_t*>(call.dropout_seed->const_data_ptr());
    seed_ = std::make_shared<Tensor>(*call.dropout_seed);
  }
  if (has_gates(call)) gates_ = std::make_shared<Tensor>(*call.gates);
  engine_ = &choose_engine(of.q.place, problem_);
  loan_ = lend(of.q.place);
  if (place_.is_cuda()) {
    moves_ = device_moves(*rank_, problem_, loan_);
  } else {
    moves_ = std::make_unique<parallel::HostMoves>(*rank_, problem_, loan_.workspace);
  }
}

std::shared_ptr<const parallel::Rank> RankCall::rank_of_step(int64_t step) const {
  RankKey key = key_;
  key.step = step;
  return rank_of(key);
}

std::shared_ptr<const parallel::RankPlans> RankCall::plans(Direction direction, Pass pass) const {
  RankKey key = key_;
  key.call.geometry = geometry_for(*engine_, problem_, key.call.pattern.causal(), direction, pass);
  key.call.direction = direction;
  return plans_of(key, *rank_);
}

}  // namespace longstride::op
