// What a tensor must be before anything reads it: a dense one, with its memory there. For every tensor that a call is
// given.
#pragma once

#include <fmt/format.h>

#include "core/refuse.h"
#include "op/array.h"

namespace longstride::op {

// Refuses an undefined tensor and those that are no array: sparse, nested, quantized, of another library's layout.
template <class Size>
void check_dense(std::string_view name, const ArrayView<Size>& t) {
  const char* const dense = "must be a dense tensor";
  switch (t.kind) {
    case Kind::kDense:
      return;
    case Kind::kUndefined:
      core::refuse(name, "must be a tensor", "an undefined one");
    case Kind::kNested:
      core::refuse(name, dense, "a nested one", "pack its rows into one and give cu_seqlens");
    case Kind::kOtherLayout:
      core::refuse(name, dense, fmt::format("one of layout {}", layout_name(t.layout)), "call .to_dense()");
    case Kind::kQuantized:
      core::refuse(name, dense, "a quantized one", "call .dequantize()");
  }
}

// The same, and those with less memory than their sizes say, as after storage().resize_(0).
template <class Size>
void check_handed_in(std::string_view name, const ArrayView<Size>& t) {
  check_dense(name, t);
  if (!t.has_data) return;
  int64_t last = t.storage_offset;
  for (size_t d = 0; d < t.sizes.size(); ++d) {
    const int64_t size = Compare<Size>::number(t.sizes[d]).value_or(0);
    if (size == 0) return;
    last += (size - 1) * Compare<Size>::number(t.strides[d]).value_or(0);
  }
  const int64_t wanted = (last + 1) * t.item_bytes;  // from the start of the storage to the end of the last element
  if (t.storage_bytes < wanted)
    core::refuse(name, fmt::format("must have its memory, {} bytes", wanted), fmt::format("{} bytes", t.storage_bytes),
                 "its storage was freed or made smaller");
}

}  // namespace longstride::op
