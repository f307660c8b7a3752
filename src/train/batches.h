// Which bytes a forward of a run reads: a function of the step's number, the context and the rank alone, so that a run
// goes on wherever it was cut, on any number of ranks. Called by the trainer.
#pragma once

#include <memory>

#include "train/corpus.h"
#include "train/ranks.h"

namespace longstride::train {

struct Batch {
  at::Tensor tokens, targets;  // int64 [rows of this rank, its part of the context]
  CallOptions call;
  double share = 1.0;  // of its rows in those of all ranks: what the loss over them weighs in that over all
};

class Batches {
 public:
  // All of them outlive this. Throws Error: a text that is too short, settings that these ranks cannot run.
  Batches(const Text& text, const TrainSettings& settings, const Ranks& ranks);
  int64_t rows(int64_t context) const;  // of a forward, on all ranks
  Batch at(int64_t step, int64_t forward, int64_t context);

 private:
  const Text& text_;
  const TrainSettings& settings_;
  const Ranks& ranks_;
  int64_t context_;  // of order_
  std::unique_ptr<WindowOrder> order_;
};

}  // namespace longstride::train
