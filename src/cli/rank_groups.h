// The ranks of a run as torchrun tells them in the environment, and process groups of them. Called by train, and by
// main.cc for the name of this rank.
#pragma once

#include <cstdint>
#include <string>

#include "longstride/train.h"

namespace longstride::cli {

struct RankPlace {
  int rank = 0, ranks = 1;
  std::string host;  // of the store in which ranks meet
  int port = 0;
};

// RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment; one rank of one where neither of the first two is
// set. Throws Error where some of them are missing or make no sense.
RankPlace rank_place();

// "rank 1 of 4: " before what this process says of itself, or "" where it is alone.
std::string rank_label();

// What `device`, as --device has it, is on this rank: "cuda" of several ranks is the GPU of its LOCAL_RANK. Throws
// Error.
std::string device_of_rank(const RankPlace& place, const std::string& device);

// Groups over Gloo, and for tensors of a GPU over NCCL, of all ranks, and of each `context_parallel` successive ones;
// waits for all ranks. What a group waits for longer than `timeout_seconds` is an error. Throws Error, and
// std::runtime_error where ranks do not come together.
TrainRanks join_ranks(const RankPlace& place, int64_t context_parallel, double timeout_seconds,
                      const std::string& device);

// Has NCCL let go of the GPU when its scope ends, where join_ranks gave it one: at once and without a word, for by then
// every exchange has been waited for, or one has failed.
class NcclScope {
 public:
  explicit NcclScope(const TrainRanks& ranks) : ranks_(ranks) {}
  ~NcclScope();
  NcclScope(const NcclScope&) = delete;
  NcclScope& operator=(const NcclScope&) = delete;

 private:
  const TrainRanks& ranks_;
};

}  // namespace longstride::cli
