// A process group as cp_attention and unshard use it: ranks compare what they are about to do, then rows travel in one
// all-to-all, of tensors of devices that it moves. Called by sharded.cc and shards.cc.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "longstride/parallel.h"

namespace longstride::op::autograd {

// Where numbers that ranks compare travel: the CPU, or of a group that moves none there the current GPU.
at::Device host_of(const RankGroup&);

// Throws Error unless `tensor` is on the CPU or a CUDA device, and of one that `group`, if it has ranks, moves.
void check_device(const char* name, const at::Tensor& tensor, const RankGroup& group);

// One call of `what` on a group, for as long as it lives: throws CommError while another one lives, and once one has
// failed.
class Turn {
 public:
  Turn(std::string what, RankGroup);

  int64_t ranks() const { return group_->getSize(); }
  int64_t rank() const { return group_->getRank(); }

  // The sum of `rows` over the ranks, whose descriptions are alike: `description` is JSON text, or the Error that this
  // rank has found. Throws Error on every rank, the rank's own or one that says what differs, and CommError.
  int64_t agree(const std::string& description, const std::optional<Error>&, int64_t rows);

  // Rows [rows, n] of every rank, under way: sent[i] go to rank i, received[i] come from it.
  class Rows {
   public:
    at::Tensor wait();  // throws CommError

   private:
    friend class Turn;
    Turn* turn_ = nullptr;
    at::Tensor sent_, bytes_;
    at::ScalarType dtype_;
    std::vector<int64_t> out_, in_;
    c10::intrusive_ptr<c10d::Work> work_;
  };
  Rows post(const at::Tensor& rows, std::vector<int64_t> sent, std::vector<int64_t> received);

 private:
  struct State;
  // Runs `body`; what it throws marks the group as broken and is a CommError.
  void guarded(const std::function<void()>& body);
  at::Tensor gathered(const at::Tensor& own);  // [ranks, n] of every rank's [n], on the CPU

  std::string what_;
  RankGroup group_;
  std::shared_ptr<State> state_;
  std::unique_lock<std::mutex> lock_;
};

}  // namespace longstride::op::autograd
