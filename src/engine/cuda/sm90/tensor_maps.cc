// Makes the maps of tensor_maps.h. The encoder is taken from the driver at run time, so that no driver library is
// linked.
#include "engine/cuda/sm90/tensor_maps.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "longstride/error.h"

namespace longstride::engine::cuda::sm90 {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto entry = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess || found == nullptr)
      throw Error("the CUDA driver has no cuTensorMapEncodeTiled; update it to 12.0 or later");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  return entry;
}

CUtensorMap encode(const void* data, core::DType dtype, const MapShape& shape) {
  CUtensorMap map;
  cuuint64_t extents[5], strides[4];
  cuuint32_t boxes[5];
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  std::copy_n(shape.extents, 5, extents);
  std::copy_n(shape.strides_bytes, 4, strides);
  std::copy_n(shape.boxes, 5, boxes);
  const auto type = dtype == core::DType::kBFloat16  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                    : dtype == core::DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const auto swizzle = shape.swizzle_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  const CUresult result =
      encoder()(&map, type, 5, const_cast<void*>(data), extents, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw Error(fmt::format(
        "cuTensorMapEncodeTiled refused (error {}) extents [{}, {}, {}, {}, {}], strides [{}, {}, {}, {}] bytes",
        int(result), extents[4], extents[3], extents[2], extents[1], extents[0], strides[3], strides[2], strides[1],
        strides[0]));
  return map;
}

}  // namespace

std::string why_not(const ConstTensorRef& t, core::DType dtype) {
  const int64_t size = core::size_bytes(dtype);
  if (reinterpret_cast<uintptr_t>(t.data) % 16) return "data is not 16-byte aligned";
  const std::pair<const char*, int64_t> strides[] = {
      {"len", t.len_stride}, {"head", t.head_stride}, {"batch", t.batch_stride}};
  for (const auto& [name, stride] : strides)
    if (stride < 0 || stride * size % 16)
      return fmt::format("{} stride {} is not a multiple of 16 bytes", name, stride);
  return "";
}

MapShape map_shape(const ConstTensorRef& t, core::DType dtype, int64_t batch, int64_t rows, int64_t residues,
                   int64_t heads, int64_t dim, int64_t stride, int box_rows, int box) {
  const uint64_t size = core::size_bytes(dtype);
  // A dimension of one element may have any stride; the driver wants a multiple of 16 that is not 0.
  const auto bytes = [&](int64_t elements, int64_t extent) -> uint64_t { return extent > 1 ? elements * size : 16; };
  MapShape shape;
  const int64_t extents[5] = {dim, residues, rows, heads, batch};
  std::copy_n(extents, 5, shape.extents);
  shape.strides_bytes[0] = bytes(t.len_stride, residues);
  shape.strides_bytes[1] = bytes(t.len_stride * stride, rows);
  shape.strides_bytes[2] = bytes(t.head_stride, heads);
  shape.strides_bytes[3] = bytes(t.batch_stride, batch);
  shape.boxes[0] = static_cast<uint32_t>(box);
  shape.boxes[2] = static_cast<uint32_t>(box_rows);
  shape.swizzle_bytes = static_cast<int>(box * size) == 128 ? 128 : 64;
  return shape;
}

MapPair make_maps(const ConstTensorRef& t, core::DType dtype, int64_t batch, int64_t len, int64_t heads, int64_t dim,
                  int64_t stride, int rows, int box) {
  MapPair maps;
  std::memset(&maps, 0, sizeof(maps));
  const auto map = [&](int64_t map_rows, int64_t residues) {
    return encode(t.data, dtype, map_shape(t, dtype, batch, map_rows, residues, heads, dim, stride, rows, box));
  };
  if (len / stride > 0) maps.all = map(len / stride, stride);
  if (len % stride > 0) maps.front = map(len / stride + 1, len % stride);
  return maps;
}

}  // namespace longstride::engine::cuda::sm90
