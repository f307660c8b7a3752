// Tensors of LibTorch's stable ABI as the kernels use them. Everything is asked of LibTorch's C interface, by functions
// that LibTorch 2.10 and all later ones have; tools/torch_symbols.txt lists them. Only files of this folder include
// this: op/autograd is compiled against the full ABI.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "op/array.h"
#include "op/call.h"

namespace longstride::op {

using Tensor = torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Call = CallOf<Tensor, int64_t>;
using Outputs = OutputsOf<Tensor>;
using InputGrads = InputGradsOf<Tensor>;
using BackwardInputs = BackwardInputsOf<Tensor>;
using Sizes = std::span<const int64_t>;

template <>
struct Access<Tensor> {
  using Size = int64_t;
  static ArrayView<int64_t> view(const Tensor&);
  static std::vector<int64_t> numbers(const Tensor&);
  static std::vector<Block> blocks(const Tensor&);
};

// A contiguous tensor of one of our dtypes or int64 whose values are yet to be written.
Tensor empty(Sizes, ScalarType, Place);
Tensor zeros(Sizes, ScalarType, Place);
// The same for what a call gives (results.cc): large ones on the CPU come from the process's pool, to which they return
// with their last reference. Throws Error for more than the machine's memory; where there is no more, std::bad_alloc,
// or for what LibTorch allocates what out_of_memory() does.
Tensor empty_result(Sizes, ScalarType, Place);
// The tensor itself where it is so already.
Tensor contiguous(const Tensor&);
Tensor on_host(const Tensor&);

}  // namespace longstride::op
