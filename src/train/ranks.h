// The processes that share a run, as the trainer sees them: which part of the samples this one takes, what all of them
// agree on, and the sum of their gradients. A process alone is one rank of one, to which nothing is sent. Called by the
// trainer, batches and scoring; every rank makes the same calls in the same order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/json.h"
#include "longstride/train.h"

namespace longstride::train {

class Ranks {
 public:
  // Throws Error where the groups do not fit each other.
  explicit Ranks(const TrainRanks& groups);

  bool alone() const { return size_ == 1; }
  bool first() const { return rank_ == 0; }  // who writes
  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  // Ranks that share each sequence, and into how many parts, one for each such set of ranks, samples are shared out.
  int64_t context_size() const { return context_size_; }
  int64_t parts() const { return size_ / context_size_; }
  int64_t part() const { return rank_ / context_size_; }

  // The layout of a sequence over the ranks that share it: under a causal mask all have as much to do.
  static constexpr const char* kLayout = "zigzag";
  const RankGroup& context() const { return groups_.context; }
  // This rank's part of tokens [rows, len], and what a call of a model placed on context() takes with it.
  at::Tensor own(const at::Tensor& tokens) const;
  CallOptions call(int64_t len) const;

  // Of what this rank draws in a step, each for itself. A function of the step, so that a run goes on bit for bit
  // though only the first rank's generator is saved. The first of the ranks that share a sequence, whose draws of
  // attention dropout are those of all of them, draws as a rank does that has such a sequence alone.
  uint64_t seed(uint64_t of_run, int64_t step) const;

  // Every rank's values [n] in the order of ranks: [ranks, n]. Throws CommError, as all below.
  at::Tensor gathered(const at::Tensor& own) const;
  // Replaces each tensor, all of one device, by its sum over the ranks, which has the same bits on all of them.
  void add_up(const std::vector<at::Tensor>& tensors) const;
  // Runs `body` here. Where it throws on any rank, throws on all: that rank's own exception, or one that names the
  // rank.
  void together(const std::function<void()>& body) const;
  // Throws Error unless the groups move tensors of such a device.
  void check_device(at::Device device) const;
  // Throws Error on every rank unless all have the same: values by name, whose difference it tells.
  void compare(const core::Json& own) const;

  // Tells the others, who may be waiting for this rank, why it ends.
  void leave_word(const std::string& why) const;
  // After a CommError: who of the others has failed and who has left no word, as the beginning of a sentence; or "".
  std::string roll_call() const;

 private:
  std::vector<std::string> texts(const std::string& own) const;

  TrainRanks groups_;
  int64_t rank_ = 0, size_ = 1, context_size_ = 1;
};

}  // namespace longstride::train
