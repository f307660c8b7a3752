// One rank's attention, between the exchanges: what an engine runs on the pieces of its shard and on what it gathered,
// and how the parts are joined. It moves nothing between ranks. In the order of a call:
//
//   forward:  pack, [send], forward_pieces while rows travel, [receive], unpack, forward_gathered
//   backward: backward_gathered, pack_gradients, [send], backward_pieces and add_gathered meanwhile, [receive],
//             add_returned
//
// A ring is the same by the ranks of its steps: Rank(call, rank, 0) has the pieces and what is gathered of them, and
// Rank(call, rank, s) what comes of the rank s before it, each of which is computed and added before the one after the
// next is sent for.
//
// Problems are those of the shard: len_q = len_k = its rows, query_start 0. What is gathered is computed to float32, or
// float64 of float64. On the host parts are joined in their own type: tensors of fewer bits are converted before. A
// device joins float32 to what pieces gave in 16 bits (moves.h): such a row is rounded twice. Unless the rank's one
// piece is the whole sequence dropout, gates and slopes of ALiBi are refused, the latter two being those of the heads
// that it has, if ranks divide the heads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/contract.h"
#include "longstride/plan.h"
#include "parallel/gathered.h"
#include "parallel/lists.h"
#include "parallel/moves.h"
#include "plan/cache.h"

namespace longstride::parallel {

// What a rank knows before its tensors come: the same for every call of these lengths.
struct Rank {
  static constexpr int64_t kAllSteps = -1;  // all that it receives at once
  // Throws Error as ShardedCall does, and if there is no such rank or step.
  Rank(ShardedCall, int64_t rank, int64_t step = kAllSteps);

  ShardedCall call;
  int64_t rank = 0;
  int64_t step = kAllSteps;
  RankLists lists;
  std::vector<Piece> pieces;  // none after step 0
  Gathered gathered;
  std::vector<int64_t> steps;  // of step 0: those of the ring, itself first

  int64_t rows() const { return call.shards.rows(rank); }
  int64_t places() const { return call.extent.batch * call.extent.kv_heads; }
  const GatheredClass& gathered_of(int64_t place) const { return gathered.classes[call.classes.class_of[place]]; }
  int64_t bytes() const;  // of what it lists
};

// As engines take them: with what an engine keeps beside a plan.
using PlanPointer = std::shared_ptr<const plan::CachedPlan>;

// One plan a piece, and that of the gathered rows, in one direction.
struct RankPlans {
  std::vector<PlanPointer> pieces;
  PlanPointer gathered;

  int64_t bytes() const;
};
RankPlans compile(const Rank&, const Geometry&, Direction);

// Those of a backward: transposed ones, and of an engine that reads them in its backward the forward ones too.
struct BackwardPlans {
  const RankPlans& transposed;
  const RankPlans* forward = nullptr;
};

// Runs one problem on one of the plans.
using ForwardEngine = std::function<void(const engine::ForwardProblem&, const PlanPointer&)>;
using BackwardEngine =
    std::function<void(const engine::BackwardProblem&, const PlanPointer& transposed, const PlanPointer& forward)>;

// Writes out and lse of the shard as far as its own pieces show them.
void forward_pieces(const Rank&, const RankPlans&, const engine::ForwardProblem&, const Moves&, const ForwardEngine&);
// Joins what the gathered queries see. `keys` is the buffer of keys (moves.h) with all received rows in it; its other
// rows are gathered here.
void forward_gathered(const Rank&, const RankPlans&, const engine::ForwardProblem&, void* keys, const Moves&,
                      const ForwardEngine&);

// Writes the gradients of gathered queries, [batch, heads, Gathered::queries, dim], and of the buffer of keys, which is
// as forward_gathered() left it.
void backward_gathered(const Rank&, const BackwardPlans&, const engine::BackwardProblem&, const void* keys,
                       void* d_queries, void* d_keys, const Moves&, const BackwardEngine&);
// Writes dq, dk and dv of the shard as far as its own pieces show them.
void backward_pieces(const Rank&, const BackwardPlans&, const engine::BackwardProblem&, const Moves&,
                     const BackwardEngine&);
// Adds to them what backward_gathered() wrote of the shard's own rows.
void add_gathered(const Rank&, const engine::BackwardProblem&, const void* d_queries, const void* d_keys, const Moves&);

}  // namespace longstride::parallel
