// Rows in and out of tensors, and the packings of a product's right operand (kernels.h).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/rows.cc"
#include <hwy/foreach_target.h>
// foreach_target comes first: it includes this file once per instruction set.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/half.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longstride::engine::cpu::HWY_NAMESPACE {

// Rows at a large stride are each a miss in the caches and often in the TLB: they are asked for so many rows ahead. Row
// j + kAhead may lie beyond the tensor; a prefetch does not read.
constexpr int64_t kAhead = 24;
HWY_INLINE void prefetch_row(const void* base, int64_t offset_bytes, int64_t size_bytes) {
  const auto at = reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(offset_bytes);
  for (int64_t i = 0; i < size_bytes; i += 64) {
    hwy::Prefetch(reinterpret_cast<const char*>(at + static_cast<uintptr_t>(i)));
  }
}

HWY_INLINE void halves_to_floats(const uint16_t* from, int64_t count, float* to) {
  const Floats d;
  const hn::Rebind<hwy::float16_t, Floats> dh;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from + i))), d, to + i);
  }
  for (; i < count; ++i) to[i] = core::to_float(core::Float16{from[i]});
}

HWY_INLINE void row_to_floats(core::DType dtype, const void* from, int64_t count, float* to) {
  if (dtype == core::DType::kFloat32) {
    std::memcpy(to, from, static_cast<size_t>(count) * 4);
  } else if (dtype == core::DType::kFloat16) {
    halves_to_floats(static_cast<const uint16_t*>(from), count, to);
  } else {
    const auto* bits = static_cast<const uint16_t*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(bits[i]) << 16);
  }
}

void gather_rows(core::DType dtype, const void* base, int64_t stride, int64_t rows, int64_t dim, bool negate, Cell cell,
                 int64_t dim_padded, void* to) {
  const auto* from = static_cast<const char*>(base);
  const int64_t step = stride * static_cast<int64_t>(core::size_bytes(dtype));
  if (cell == Cell::kNarrow) {
    const uint16_t sign = negate ? 0x8000 : 0;
    for (int64_t j = 0; j < rows; ++j) {
      prefetch_row(base, (j + kAhead) * step, dim * 2);
      auto* row = static_cast<uint16_t*>(to) + j * dim_padded;
      const auto* bits = reinterpret_cast<const uint16_t*>(from + j * step);
      for (int64_t i = 0; i < dim; ++i) row[i] = bits[i] ^ sign;
      std::fill(row + dim, row + dim_padded, uint16_t{0});
    }
    return;
  }
  for (int64_t j = 0; j < rows; ++j) {
    prefetch_row(base, (j + kAhead) * step, dim * static_cast<int64_t>(core::size_bytes(dtype)));
    float* row = static_cast<float*>(to) + j * dim_padded;
    row_to_floats(dtype, from + j * step, dim, row);
    if (negate) {
      for (int64_t i = 0; i < dim; ++i) row[i] = -row[i];
    }
    std::fill(row + dim, row + dim_padded, 0.0f);
  }
}

bool any_nonfinite(Cell cell, const void* cells, int64_t count) {
  uint32_t found = 0;
  if (cell == Cell::kNarrow) {
    const auto* bits = static_cast<const uint16_t*>(cells);
    for (int64_t i = 0; i < count; ++i) found |= (bits[i] & 0x7F80u) == 0x7F80u;
  } else {
    const auto* words = static_cast<const uint32_t*>(cells);
    for (int64_t i = 0; i < count; ++i) found |= (words[i] & 0x7F800000u) == 0x7F800000u;
  }
  return found != 0;
}

// A transpose of words: a pair of narrow cells along dim is one word, so both cells' packings are the same moves.
void pack_transposed(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, int64_t width, void* to) {
  const Words du;
  const hn::RebindToSigned<Words> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(du));
  const int64_t units = cell == Cell::kNarrow ? dim_padded / 2 : dim_padded;
  const auto* from = static_cast<const uint32_t*>(cells);
  auto* out = static_cast<uint32_t*>(to);
  const auto steps = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(units)));
  for (int64_t r = 0; r < rows; r += lanes) {
    for (int64_t u = 0; u < units; ++u) {
      hn::StoreU(hn::GatherIndex(du, from + r * units + u, steps), du, out + u * width + r);
    }
  }
}

void pack_rows(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, void* to) {
  if (cell == Cell::kFloat32) {
    std::memcpy(to, cells, static_cast<size_t>(rows * dim_padded) * 4);
    return;
  }
  const auto* from = static_cast<const uint16_t*>(cells);
  auto* out = static_cast<uint32_t*>(to);
  for (int64_t group = 0; group < rows; group += kGroup) {
    for (int64_t i = 0; i < kGroup / 2; ++i) {
      const uint16_t* low = from + (group + i) * dim_padded;
      const uint16_t* high = low + kGroup / 2 * dim_padded;
      uint32_t* pair = out + (group / 2 + i) * dim_padded;
      for (int64_t x = 0; x < dim_padded; ++x) pair[x] = low[x] | static_cast<uint32_t>(high[x]) << 16;
    }
  }
}

void transpose_cells(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, int64_t width, void* to) {
  if (cell == Cell::kFloat32) return HWY_NAMESPACE::pack_transposed(cell, cells, rows, dim_padded, width, to);
  const auto* from = static_cast<const uint16_t*>(cells);
  auto* out = static_cast<uint16_t*>(to);
  for (int64_t r0 = 0; r0 < rows; r0 += 16) {
    for (int64_t x = 0; x < dim_padded; ++x) {
      for (int64_t r = r0; r < r0 + 16; ++r) out[x * width + r] = from[r * dim_padded + x];
    }
  }
}

HWY_INLINE void store_row(core::DType dtype, const float* from, float factor, int64_t dim, void* to) {
  if (dtype == core::DType::kFloat32) {
    for (int64_t i = 0; i < dim; ++i) static_cast<float*>(to)[i] = from[i] * factor;
  } else if (dtype == core::DType::kBFloat16) {
    for (int64_t i = 0; i < dim; ++i) static_cast<uint16_t*>(to)[i] = core::to_bfloat16(from[i] * factor).bits;
  } else {
    const Floats d;
    const hn::Rebind<hwy::float16_t, Floats> dh;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    auto* bits = static_cast<uint16_t*>(to);
    int64_t i = 0;
    for (; i + lanes <= dim; i += lanes) {
      const Vector x = hn::Mul(hn::LoadU(d, from + i), hn::Set(d, factor));
      hn::StoreU(hn::DemoteTo(dh, x), dh, reinterpret_cast<hwy::float16_t*>(bits + i));
    }
    for (; i < dim; ++i) bits[i] = core::to_float16(from[i] * factor).bits;
  }
}

void store_rows(core::DType dtype, const float* from, int64_t ld, const float* factors, int64_t rows, int64_t dim,
                void* base, int64_t stride) {
  const auto size = static_cast<int64_t>(core::size_bytes(dtype));
  for (int64_t j = 0; j < rows; ++j) {
    prefetch_row(base, (j + kAhead) * stride * size, dim * size);
    store_row(dtype, from + j * ld, factors[j], dim, static_cast<char*>(base) + j * stride * size);
  }
}

void dot_rows(core::DType dtype, const void* base, int64_t stride, int64_t rows, int64_t dim, Cell cell,
              int64_t dim_padded, const void* cells, float* to) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t kPart = 64;
  HWY_ALIGN float x[kPart];
  HWY_ALIGN float y[kPart];
  const auto size = static_cast<int64_t>(core::size_bytes(dtype));
  const core::DType of_cells = cell == Cell::kNarrow ? core::DType::kBFloat16 : core::DType::kFloat32;
  for (int64_t j = 0; j < rows; ++j) {
    prefetch_row(base, (j + kAhead) * stride * size, dim * size);
    const char* row = static_cast<const char*>(base) + j * stride * size;
    const char* other = static_cast<const char*>(cells) + j * dim_padded * cell_bytes(cell);
    Vector sum = hn::Zero(d);
    for (int64_t i = 0; i < dim; i += kPart) {
      const int64_t count = std::min(kPart, dim - i);
      if (count < kPart) {
        std::fill_n(x, kPart, 0.0f);
        std::fill_n(y, kPart, 0.0f);
      }
      row_to_floats(dtype, row + i * size, count, x);
      row_to_floats(of_cells, other + i * cell_bytes(cell), count, y);
      for (int64_t k = 0; k < kPart; k += lanes) sum = hn::MulAdd(hn::Load(d, x + k), hn::Load(d, y + k), sum);
    }
    to[j] = hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

void add(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longstride::engine::cpu {
HWY_EXPORT(gather_rows);
HWY_EXPORT(any_nonfinite);
HWY_EXPORT(pack_transposed);
HWY_EXPORT(pack_rows);
HWY_EXPORT(transpose_cells);
HWY_EXPORT(store_rows);
HWY_EXPORT(dot_rows);
HWY_EXPORT(add);

void gather_rows(core::DType dtype, const void* base, int64_t stride, int64_t rows, int64_t dim, bool negate, Cell cell,
                 int64_t dim_padded, void* to) {
  HWY_DYNAMIC_DISPATCH(gather_rows)(dtype, base, stride, rows, dim, negate, cell, dim_padded, to);
}
bool any_nonfinite(Cell cell, const void* cells, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(any_nonfinite)(cell, cells, count);
}
void pack_transposed(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, int64_t width, void* to) {
  HWY_DYNAMIC_DISPATCH(pack_transposed)(cell, cells, rows, dim_padded, width, to);
}
void pack_rows(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, void* to) {
  HWY_DYNAMIC_DISPATCH(pack_rows)(cell, cells, rows, dim_padded, to);
}
void transpose_cells(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, int64_t width, void* to) {
  HWY_DYNAMIC_DISPATCH(transpose_cells)(cell, cells, rows, dim_padded, width, to);
}
void store_rows(core::DType dtype, const float* from, int64_t ld, const float* factors, int64_t rows, int64_t dim,
                void* base, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(store_rows)(dtype, from, ld, factors, rows, dim, base, stride);
}
void dot_rows(core::DType dtype, const void* base, int64_t stride, int64_t rows, int64_t dim, Cell cell,
              int64_t dim_padded, const void* cells, float* to) {
  HWY_DYNAMIC_DISPATCH(dot_rows)(dtype, base, stride, rows, dim, cell, dim_padded, cells, to);
}
void add(const float* from, int64_t count, float* to) { HWY_DYNAMIC_DISPATCH(add)(from, count, to); }
}  // namespace longstride::engine::cpu
#endif
