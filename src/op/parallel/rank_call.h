// One kernel's call of one rank, checked: from tensors of a shard to what src/parallel computes with. Called by the
// kernels of this folder, each of which does this first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "op/engines.h"
#include "op/parallel/rank_cache.h"
#include "op/tensor.h"
#include "parallel/moves.h"

namespace longstride::op {

// Who holds which positions, and which rank this is.
struct ShardArguments {
  std::vector<int64_t> boundaries;  // positions at which contiguous shards begin and end, ranks + 1 of them, or 2: the
                                    // ends of the whole sequence, which is cut evenly
  std::string layout;               // "contiguous" | "zigzag"
  int64_t ranks = 1;
  int64_t rank = 0;
  int64_t step = parallel::Rank::kAllSteps;  // of a ring
  // So many neighbouring ranks divide the heads: q, k and v have this rank's share of them and the rows of all of
  // these, and its exchanges are those among the ranks of the same heads.
  int64_t heads_among = 1;  // slopes of ALiBi, blocks and gates are those of all heads still; dropout goes by a head's
                            // number among all
};
// Throw Error.
parallel::Shards shards_of(const ShardArguments&);
std::vector<int64_t> boundaries_of(const Tensor&);  // int32 or int64, of one dimension

class RankCall {
 public:
  // Of q, k and v the rows of the shard, of the call lengths of the whole sequence. Throws Error for what it refuses.
  RankCall(const Tensor& q, const Tensor& k, const Tensor& v, const Call&, const ShardArguments&);

  RankCall(const RankCall&) = delete;
  RankCall& operator=(const RankCall&) = delete;

  const parallel::Rank& rank() const { return *rank_; }
  std::shared_ptr<const parallel::Rank> rank_of_step(int64_t step) const;
  const Engine& engine() const { return *engine_; }
  // The option of the call that takes whole sequences (parallel/exchange.h); "": none.
  std::string of_whole() const {
    return problem_.alibi ? "alibi_slopes" : problem_.drops() ? "dropout_p" : gates_ ? "gates" : "";
  }
  // Null: none.
  const Tensor* gates() const { return static_cast<const Tensor*>(gates_.get()); }
  int64_t first_kv_head() const { return key_.share.at * problem_.kv_heads; }
  const engine::Problem& problem() const { return problem_; }  // of the shard
  const engine::Workspace& workspace() const { return loan_.workspace; }
  const Loan& loan() const { return loan_; }
  ScalarType dtype() const { return dtype_; }
  // Of parts that are joined, of gradients that travel, and of lse: float32, or float64 of float64.
  ScalarType wide_dtype() const { return lse_dtype(dtype_); }
  Place place() const { return place_; }

  std::shared_ptr<const parallel::RankPlans> plans(Direction, Pass) const;
  const parallel::Moves& moves() const { return *moves_; }
  // An empty shard, or no batch: nothing is computed and nothing travels.
  bool empty() const { return problem_.batch == 0 || problem_.len_q == 0; }

 private:
  RankKey key_;
  Place place_;
  std::shared_ptr<void> on_device_;  // of CUDA: makes it the current one while the call lives
  std::shared_ptr<const CachedRank> rank_;
  const Engine* engine_ = nullptr;
  engine::Problem problem_;
  // The former two are kept for the problem, which points at them: at its share of the slopes of all heads.
  std::shared_ptr<const void> slopes_, seed_, gates_;
  Loan loan_;
  std::unique_ptr<const parallel::Moves> moves_;
  ScalarType dtype_ = ScalarType::Undefined;
};

}  // namespace longstride::op
