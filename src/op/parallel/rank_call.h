// One kernel's call of one rank, checked: from tensors of a shard to what src/parallel computes with. Called by the
// kernels of this folder, each of which does this first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "op/engines.h"
#include "op/parallel/rank_cache.h"
#include "op/tensor.h"
#include "parallel/rows.h"

namespace longstride::op {

// Who holds which positions, and which rank this is.
struct ShardArguments {
  std::vector<int64_t> boundaries;  // positions at which contiguous shards begin and end, ranks + 1 of them, or 2: the
                                    // ends of the whole sequence, which is cut evenly
  std::string layout;               // "contiguous" | "zigzag"
  int64_t ranks = 1;
  int64_t rank = 0;
};
// Throw Error.
parallel::Shards shards_of(const ShardArguments&);
std::vector<int64_t> boundaries_of(const Tensor&);  // int32 or int64, of one dimension

class RankCall {
 public:
  // Of q, k and v the rows of the shard, of the call lengths of the whole sequence. Throws Error for what it refuses.
  RankCall(const Tensor& q, const Tensor& k, const Tensor& v, const Call&, const ShardArguments&);

  const parallel::Rank& rank() const { return *rank_; }
  const Engine& engine() const { return *engine_; }
  const engine::Problem& problem() const { return problem_; }  // of the shard
  const engine::Workspace& workspace() const { return loan_.workspace; }
  const Loan& loan() const { return loan_; }
  ScalarType dtype() const { return dtype_; }

  std::shared_ptr<const parallel::RankPlans> plans(Direction) const;
  // Rows of keys, or of their gradients.
  parallel::Moving moving() const;
  // An empty shard, or no batch: nothing is computed and nothing travels.
  bool empty() const { return problem_.batch == 0 || problem_.len_q == 0; }

 private:
  RankKey key_;
  std::shared_ptr<const parallel::Rank> rank_;
  const Engine* engine_ = nullptr;
  engine::Problem problem_;
  Loan loan_;
  ScalarType dtype_ = ScalarType::Undefined;
};

}  // namespace longstride::op
