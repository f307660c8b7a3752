// What tensors must be before anything is asked of them. Called by the modules and by those who save and load them.
#include "nn/require.h"

#include <ATen/core/Formatting.h>

#include <sstream>

#include "core/checked.h"

namespace longstride::nn {
namespace {

// Bytes of the storage that the elements of a dense tensor reach; 0 without elements.
int64_t reached_bytes(const at::Tensor& t) {
  if (t.numel() == 0) return 0;
  int64_t last = t.storage_offset();
  for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  return core::saturating_multiply(last + 1, static_cast<int64_t>(t.element_size()));
}

}  // namespace

std::string shape_text(const at::Tensor& t) {
  if (!t.defined()) return "an undefined tensor";
  if (t.is_nested()) return "a nested tensor";
  return fmt::format("[{}]", fmt::join(t.sizes().vec(), ", "));
}

std::string not_dense(const at::Tensor& t) {
  if (!t.defined()) return "an undefined tensor";
  if (t.is_nested()) return "a nested tensor";
  if (t.is_quantized()) return fmt::format("a quantized tensor ({})", c10::toString(t.scalar_type()));
  if (t.layout() != at::kStrided) {
    std::ostringstream layout;
    layout << t.layout();
    return fmt::format("a tensor of layout {}", layout.str());
  }
  if (t.is_meta() || t._is_zerotensor() || !t.has_storage()) return "";
  if (const int64_t reached = reached_bytes(t); static_cast<uint64_t>(reached) > t.storage().nbytes()) {
    return fmt::format("a tensor of {} bytes on a storage of {}", reached, t.storage().nbytes());
  }
  return "";
}

std::string not_readable(const at::Tensor& t) {
  if (std::string odd = not_dense(t); !odd.empty()) return odd;
  if (t.is_meta()) return "a meta tensor, which has no values";
  if (t._is_zerotensor()) return "";  // all zeros, without memory
  return t.has_storage() ? "" : "a tensor without memory of its own";
}

void require_dense(std::string_view argument, const at::Tensor& t) {
  if (const std::string odd = not_dense(t); !odd.empty()) {
    core::refuse(argument, "must be a dense tensor", odd, t.defined() ? "convert it, with to_dense() for one" : "");
  }
}

void require_readable(std::string_view argument, const at::Tensor& t) {
  require_dense(argument, t);
  if (const std::string odd = not_readable(t); !odd.empty()) {
    core::refuse(argument, "must hold values", odd, "give it memory and values first");
  }
}

}  // namespace longstride::nn
