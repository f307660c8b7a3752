// Before and after the exchange of the backward (kernels.h).
#include <array>

#include "op/gate_grads.h"
#include "op/parallel/kernels.h"
#include "op/parallel/messages.h"
#include "op/refs.h"
#include "op/results.h"

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
  check_contiguous("keys", keys, call, sizes_of_keys(call), call.dtype());
  const Tensor d_queries = empty_result(sizes_of_queries(call), call.wide_dtype(), call.place());
  const Tensor d_keys = empty_result(sizes_of_keys(call), call.wide_dtype(), call.place());
  const Tensor message = empty_message(call, rank.lists.receives, call.wide_dtype());
  if (rank.gathered.empty()) return {d_queries, d_keys, message};
  parallel::backward_gathered(rank, HeldPlans(call).plans(), h.problem, keys.const_data_ptr(),
                              d_queries.mutable_data_ptr(), d_keys.mutable_data_ptr(), call.moves(),
                              backward_engine(call));
  call.moves().pack_gradients(d_keys.const_data_ptr(), message.mutable_data_ptr());
  return {d_queries, d_keys, message};
}

InputGrads backward_pieces(const RankCall& call, const BackwardInputs& in, const Tensor& d_queries,
                           const Tensor& d_keys) {
  Held h = held(call, in);
  check_contiguous("d_queries", d_queries, call, sizes_of_queries(call), call.wide_dtype());
  check_contiguous("d_keys", d_keys, call, sizes_of_keys(call), call.wide_dtype());
  engine::BackwardProblem& p = h.problem;
  const std::array of_keys = {p.batch, p.len_k, p.kv_heads, p.dim};
  const Tensor dq = empty_result(std::array{p.batch, p.len_q, p.heads, p.dim}, call.dtype(), call.place());
  const Tensor dk = empty_result(of_keys, call.dtype(), call.place());
  const Tensor dv = empty_result(of_keys, call.dtype(), call.place());
  const auto of_gates = [&](auto make, int64_t size) {
    return make(std::array{size}, call.wide_dtype(), call.place());
  };
  if (call.empty()) return {dq, dk, dv, of_gates(zeros, call.gates() ? call.gates()->size(0) : 0)};
  p.dq = write(dq);
  p.dk = write(dk);
  p.dv = write(dv);
  const auto run = [&] {
    parallel::backward_pieces(call.rank(), HeldPlans(call).plans(), p, call.moves(), backward_engine(call));
    parallel::add_gathered(call.rank(), p, d_queries.const_data_ptr(), d_keys.const_data_ptr(), call.moves());
  };
  if (!call.gates()) {
    run();
    return {dq, dk, dv, of_gates(empty, 0)};
  }
  const parallel::ShardedCall& of = call.rank().call;
  const Tensor d_gates = gate_grads(of.pattern, of.extent, call.wide_dtype(), call.place(), call.first_kv_head(),
                                    [&](const engine::Gates& gates) {
                                      p.gates = &gates;
                                      run();
                                    });
  return {dq, dk, dv, d_gates};
}

void add_gathered(const RankCall& call, const Tensor& d_queries, const Tensor& d_keys, const Tensor& dq,
                  const Tensor& dk, const Tensor& dv) {
  engine::BackwardProblem p{call.problem()};
  const std::array of_keys = {p.batch, p.len_k, p.kv_heads, p.dim};
  check_contiguous("d_queries", d_queries, call, sizes_of_queries(call), call.wide_dtype());
  check_contiguous("d_keys", d_keys, call, sizes_of_keys(call), call.wide_dtype());
  check_contiguous("dq", dq, call, std::array{p.batch, p.len_q, p.heads, p.dim}, call.dtype());
  check_contiguous("dk", dk, call, of_keys, call.dtype());
  check_contiguous("dv", dv, call, of_keys, call.dtype());
  if (call.empty()) return;
  p.dq = write(dq);
  p.dk = write(dk);
  p.dv = write(dv);
  parallel::add_gathered(call.rank(), p, d_queries.const_data_ptr(), d_keys.const_data_ptr(), call.moves());
}

void add_returned(const RankCall& call, const Tensor& returned, const Tensor& dk, const Tensor& dv) {
  const engine::Problem& p = call.problem();
  const std::array of_keys = {p.batch, p.len_k, p.kv_heads, p.dim};
  check_message("returned", returned, call, call.rank().lists.sends, call.wide_dtype());
  check_contiguous("dk", dk, call, of_keys, call.dtype());
  check_contiguous("dv", dv, call, of_keys, call.dtype());
  if (call.rank().lists.sends.empty()) return;  // of 16 bits the host adds nothing
  call.moves().add_returned(returned.const_data_ptr(), write(dk), write(dv));
}

}  // namespace longstride::op
