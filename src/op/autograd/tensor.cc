// at::Tensor as the checks see one (tensor.h).
#include "op/autograd/tensor.h"

#include <ATen/Functions.h>

#include <limits>

namespace longstride::op {
namespace {

std::span<const c10::SymInt> span_of(c10::SymIntArrayRef list) { return {list.data(), list.size()}; }

}  // namespace

ArrayView<c10::SymInt> Access<at::Tensor>::view(const at::Tensor& t) {
  ArrayView<c10::SymInt> view;
  if (!t.defined()) return view;
  view.dtype = t.scalar_type();
  view.place = place_of(t.device());
  view.kind = t.is_nested()                ? Kind::kNested
              : t.layout() != at::kStrided ? Kind::kOtherLayout
              : t.is_quantized()           ? Kind::kQuantized
                                           : Kind::kDense;
  if (view.kind == Kind::kOtherLayout) view.layout = t.layout();
  if (view.kind != Kind::kDense) return view;
  view.sizes = span_of(t.sym_sizes());
  view.strides = span_of(t.sym_strides());
  view.has_data = !t.is_meta() && !t.unsafeGetTensorImpl()->is_python_dispatch();
  if (!view.has_data) return view;
  view.item_bytes = t.itemsize();
  if (!t.has_storage()) {  // a wrapper: whoever reads it finds what is inside
    view.storage_bytes = std::numeric_limits<int64_t>::max();
    return view;
  }
  view.storage_bytes = t.storage().nbytes();
  view.storage_offset = t.storage_offset();
  return view;
}

std::vector<int64_t> Access<at::Tensor>::numbers(const at::Tensor& list) {
  const at::Tensor host = list.to(at::kCPU);
  return host_numbers(host.const_data_ptr(), host.scalar_type(), host.size(0), host.stride(0));
}

std::vector<Block> Access<at::Tensor>::blocks(const at::Tensor& rows) {
  const at::Tensor host = rows.to(at::kCPU);
  return host_blocks(host.const_data_ptr<int32_t>(), host.size(0), host.stride(0), host.stride(1));
}

}  // namespace longstride::op
