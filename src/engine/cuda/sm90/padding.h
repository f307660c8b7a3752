// The slower path for tensors that the kernels cannot read or write in place: one copy of each such tensor into rows of
// a multiple of 16 bytes (results likewise, copied out afterwards). Called by the launches of forward and backward.
#pragma once

#include <vector>

#include "engine/contract.h"
#include "engine/cuda/scratch.h"

namespace longstride::engine::cuda::sm90 {

// Whether the kernels write results there in place: they store pairs of elements.
bool takes_pairs(const TensorRef&, int64_t dim);

class Padding {
 public:
  Padding(const Problem&, Scratch&);

  // What the kernels are given: a tensor of [batch, len, heads, dim] itself, or its copy.
  ConstTensorRef in(const ConstTensorRef&, int64_t len, int64_t heads);
  // A result itself, or room for it that finish() copies to where it belongs.
  TensorRef out(const TensorRef&, int64_t len, int64_t heads);
  void finish();

 private:
  struct Return {
    TensorRef from, to;
    int64_t len, heads;
  };
  TensorRef room(int64_t len, int64_t heads);
  void copy(const ConstTensorRef& from, const TensorRef& to, int64_t len, int64_t heads);
  const Problem& problem_;
  Scratch& scratch_;
  std::vector<Return> returns_;
};

}  // namespace longstride::engine::cuda::sm90
