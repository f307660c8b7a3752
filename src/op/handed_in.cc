// See handed_in.h.
#include "op/handed_in.h"

#include <fmt/format.h>

#include <sstream>

#include "core/refuse.h"

namespace longstride::op {
namespace {

using at::Tensor;

// Bytes from the start of the storage to the end of the last element.
int64_t bytes_reached(const Tensor& t) {
  int64_t last = t.storage_offset();
  for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  return (last + 1) * static_cast<int64_t>(t.itemsize());
}

}  // namespace

bool has_data(const Tensor& t) { return !t.is_meta() && !t.unsafeGetTensorImpl()->is_python_dispatch(); }

void check_dense(std::string_view name, const Tensor& t) {
  if (!t.defined()) core::refuse(name, "must be a tensor", "an undefined one");
  if (t.is_nested())
    core::refuse(name, "must be a dense tensor", "a nested one", "pack its rows into one and give cu_seqlens");
  if (t.layout() != at::kStrided) {
    std::ostringstream layout;
    layout << t.layout();
    core::refuse(name, "must be a dense tensor", "one of layout " + layout.str(), "call .to_dense()");
  }
  if (t.is_quantized()) core::refuse(name, "must be a dense tensor", "a quantized one", "call .dequantize()");
}

void check_handed_in(std::string_view name, const Tensor& t) {
  check_dense(name, t);
  if (!has_data(t) || t.numel() == 0) return;
  const int64_t wanted = bytes_reached(t), there = static_cast<int64_t>(t.storage().nbytes());
  if (there < wanted)
    core::refuse(name, fmt::format("must have its memory, {} bytes", wanted), fmt::format("{} bytes", there),
                 "its storage was freed or made smaller");
}

}  // namespace longstride::op
