// Before and after the exchange of the backward (kernels.h).
#include <array>

#include "op/parallel/kernels.h"
#include "op/parallel/messages.h"
#include "op/refs.h"
#include "op/results.h"
#include "parallel/sums.h"

namespace longstride::op {
namespace {

// The tensors of a backward as the engines take them, kept while its problem lives.
struct Held {
  Tensor d_out, out, lse, d_lse;  // d_lse: read if it was given
  engine::BackwardProblem problem;
};

Held held(const RankCall& call, const BackwardInputs& in) {
  check_like_results(call, in.d_out, in.d_lse, in.out, in.lse);
  Held h{with_contiguous_dim(in.d_out),
         with_contiguous_dim(in.out),
         contiguous(in.lse),
         contiguous(given(in.d_lse) ? *in.d_lse : in.lse),
         {call.problem()}};
  h.problem.d_out = read(h.d_out);
  h.problem.out = read(h.out);
  h.problem.lse = h.lse.const_data_ptr();
  if (given(in.d_lse)) h.problem.d_lse = h.d_lse.const_data_ptr();
  return h;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> backward_gathered(const RankCall& call, const BackwardInputs& in,
                                                     const Tensor& keys) {
  const parallel::Rank& rank = call.rank();
  const Held h = held(call, in);
  check_contiguous("keys", keys, sizes_of_keys(call), call.dtype());
  const Tensor d_queries = empty_result(sizes_of_queries(call), call.dtype(), {});
  const Tensor d_keys = empty_result(sizes_of_keys(call), call.dtype(), {});
  const Tensor message = empty_message(call, rank.lists.receives);
  if (rank.gathered.empty()) return {d_queries, d_keys, message};
  parallel::backward_gathered(rank, *call.plans(Direction::kTransposed), h.problem, keys.const_data_ptr(),
                              d_queries.mutable_data_ptr(), d_keys.mutable_data_ptr(), call.workspace(),
                              backward_engine(call));
  parallel::pack_gradients(call.moving(), rank.lists.receives, d_keys.const_data_ptr(), message.mutable_data_ptr());
  return {d_queries, d_keys, message};
}

std::tuple<Tensor, Tensor, Tensor> backward_pieces(const RankCall& call, const BackwardInputs& in,
                                                   const Tensor& d_queries, const Tensor& d_keys) {
  Held h = held(call, in);
  check_contiguous("d_queries", d_queries, sizes_of_queries(call), call.dtype());
  check_contiguous("d_keys", d_keys, sizes_of_keys(call), call.dtype());
  engine::BackwardProblem& p = h.problem;
  const std::array of_keys = {p.batch, p.len_k, p.kv_heads, p.dim};
  const Tensor dq = empty_result(std::array{p.batch, p.len_q, p.heads, p.dim}, call.dtype(), {});
  const Tensor dk = empty_result(of_keys, call.dtype(), {}), dv = empty_result(of_keys, call.dtype(), {});
  if (call.empty()) return {dq, dk, dv};
  p.dq = write(dq);
  p.dk = write(dk);
  p.dv = write(dv);
  parallel::backward_pieces(call.rank(), *call.plans(Direction::kTransposed), p, call.workspace(),
                            backward_engine(call));
  parallel::add_gathered(call.rank(), p, d_queries.const_data_ptr(), d_keys.const_data_ptr(), call.workspace());
  return {dq, dk, dv};
}

void add_returned(const RankCall& call, const Tensor& returned, const Tensor& dk, const Tensor& dv) {
  const engine::Problem& p = call.problem();
  const std::array of_keys = {p.batch, p.len_k, p.kv_heads, p.dim};
  check_message("returned", returned, call, call.rank().lists.sends);
  check_contiguous("dk", dk, of_keys, call.dtype());
  check_contiguous("dv", dv, of_keys, call.dtype());
  if (call.rank().lists.sends.empty()) return;  // of 16 bits nothing is added
  parallel::add_returned(call.moving(), call.rank().lists.sends, returned.const_data_ptr(), write(dk), write(dv));
}

}  // namespace longstride::op
