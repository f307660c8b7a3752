// The kernels of a rank: all of its attention but the exchange, which the caller runs between them. Registered in
// schema.cc; python/longstride/parallel is the caller. In the order of a call:
//
//   forward:  pack, [send], forward_pieces while rows travel, [receive], forward_gathered
//   backward: backward_gathered, [send], backward_pieces meanwhile, [receive], add_returned
//
// Round a ring, by calls of its steps (parallel/attention.h): pack, forward_gathered and backward_gathered of each
// step, of the first one the pieces too, and in the backward keys_again, add_gathered and add_returned.
//
// A message is a tensor [rows, 2 * dim] of all peers' rows, by ascending peer; counts() says how many are whose. Parts
// and gradients that travel are float32 (float64 of float64). On CUDA all work goes to the current stream, nothing
// waits for the device. All throw Error for what they refuse.
#pragma once

#include <string>
#include <tuple>

#include "op/parallel/rank_call.h"

namespace longstride::op {

// int64 [pieces, 3]: the positions [begin, end) of the rows of each rank's shard, in their order, and the rank; rank by
// rank.
Tensor pieces(const parallel::Shards&);

// int64 [2, ranks], on the host: rows that go to each rank, and that come from each. Then whether this rank's tensors
// must be float32 or float64, as the host joins parts of rows in no other type.
std::tuple<Tensor, bool> counts(const RankCall&);

// The exchange that runs by that name (parallel/exchange.h): int64 [n], the steps of a ring, the first of which is 0,
// or none if all rows travel at once; and among how many neighbouring ranks heads are divided. Refuses gates that are
// not 1, which of a device waits for it.
std::tuple<Tensor, int64_t> exchange_of(const RankCall&, const std::string& name);

// What goes to others, in the dtype of k and v.
Tensor pack(const RankCall&);

// out [batch, rows, heads, dim] and lse [batch, heads, rows], as far as the shard's own pieces show them.
Outputs forward_pieces(const RankCall&);
// Joins what was received to them, and gives the buffer of keys, [batch * kv_heads, keys, 2, dim], for the backward.
Tensor forward_gathered(const RankCall&, const Tensor& received, const Tensor& out, const Tensor& lse);
// The same buffer again, for a backward to which it was not kept.
Tensor keys_again(const RankCall&, const Tensor& received);

// Of all of the backward d_lse is none where it is zero. Gradients of the gathered queries [batch, heads, queries, dim]
// and of the buffer of keys, and of the latter what goes back to those that sent them.
std::tuple<Tensor, Tensor, Tensor> backward_gathered(const RankCall&, const Tensor& d_out, const MaybeTensor& d_lse,
                                                     const Tensor& out, const Tensor& lse, const Tensor& keys);
// dq, dk, dv of the shard: of its pieces, and what backward_gathered() gave for its own rows. d_gates, which is empty
// if the call has no gates: of the heads that the tensors have, so that the sum over the ranks is that of all.
InputGrads backward_pieces(const RankCall&, const Tensor& d_out, const MaybeTensor& d_lse, const Tensor& out,
                           const Tensor& lse, const Tensor& d_queries, const Tensor& d_keys);
// Adds to them what backward_gathered() gave for the shard's own rows in a later step.
void add_gathered(const RankCall&, const Tensor& d_queries, const Tensor& d_keys, const Tensor& dq, const Tensor& dk,
                  const Tensor& dv);
// Adds what came back to dk and dv.
void add_returned(const RankCall&, const Tensor& returned, const Tensor& dk, const Tensor& dv);

}  // namespace longstride::op
