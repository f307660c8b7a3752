// The operators of a rank: schemas and kernels on the CPU and CUDA, registered through LibTorch's stable ABI. They
// stand below autograd: who calls them (python/longstride/parallel) has the gradient.
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

// Functions of the operators' signatures around the kernels.
Tensor unpacked_pieces(Tensor boundaries, StringHandle layout, int64_t ranks) {
  return pieces(shards_of(shard_of(boundaries, layout, ranks, 0)));
}

template <class Arguments>
struct Unpack;
template <class... Rest>
struct Unpack<RankCall (*)(const Tensor&, const Tensor&, const Tensor&, Rest...)> {
  static std::tuple<Tensor, bool> counts(Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::counts(call_of(q, k, v, std::move(rest)...));
  }
  static std::tuple<Tensor, int64_t> exchange(StringHandle name, Tensor q, Tensor k, Tensor v, Rest... rest) {
    const std::string exchange_name = take(name);
    return op::exchange_of(call_of(q, k, v, std::move(rest)...), exchange_name);
  }
  static Tensor pack(Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::pack(call_of(q, k, v, std::move(rest)...));
  }
  static Outputs forward_pieces(Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::forward_pieces(call_of(q, k, v, std::move(rest)...));
  }
  static Tensor forward_gathered(Tensor received, Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::forward_gathered(call_of(q, k, v, std::move(rest)...), received, out, lse);
  }
  static Tensor keys(Tensor received, Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::keys_again(call_of(q, k, v, std::move(rest)...), received);
  }
  static std::tuple<Tensor, Tensor, Tensor> backward_gathered(Tensor d_out, MaybeTensor d_lse, Tensor out, Tensor lse,
                                                              Tensor keys, Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::backward_gathered(call_of(q, k, v, std::move(rest)...), {d_out, d_lse, q, k, v, out, lse}, keys);
  }
  static InputGrads backward_pieces(Tensor d_out, MaybeTensor d_lse, Tensor out, Tensor lse, Tensor d_queries,
                                    Tensor d_keys, Tensor q, Tensor k, Tensor v, Rest... rest) {
    return op::backward_pieces(call_of(q, k, v, std::move(rest)...), {d_out, d_lse, q, k, v, out, lse}, d_queries,
                               d_keys);
  }
  static void add_gathered(Tensor d_queries, Tensor d_keys, Tensor dq, Tensor dk, Tensor dv, Tensor q, Tensor k,
                           Tensor v, Rest... rest) {
    op::add_gathered(call_of(q, k, v, std::move(rest)...), d_queries, d_keys, dq, dk, dv);
  }
  static void add_returned(Tensor returned, Tensor dk, Tensor dv, Tensor q, Tensor k, Tensor v, Rest... rest) {
    op::add_returned(call_of(q, k, v, std::move(rest)...), returned, dk, dv);
  }
};
using Unpacked = Unpack<std::remove_const_t<decltype(call_of)>>;

}  // namespace

namespace {

// All but cp_pieces, which has no tensor but boundaries, on the host.
void add_kernels(torch::stable::detail::StableLibrary& library) {
  library.impl("cp_counts", TORCH_BOX(&Unpacked::counts));
  library.impl("cp_exchange", TORCH_BOX(&Unpacked::exchange));
  library.impl("cp_pack", TORCH_BOX(&Unpacked::pack));
  library.impl("cp_forward_pieces", TORCH_BOX(&Unpacked::forward_pieces));
  library.impl("cp_forward_gathered", TORCH_BOX(&Unpacked::forward_gathered));
  library.impl("cp_keys", TORCH_BOX(&Unpacked::keys));
  library.impl("cp_backward_gathered", TORCH_BOX(&Unpacked::backward_gathered));
  library.impl("cp_backward_pieces", TORCH_BOX(&Unpacked::backward_pieces));
  library.impl("cp_add_gathered", TORCH_BOX(&Unpacked::add_gathered));
  library.impl("cp_add_returned", TORCH_BOX(&Unpacked::add_returned));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(longstride, CPU, library) {
  library.impl("cp_pieces", TORCH_BOX(&unpacked_pieces));
  add_kernels(library);
}
STABLE_TORCH_LIBRARY_IMPL(longstride, CUDA, library) { add_kernels(library); }

}  // namespace longstride::op
