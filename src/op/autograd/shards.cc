// shard, unshard and the positions of shards in C++.
#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/json.h"
#include "core/refuse.h"
#include "longstride/parallel.h"
#include "op/autograd/pieces.h"
#include "op/autograd/ranks.h"
#include "op/autograd/tensor.h"
#include "op/checks.h"

namespace longstride {

namespace op::autograd {

using at::Tensor;

Pieces::Pieces(const Sharding& sharding, int64_t ranks, int64_t len) : of(static_cast<size_t>(ranks)) {
  const Tensor boundaries = at::tensor(sharding.boundaries.empty() ? std::vector<int64_t>{0, len} : sharding.boundaries,
                                       at::TensorOptions().dtype(at::kLong));
  Tensor pieces;  // rows of [begin, end, rank]
  try {
    pieces = c10::Dispatcher::singleton()
                 .findSchemaOrThrow("longstride::cp_pieces", "")
                 .typed<Tensor(const Tensor&, std::string_view, int64_t)>()
                 .call(boundaries, sharding.layout, ranks);
  } catch (const c10::ValueError& refused) {  // as Errors of a kernel pass the dispatcher
    throw Error(refused.what_without_backtrace());
  }
  for (int64_t i = 0; i < pieces.size(0); ++i) {
    const auto* const p = pieces.const_data_ptr<int64_t>() + 3 * i;
    of[static_cast<size_t>(p[2])].emplace_back(p[0], p[1]);
  }
  end = boundaries[-1].item<int64_t>();
}

int64_t Pieces::rows(int64_t rank) const {
  int64_t count = 0;
  for (const auto& [from, to] : of[static_cast<size_t>(rank)]) count += to - from;
  return count;
}

std::vector<int64_t> Pieces::rows() const {
  std::vector<int64_t> all;
  for (size_t rank = 0; rank < of.size(); ++rank) all.push_back(rows(static_cast<int64_t>(rank)));
  return all;
}

}  // namespace op::autograd

namespace {

using at::Tensor;
using op::autograd::Pieces;
using op::autograd::rank_of;
using op::autograd::size_of;
using op::autograd::Turn;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_axis(const Tensor& x, int64_t& dim) {
  if (!x.defined()) core::refuse("x", "must be a tensor", "an undefined tensor");
  if (dim < -x.dim() || dim >= x.dim())
    core::refuse("dim", fmt::format("must be an axis of x, in [{}, {})", -x.dim(), x.dim()), dim);
  if (dim < 0) dim += x.dim();
}

Tensor rows_of(const Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& pieces, int64_t dim) {
  std::vector<Tensor> parts;
  for (const auto& [begin, end] : pieces) parts.push_back(x.narrow(dim, begin, end - begin));
  if (parts.size() == 1) return parts[0];
  return parts.empty() ? x.narrow(dim, 0, 0) : at::cat(parts, dim);
}

// Tokens are on dim 0, and all else goes into one dimension.
Tensor as_rows(const Tensor& x) { return x.reshape({x.size(0), c10::multiply_integers(x.sizes().slice(1))}); }

struct Whole : torch::autograd::Function<Whole> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const RankGroup& group,
                        const std::shared_ptr<const Pieces>& pieces, Turn* turn) {
    const int64_t ranks = turn->ranks();
    const Tensor sent = as_rows(x).repeat({ranks, 1});  // every rank gets all of them
    const Tensor received = turn->post(sent, std::vector<int64_t>(ranks, x.size(0)), pieces->rows()).wait();
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes[0] = pieces->end;
    const Tensor whole = at::empty(sizes, x.options());
    int64_t row = 0;
    for (const auto& of_rank : pieces->of) {
      for (const auto& [begin, end] : of_rank) {
        const Tensor to = whole.narrow(0, begin, end - begin);
        to.copy_(received.narrow(0, row, end - begin).view(to.sizes()));
        row += end - begin;
      }
    }
    context->saved_data["group"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(group, pieces));
    return whole;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto held = c10::static_intrusive_pointer_cast<Held>(context->saved_data["group"].toCapsule());
    Turn turn("unshard backward", held->group);
    const std::vector<int64_t> counts = held->pieces->rows();
    const int64_t own = counts[static_cast<size_t>(turn.rank())];
    std::vector<Tensor> parts;
    for (const auto& of_rank : held->pieces->of) parts.push_back(rows_of(grads[0], of_rank, 0));
    const Tensor sent = as_rows(at::cat(parts, 0));
    const Tensor received = turn.post(sent, counts, std::vector<int64_t>(counts.size(), own)).wait();
    std::vector<int64_t> sizes = grads[0].sizes().vec();
    sizes[0] = own;
    Tensor total =
        at::zeros(sizes, grads[0].options().dtype(grads[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
    for (int64_t rank = 0; rank < turn.ranks(); ++rank) total += received.narrow(0, rank * own, own).reshape(sizes);
    return {total.to(grads[0].scalar_type()), Tensor(), Tensor(), Tensor()};
  }

 private:
  struct Held : torch::CustomClassHolder {
    Held(RankGroup g, std::shared_ptr<const Pieces> p) : group(std::move(g)), pieces(std::move(p)) {}
    RankGroup group;
    std::shared_ptr<const Pieces> pieces;
  };
};

}  // namespace

Tensor shard_positions(const RankGroup& group, const Sharding& sharding) {
  if (sharding.boundaries.empty())
    core::refuse("boundaries", "must be given", "none", "{0, len} cuts len tokens evenly");
  const Pieces pieces(sharding, size_of(group), 0);
  std::vector<Tensor> parts = {at::empty({0}, at::kLong)};
  for (const auto& [begin, end] : pieces.of[static_cast<size_t>(rank_of(group))])
    parts.push_back(at::arange(begin, end));
  return at::cat(parts);
}

Tensor shard(const Tensor& x, const RankGroup& group, const Sharding& sharding, int64_t dim) {
  check_axis(x, dim);
  const Pieces pieces(sharding, size_of(group), x.size(dim));
  if (pieces.end != x.size(dim))
    core::refuse("boundaries", fmt::format("must end with the {} tokens of x", x.size(dim)), pieces.end);
  return rows_of(x, pieces.of[static_cast<size_t>(rank_of(group))], dim);
}

Tensor unshard(const Tensor& x, const RankGroup& group, const Sharding& sharding, int64_t dim) {
  check_axis(x, dim);
  const int64_t ranks = size_of(group);
  const auto checked = [&] {
    auto pieces = std::make_shared<const Pieces>(sharding, ranks, x.size(dim) * ranks);
    const int64_t rows = pieces->rows(rank_of(group));
    if (x.size(dim) != rows)
      core::refuse("x", fmt::format("must have the {} rows of the shard of rank {}", rows, rank_of(group)),
                   op::checks::shape(op::view_of(x)), "boundaries and layout say who holds which tokens");
    return std::shared_ptr<const Pieces>(pieces);
  };
  if (ranks == 1) return checked(), x;
  Turn turn("unshard", group);
  std::shared_ptr<const Pieces> pieces;
  std::optional<Error> error;
  std::vector<int64_t> others = x.sizes().vec();
  others.erase(others.begin() + dim);
  try {
    op::autograd::check_device("x", x, group);
    pieces = checked();
  } catch (const Error& refused) {
    error = refused;
  }
  turn.agree(core::Json{{"dim", dim},
                        {"other sizes of x", others},
                        {"dtype", at::toString(x.scalar_type())},
                        {"device", c10::DeviceTypeName(x.device().type(), true)},
                        {"boundaries", sharding.boundaries},
                        {"layout", sharding.layout}}
                 .dump(),
             error, 0);
  return Whole::apply(x.movedim(dim, 0), group, pieces, &turn).movedim(0, dim);
}

}  // namespace longstride
