// The operators of a rank: schemas and kernels on the CPU and CUDA, registered through LibTorch's stable ABI. They
// stand below autograd: who calls them (python/longstride/parallel) has the gradient.
#include <tuple>
#include <type_traits>

#include "op/library.h"
#include "op/parallel/kernels.h"

namespace longstride::op {
namespace {

// What comes before and behind a call's own fields.
const std::string kShards = "Tensor boundaries, str layout, int ranks";
const std::string kCall =
    "Tensor q, Tensor k, Tensor v, " + kShards + ", int rank" + call_schema("") + ", int step=-1, int heads_among=1";

const Definitions registered(
    Definitions::Kind::kFragment,
    {"cp_pieces(" + kShards + ") -> Tensor", "cp_counts(" + kCall + ") -> (Tensor rows, bool joined)",
     "cp_exchange(str exchange, " + kCall + ") -> (Tensor steps, int heads)", "cp_pack(" + kCall + ") -> Tensor",
     "cp_forward_pieces(" + kCall + ") -> (Tensor out, Tensor lse)",
     "cp_forward_gathered(Tensor received, Tensor(a!) out, Tensor(b!) lse, " + kCall + ") -> Tensor",
     "cp_keys(Tensor received, " + kCall + ") -> Tensor",
     "cp_backward_gathered(Tensor d_out, Tensor? d_lse, Tensor out, Tensor lse, Tensor keys, " + kCall +
         ") -> (Tensor d_queries, Tensor d_keys, Tensor message)",
     "cp_backward_pieces(Tensor d_out, Tensor? d_lse, Tensor out, Tensor lse, Tensor d_queries, Tensor d_keys, " +
         kCall + ") -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_gates)",
     "cp_add_gathered(Tensor d_queries, Tensor d_keys, Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, " + kCall +
         ") -> ()",
     "cp_add_returned(Tensor returned, Tensor(a!) dk, Tensor(b!) dv, " + kCall + ") -> ()"});

ShardArguments shard_of(const Tensor& boundaries, StringHandle layout, int64_t ranks, int64_t rank,
                        int64_t step = parallel::Rank::kAllSteps, int64_t heads_among = 1) {
  return {boundaries_of(boundaries), take(layout), ranks, rank, step, heads_among};
}

// A call of a rank from the operators' arguments.
template <class Arguments>
struct Made;
template <class... Owner, class... Field>
struct Made<std::tuple<Argument<Owner, Field>...>> {
  static RankCall call_of(const Tensor& q, const Tensor& k, const Tensor& v, Tensor boundaries, StringHandle layout,
                          int64_t ranks, int64_t rank, Handed<Field>... fields, int64_t step, int64_t heads_among) {
    return {q, k, v, Call::of(taken<Field>(fields)...), shard_of(boundaries, layout, ranks, rank, step, heads_among)};
  }
};
constexpr auto* call_of = &Made<decltype(Call::arguments())>::call_of;

Tensor unpacked_pieces(Tensor boundaries, StringHandle layout, int64_t ranks) {
  return pieces(shards_of(shard_of(boundaries, layout, ranks, 0)));
}

// kernel(call, its own arguments...), of which the operator has its own first, then those of the call.
template <auto kernel, class Kernel, class Call>
struct Operator;
template <auto kernel, class Result, class... Own, class... Rest>
struct Operator<kernel, Result (*)(const RankCall&, const Own&...),
                RankCall (*)(const Tensor&, const Tensor&, const Tensor&, Rest...)> {
  static Result run(Handed<Own>... own, Tensor q, Tensor k, Tensor v, Rest... rest) {
    const std::tuple<Own...> taken_own{taken<Own>(own)...};
    const RankCall call = call_of(q, k, v, std::move(rest)...);
    return std::apply([&](const Own&... arguments) { return kernel(call, arguments...); }, taken_own);
  }
};
template <auto kernel>
constexpr auto* run = &Operator<kernel, decltype(kernel), std::remove_const_t<decltype(call_of)>>::run;

// All but cp_pieces, which has no tensor but boundaries, on the host.
void add_kernels(torch::stable::detail::StableLibrary& library) {
  library.impl("cp_counts", TORCH_BOX(run<&counts>));
  library.impl("cp_exchange", TORCH_BOX(run<&exchange_of>));
  library.impl("cp_pack", TORCH_BOX(run<&pack>));
  library.impl("cp_forward_pieces", TORCH_BOX(run<&forward_pieces>));
  library.impl("cp_forward_gathered", TORCH_BOX(run<&forward_gathered>));
  library.impl("cp_keys", TORCH_BOX(run<&keys_again>));
  library.impl("cp_backward_gathered", TORCH_BOX(run<&backward_gathered>));
  library.impl("cp_backward_pieces", TORCH_BOX(run<&backward_pieces>));
  library.impl("cp_add_gathered", TORCH_BOX(run<&add_gathered>));
  library.impl("cp_add_returned", TORCH_BOX(run<&add_returned>));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longstride, CPU, library) {
  library.impl("cp_pieces", TORCH_BOX(&unpacked_pieces));
  add_kernels(library);
}
STABLE_TORCH_LIBRARY_IMPL(longstride, CUDA, library) { add_kernels(library); }

}  // namespace longstride::op
