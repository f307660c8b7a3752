// Kernels of a rank of context parallelism: rows of a shard into messages and buffers and back, and sums of what was
// computed elsewhere. Everything runs on the stream; a row is written by one warp, which adds its sources in the order
// of the table's lines, in float32, and rounds once: the bits are the same every time. Called by src/op/parallel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "engine/contract.h"
#include "engine/cuda/row_table.h"

namespace longstride::engine::cuda {

// A table on the current device.
class DeviceRows {
 public:
  // The copy is there on return.
  explicit DeviceRows(const RowTable&);
  struct View {
    const RowLine* lines = nullptr;
    const int64_t* line_begin = nullptr;
    const int64_t* class_of = nullptr;
    const int64_t* part_begin = nullptr;
    int64_t heads = 1;
    int64_t places = 0;
    int64_t most_rows = 0;
  };
  const View& view() const { return view_; }

 private:
  struct Release {
    void operator()(void*) const;
  };
  std::unique_ptr<void, Release> memory_;
  View view_;
};

// Tensors of the shard are [batch, rows, heads of the table, dim] in any strides. The packed memory has rows of one
// after another what `tensors` has: of one tensor [rows, dim], of two [rows, 2, dim].

void gather_rows(const DeviceRows&, core::DType, int64_t dim, const std::vector<ConstTensorRef>& tensors, void* packed,
                 Stream);
void scatter_rows(const DeviceRows&, core::DType, int64_t dim, const void* packed,
                  const std::vector<TensorRef>& tensors, Stream);
// Adds float32 rows to tensors of the dtype.
void add_rows(const DeviceRows&, core::DType, int64_t dim, const float* packed, const std::vector<TensorRef>& tensors,
              Stream);
// Joins float32 (out, lse) to out of the dtype and lse [batch, heads, rows]: one softmax over the keys of all. A part
// that saw nothing, lse = -inf, is not read.
void merge_rows(const DeviceRows&, core::DType, int64_t dim, const float* packed_out, const float* packed_lse,
                const TensorRef& out, float* lse, int64_t rows, Stream);

void clear_bytes(void* memory, int64_t bytes, Stream);
// `bytes` of each of `lines`, which lie so many bytes apart.
void copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes, int64_t lines, Stream);

}  // namespace longstride::engine::cuda
