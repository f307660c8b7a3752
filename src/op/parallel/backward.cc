// Before and after the exchange of the backward (kernels.h).
#include <array>

#include "op/gate_grads.h"
#include "op/parallel/kernels.h"
#include "op/parallel/messages.h"
#include "op/refs.h"

namespace longstride::op {
namespace {

// The tensors of a backward as the engines take them, kept while its problem lives.
struct Held {
  Tensor d_out, out, lse, d_lse;  // d_lse: read if it was given
  engine::BackwardProblem problem;
};

Held held(const RankCall& call, const Tensor& d_out, const MaybeTensor& d_lse, const Tensor& out, const Tensor& lse) {
  check_like_results(call, d_out, d_lse, out, lse);
  Held h{with_contiguous_dim(d_out),
         with_contiguous_dim(out),
         contiguous(lse),
         contiguous(given(d_lse) ? *d_lse : lse),
         {call.problem()}};
  h.problem.d_out = read(h.d_out);
  h.problem.out = read(h.out);
  h.problem.lse = h.lse.const_data_ptr();
  if (given(d_lse)) h.problem.d_lse = h.d_lse.const_data_ptr();
  return h;
}

void check_gathered(const RankCall& call, const Tensor& d_queries, const Tensor& d_keys) {
  check_contiguous("d_queries", d_queries, call, sizes_of_queries(call), call.wide_dtype());
  check_contiguous("d_keys", d_keys, call, sizes_of_keys(call), call.wide_dtype());
}

void check_of_shard(const RankCall& call, const Tensor& dk, const Tensor& dv) {
  check_contiguous("dk", dk, call, sizes_of_shard_keys(call.problem()), call.dtype());
  check_contiguous("dv", dv, call, sizes_of_shard_keys(call.problem()), call.dtype());
}

void attach(engine::BackwardProblem& p, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  p.dq = write(dq);
  p.dk = write(dk);
  p.dv = write(dv);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> backward_gathered(const RankCall& call, const Tensor& d_out,
                                                     const MaybeTensor& d_lse, const Tensor& out, const Tensor& lse,
                                                     const Tensor& keys) {
  const parallel::Rank& rank = call.rank();
  const Held h = held(call, d_out, d_lse, out, lse);
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

InputGrads backward_pieces(const RankCall& call, const Tensor& d_out, const MaybeTensor& d_lse, const Tensor& out,
                           const Tensor& lse, const Tensor& d_queries, const Tensor& d_keys) {
  Held h = held(call, d_out, d_lse, out, lse);
  check_gathered(call, d_queries, d_keys);
  engine::BackwardProblem& p = h.problem;
  const Tensor dq = empty_result(sizes_of_out(p), call.dtype(), call.place());
  const Tensor dk = empty_result(sizes_of_shard_keys(p), call.dtype(), call.place());
  const Tensor dv = empty_result(sizes_of_shard_keys(p), call.dtype(), call.place());
  const auto of_gates = [&](auto make, int64_t size) {
    return make(std::array{size}, call.wide_dtype(), call.place());
  };
  if (call.empty()) return {dq, dk, dv, of_gates(zeros, call.gates() ? call.gates()->size(0) : 0)};
  attach(p, dq, dk, dv);
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
  check_gathered(call, d_queries, d_keys);
  check_contiguous("dq", dq, call, sizes_of_out(p), call.dtype());
  check_of_shard(call, dk, dv);
  if (call.empty()) return;
  attach(p, dq, dk, dv);
  parallel::add_gathered(call.rank(), p, d_queries.const_data_ptr(), d_keys.const_data_ptr(), call.moves());
}

void add_returned(const RankCall& call, const Tensor& returned, const Tensor& dk, const Tensor& dv) {
  check_message("returned", returned, call, call.rank().lists.sends, call.wide_dtype());
  check_of_shard(call, dk, dv);
  if (call.rank().lists.sends.empty()) return;  // of 16 bits the host adds nothing
  call.moves().add_returned(returned.const_data_ptr(), write(dk), write(dv));
}

}  // namespace longstride::op
