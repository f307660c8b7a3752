// BlockScorer: which blocks are worth computing, learned. Called by DilatedAttention and by users.
#include <ATen/Functions.h>
#include <ATen/TensorIndexing.h>

#include <algorithm>

#include "longstride/nn/learned_blocks.h"
#include "nn/block_grid.h"
#include "nn/json_fields.h"
#include "nn/placement.h"
#include "nn/rank_blocks.h"
#include "nn/require.h"
#include "op/autograd/ranks.h"

namespace longstride {

using nn::Grid;
using nn::GridTables;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void require_share(std::string_view argument, double value) {
  if (!(value > 0 && value < 1)) core::refuse(argument, "must be in (0, 1)", value);
}

void require_temperature(double value) {
  if (!(value >= 0 && std::isfinite(value))) core::refuse("temperature", "must be finite and not negative", value);
}

// t [batch, len, kv_heads, dim] -> the sum of each block's positions [batch, blocks, kv_heads, dim].
at::Tensor block_sums(const at::Tensor& t, const Grid& grid) {
  const at::Tensor padded = at::constant_pad_nd(t, {0, 0, 0, 0, 0, grid.width() * grid.block_size - grid.len});
  return padded.unflatten(1, {grid.width(), grid.block_size}).sum(2);
}

// Sums -> what stands for each block: the mean of its positions below the row's length. [batch, kv_heads, blocks, dim]
at::Tensor block_means(const at::Tensor& sums, const Grid& grid) {
  const at::Tensor filled = grid.tables(sums.device()).filled.to(sums.scalar_type());
  return (sums / filled.unsqueeze(2).unsqueeze(3)).transpose(1, 2);
}

// The first position of each block.
at::Tensor block_heads(const at::Tensor& t, const Grid& grid) {
  return t.slice(1, 0, std::nullopt, grid.block_size).transpose(1, 2);
}

// Divided by its root mean square; zero stays zero.
at::Tensor normalised(const at::Tensor& t) { return t * (t.square().mean(-1, true) + 1e-8).rsqrt(); }

// Normalised on both sides: the scores neither depend on the scale of q and k, nor can they run away with the gates'
// gradient, which is the same however large they are.
at::Tensor features(const at::Tensor& pooled, const at::Tensor& in, const at::Tensor& out) {
  const auto weight = [&](const at::Tensor& w) { return w.to(pooled.scalar_type()); };
  return normalised(at::matmul(at::gelu(at::matmul(normalised(pooled), weight(in))), weight(out)));
}

}  // namespace

void LearnedBlocks::validate() const {
  nn::require_positive("block_size", block_size);
  nn::require_positive("hidden", hidden);
  nn::require_positive("head_dim", head_dim);
  nn::require_positive("kv_heads", kv_heads);
  require_temperature(temperature);
  require_share("density", density);
  if (min_density) require_share("min_density", *min_density);
  if (max_density) require_share("max_density", *max_density);
  if (min_density && max_density && *min_density >= *max_density) {
    core::refuse("min_density", fmt::format("must be below max_density {}", *max_density), *min_density);
  }
  if (min_density.value_or(density) > density || max_density.value_or(density) < density) {
    core::refuse(
        "density", "must be from min_density to max_density",
        fmt::format("{} outside [{}, {}]", density, min_density.value_or(density), max_density.value_or(density)));
  }
}

BlockScorerImpl::BlockScorerImpl(LearnedBlocks given, bool is_causal)
    : options(given), causal(is_causal), temperature_(given.temperature) {
  options.validate();
  nn::within_memory("kv_heads x head_dim x hidden",
                    fmt::format("{} x {} x {}", options.kv_heads, options.head_dim, options.hidden), [&] { reset(); });
}

void BlockScorerImpl::reset() {
  const auto make = [&](const char* name, int64_t in) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    return register_parameter(name, at::empty({options.kv_heads, in, options.hidden}).uniform_(-bound, bound));
  };
  query_in = make("query_in", options.head_dim);
  query_out = make("query_out", options.hidden);
  key_in = make("key_in", options.head_dim);
  key_out = make("key_out", options.hidden);
  bias = register_parameter("bias", at::zeros({options.kv_heads, 1, 1}));
}

void BlockScorerImpl::pretty_print(std::ostream& stream) const {
  stream << fmt::format("longstride::BlockScorer(head_dim={}, kv_heads={}, block_size={}, density={}, hidden={})",
                        options.head_dim, options.kv_heads, options.block_size, options.density, options.hidden);
}

void BlockScorerImpl::set_temperature(double temperature) {
  require_temperature(temperature);
  temperature_ = temperature;
}

namespace {

void check_tensors(const BlockScorerImpl& scorer, const at::Tensor& q, const at::Tensor& k) {
  const LearnedBlocks& options = scorer.options;
  nn::require_readable("q", q);
  nn::require_readable("k", k);
  const auto fits = [&](const at::Tensor& t) { return t.dim() == 4 && t.size(3) == options.head_dim; };
  if (!fits(k) || k.size(2) != options.kv_heads) {
    core::refuse("k", fmt::format("must be [batch, len, {}, {}]", options.kv_heads, options.head_dim),
                 nn::shape_text(k));
  }
  if (!fits(q) || q.size(0) != k.size(0) || q.size(1) != k.size(1) || q.size(2) % options.kv_heads != 0) {
    core::refuse(
        "q",
        fmt::format("must be [{}, {}, a multiple of {}, {}]", k.size(0), k.size(1), options.kv_heads, options.head_dim),
        nn::shape_text(q));
  }
  const at::Device device = scorer.bias.device();
  for (const auto& [argument, t] : {std::pair<const char*, const at::Tensor&>{"q", q}, {"k", k}}) {
    if (!t.is_floating_point()) {
      core::refuse(argument, "must be a floating-point tensor", c10::toString(t.scalar_type()), "convert it with to()");
    }
    if (t.device() != device) {
      core::refuse(argument, fmt::format("must be on the scorer's device {}", device.str()), t.device().str(),
                   "move one of them with to()");
    }
  }
}

Grid grid_of(const BlockScorerImpl& scorer, int64_t batch, int64_t len,
             const std::optional<std::vector<int64_t>>& lengths) {
  const LearnedBlocks& options = scorer.options;
  Grid grid{.block_size = options.block_size,
            .len = len,
            .causal = scorer.causal,
            .lengths = {len},
            .least = options.min_density.value_or(options.density),
            .most = options.max_density.value_or(options.density)};
  if (lengths) {
    if (std::ssize(*lengths) != batch) {
      core::refuse("lengths", fmt::format("must have one entry a batch row, {}", batch), lengths->size());
    }
    for (const int64_t n : *lengths) {
      if (n < 0 || n > len) core::refuse("lengths", fmt::format("must be in [0, {}]", len), n);
    }
    grid.lengths = *lengths;
  }
  grid.check(options.density);
  return grid;
}

// Queries, averaged over the heads of each KV head, and keys at these positions, 0 beyond a row's length: in float32,
// or float64 of float64 tensors. No gradient flows into them.
std::pair<at::Tensor, at::Tensor> read(const at::Tensor& q, const at::Tensor& k, const Grid& grid,
                                       const at::Tensor& positions) {
  at::Tensor queries = q.detach(), keys = k.detach();
  if (std::ranges::any_of(grid.lengths, [&](int64_t n) { return n < grid.len; })) {
    // What lies beyond a row's length may be anything.
    const at::Tensor lengths = grid.tables(k.device()).lengths.unsqueeze(1);
    const at::Tensor beyond =
        (positions.to(k.device()).unsqueeze(0) >= lengths).unsqueeze(2).unsqueeze(3);  // [batch, len, 1, 1]
    queries = queries.masked_fill(beyond, 0);
    keys = keys.masked_fill(beyond, 0);
  }
  const at::ScalarType dtype = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {queries.to(dtype).unflatten(2, {k.size(2), q.size(2) / k.size(2)}).mean(3), keys.to(dtype)};
}

// [batch, kv_heads, blocks, blocks] of what stands for each block.
at::Tensor scored(const BlockScorerImpl& scorer, const at::Tensor& queries, const at::Tensor& keys) {
  const at::Tensor query_features = features(queries, scorer.query_in, scorer.query_out);
  const at::Tensor key_features = features(keys, scorer.key_in, scorer.key_out);
  return at::matmul(query_features, key_features.transpose(2, 3)) /
             std::sqrt(static_cast<double>(scorer.options.hidden)) +
         scorer.bias.to(queries.scalar_type());
}

// The blocks that each row takes, bool as the scores.
at::Tensor taken_by(const at::Tensor& scores, const GridTables& tables, double temperature) {
  at::Tensor ranked = scores.detach();
  if (temperature > 0) {
    const at::Tensor uniform = at::rand_like(ranked).clamp_min(1e-20);
    ranked = ranked - temperature * (-uniform.log()).log();
  }
  ranked = ranked.masked_fill(tables.there.logical_not() | ranked.isnan(), -kInfinity)
               .masked_fill(tables.diagonal, kInfinity);
  const at::Tensor rank = ranked.argsort(/*stable=*/true, /*dim=*/3, /*descending=*/true).argsort(/*dim=*/int64_t{3});
  return tables.there & ((rank < tables.least) | ((rank < tables.most) & (ranked > 0)));
}

// [rows, 4] of the blocks taken. `stay`: where they are, as many as there may be, so that nothing waits for how many
// there are; what is too much of it names the first block again, whose gate, on the diagonal, has no gradient.
at::Tensor cells_of(const at::Tensor& taken, const Grid& grid, const GridTables& tables, bool stay) {
  if (!stay) return taken.to(at::kCPU).nonzero();
  const int64_t heads = taken.size(0) / std::max<int64_t>(1, grid.rows()) * taken.size(1);
  return at::nonzero_static(taken, tables.taken_at_most * heads, 0);
}

// `dtype`: of the gates. Scores are of fewer bits under autocast.
BlockChoice choice_of(const at::Tensor& scores, const at::Tensor& cells, const Grid& grid, const GridTables& tables,
                      const LearnedBlocks& options, at::ScalarType dtype) {
  const std::vector<at::Tensor> at_cells = cells.to(scores.device()).unbind(1);
  const at::Tensor score = scores.index({at_cells[0], at_cells[1], at_cells[2], at_cells[3]}).to(dtype);
  // A score that is NaN leaves its gate at 1.
  const at::Tensor through = at::nan_to_num(score - score.detach()) * at_cells[2].ne(at_cells[3]);
  const at::Tensor open =
      at::sigmoid(scores).masked_fill(tables.diagonal, 1).masked_fill(tables.there.logical_not(), 0);
  const at::Tensor share =
      open.sum() /
      std::max<int64_t>(1, grid.pairs() * (scores.size(0) / std::max<int64_t>(1, grid.rows())) * options.kv_heads);
  return {cells.to(at::kInt), 1 + through, scores, (share - options.density).square()};
}

}  // namespace

BlockChoice BlockScorerImpl::forward(const at::Tensor& q, const at::Tensor& k,
                                     const std::optional<std::vector<int64_t>>& lengths) const {
  check_tensors(*this, q, k);
  const Grid grid = grid_of(*this, k.size(0), k.size(1), lengths);
  const auto [queries, keys] = read(q, k, grid, at::arange(grid.len, k.options().dtype(at::kLong)));
  const at::Tensor of_queries = causal ? block_heads(queries, grid) : block_means(block_sums(queries, grid), grid);
  const at::Tensor scores = scored(*this, of_queries, block_means(block_sums(keys, grid), grid));
  const GridTables tables = grid.tables(scores.device());
  const at::Tensor cells = cells_of(taken_by(scores, tables, noise()), grid, tables, scores.is_cuda());
  return choice_of(scores, cells, grid, tables, options, keys.scalar_type());
}

BlockChoice BlockScorerImpl::over_ranks(const nn::Placement& placement, const at::Tensor& q, const at::Tensor& k,
                                        const std::optional<std::vector<int64_t>>& lengths,
                                        const std::vector<int64_t>& boundaries) const {
  const CallOptions call{.boundaries = boundaries};
  op::autograd::Turn turn("the choice of blocks", placement.group);
  std::optional<Error> error;
  Grid grid;
  at::Tensor positions;
  std::string text;
  try {
    check_tensors(*this, q, k);
    op::autograd::check_device("q", q, placement.group);
    positions = placement.positions("q", k.size(1), call);
    grid = grid_of(*this, k.size(0), nn::whole_length(&placement, "q", k.size(1), call), lengths);
    core::Json of_call = {
        {"boundaries", boundaries}, {"layout", placement.layout}, {"lengths", grid.lengths},
        {"len", grid.len},          {"causal", causal},           {"batch", q.size(0)},
        {"heads of q", q.size(2)},  {"training", is_training()},  {"dtype", at::toString(q.scalar_type())}};
    of_call["learned"] = nn::written(options);
    text = of_call.dump();
  } catch (const Error& refused) {
    error = refused;
  }
  turn.agree(text, error, 0);
  auto [queries, keys] = read(q, k, grid, positions);
  if (causal) {
    const at::Tensor first = (positions % grid.block_size).eq(0).to(k.device());
    queries = queries.masked_fill(first.logical_not().unsqueeze(1).unsqueeze(2), 0);
  }
  const at::Tensor both = at::stack({queries, keys}).movedim(2, 0);  // [rows, 2, batch, kv_heads, dim]
  const op::autograd::Pieces pieces({boundaries, placement.layout}, turn.ranks(), grid.len);
  const at::Tensor sums = nn::block_sums(turn, both.flatten(1), grid.block_size, pieces)
                              .unflatten(1, both.sizes().slice(1))
                              .movedim(0, 2);  // [2, batch, blocks, kv_heads, dim]
  const at::Tensor of_queries = causal ? sums[0].transpose(1, 2) : block_means(sums[0], grid);
  const at::Tensor scores = scored(*this, of_queries, block_means(sums[1], grid));
  // Ranks' scores may differ by rounding.
  const GridTables tables = grid.tables(scores.device());
  const at::Tensor taken =
      turn.rank() == 0 ? taken_by(scores, tables, noise()).to(at::kByte) : at::empty_like(scores, at::kByte);
  const at::Tensor cells = cells_of(nn::of_first(turn, taken).to(at::kBool), grid, tables, /*stay=*/false);
  BlockChoice choice = choice_of(scores, cells, grid, tables, options, keys.scalar_type());
  choice.density_loss = choice.density_loss / turn.ranks();
  return choice;
}

}  // namespace longstride
