// Modules over sequences that lie with several ranks. place() is called by users and the factory.
#include "longstride/nn/placement.h"

#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/refuse.h"
#include "nn/placement.h"
#include "op/autograd/ranks.h"

namespace longstride {
namespace nn {
namespace {

[[noreturn]] void refuse_over_ranks(const char* argument, const char* must, const std::string& got,
                                    const char* remedy = "") {
  core::refuse(argument, fmt::format("must be {} {}", must, kOverRanks), got, remedy);
}

}  // namespace

void Placement::check(const DilatedAttentionImpl& attention) {
  if (attention.attend_)
    refuse_over_ranks("module", "without an AttentionFn", "one of its own", "build it without one");
}

void Placement::set(DilatedAttentionImpl& attention, std::shared_ptr<const Placement> placement) {
  attention.placement_ = std::move(placement);
}

at::Tensor Placement::positions(const char* argument, int64_t rows, const CallOptions& call) const {
  const int64_t ranks = group->getSize();
  Sharding cut{call.boundaries, layout};
  if (cut.boundaries.empty()) cut.boundaries = {0, rows * ranks};
  at::Tensor at = shard_positions(group, cut);
  if (at.size(0) != rows) {
    core::refuse(argument, fmt::format("must have the {} rows of the shard of rank {}", at.size(0), group->getRank()),
                 rows, "boundaries and layout say who holds which tokens");
  }
  return at;
}

AttentionResult Placement::attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const Pattern& pattern, const AttentionOptions& call) const {
  if (call.query_start)
    refuse_over_ranks("query_start", "unset", std::to_string(*call.query_start),
                      "decode in one process: place(*module, {})");
  ShardedOptions options;
  static_cast<AttentionOptions&>(options) = call;
  options.sharding = {std::exchange(options.boundaries, {}), layout};
  return cp_attention(q, k, v, pattern, group, options);
}

void Placement::check_learning(const BlockScorerImpl& scorer) const {
  const int64_t ranks = group->getSize(), kv_heads = scorer.options.kv_heads;
  const auto weights = scorer.parameters();
  const bool learns = at::GradMode::is_enabled() && std::ranges::any_of(weights, &at::Tensor::requires_grad);
  if (learns && kv_heads % ranks != 0) {
    core::refuse("learned blocks",
                 fmt::format("must go by exchange heads({0}), for which {0} must divide kv_heads", ranks), kv_heads,
                 "take as many ranks as divide kv_heads, or parameters of the scorer that require no gradient");
  }
}

int64_t Placement::sum(const char* what, const std::function<int64_t()>& number) const {
  op::autograd::Turn turn(what, group);
  std::optional<Error> error;
  int64_t own = 0;
  try {
    own = number();
  } catch (const Error& refused) {
    error = refused;
  }
  return turn.agree("{}", error, own);
}

int64_t whole_length(const Placement* at, const char* argument, int64_t rows, const CallOptions& call) {
  if (at == nullptr) return rows;
  (void)at->positions(argument, rows, call);
  return call.boundaries.empty() ? rows * at->group->getSize() : call.boundaries.back();
}

RotaryFactors row_factors(const MultiheadDilatedAttentionOptions& o, const Placement* at, const CallOptions& call,
                          int64_t position0, int64_t rows, at::ScalarType dtype, at::Device device) {
  if (at == nullptr) return rotary_factors(o.positions, position0, rows, o.head_dim(), dtype, device);
  if (!are_rotary(o.positions.kind)) return {};
  const int64_t len = whole_length(at, "x", rows, call);
  if (position0 > std::numeric_limits<int64_t>::max() - len)
    core::refuse("position0", "must leave room for the sequence below 2^63", position0);
  const at::Tensor positions = at->positions("x", rows, call) + position0;
  return rotary_factors(o.positions, positions.to(device), position0 + len, o.head_dim(), dtype);
}

void refuse_decoding(const Placement* at) {
  if (at != nullptr) refuse_over_ranks("cache", "unset", "one", "decode in one process: place(*module, {})");
}

}  // namespace nn

void place(torch::nn::Module& module, const RankGroup& group, const std::string& layout) {
  if (layout != "contiguous" && layout != "zigzag")
    core::refuse("layout", "must be \"contiguous\" or \"zigzag\"", fmt::format("'{}'", layout));
  std::shared_ptr<const nn::Placement> placement;
  if (group && group->getSize() > 1) placement = std::make_shared<const nn::Placement>(nn::Placement{group, layout});
  std::vector<DilatedAttentionImpl*> found;
  if (auto* own = dynamic_cast<DilatedAttentionImpl*>(&module)) found.push_back(own);
  for (const auto& part : module.modules(/*include_self=*/false)) {
    if (auto* attention = part->as<DilatedAttentionImpl>()) found.push_back(attention);
  }
  if (found.empty()) core::refuse("module", "must have attention of longstride/nn.h in it", module.name());
  if (placement) std::ranges::for_each(found, [](const auto* attention) { nn::Placement::check(*attention); });
  for (DilatedAttentionImpl* attention : found) nn::Placement::set(*attention, placement);
}

}  // namespace longstride
