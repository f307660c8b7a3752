// Functions of LibTorch that are used where they are there: those that came after 2.10, as weak symbols (null in an
// older LibTorch), and those of its C++ side, by name. tools/torch_symbols.txt lists both.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

extern "C" {
// 2.11: a tensor on memory of ours.
[[gnu::weak]] AOTITorchError torch_from_blob(void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides,
                                             int64_t storage_offset, int32_t dtype, int32_t device_type,
                                             int32_t device_index, AtenTensorHandle* made, int32_t layout,
                                             const uint8_t* opaque, int64_t opaque_size,
                                             void (*deleter)(void* data, void* context), void* context);
// 2.12: an operator's tags.
[[gnu::weak]] AOTITorchError torch_library_def_with_tags(TorchLibraryHandle, const char* schema, const int32_t* tags,
                                                         int32_t count);
[[gnu::weak]] int32_t torch_tag_pt2_compliant_tag();
[[gnu::weak]] int32_t torch_tag_needs_fixed_stride_order();
}

namespace longstride::op {

// The function of this mangled name in a library that is loaded ("libtorch_cpu.so"); null if either is not there.
void* loaded_function(const char* library, const char* name);

template <class Function>
Function* loaded(const char* library, const char* name) {
  return reinterpret_cast<Function*>(loaded_function(library, name));
}

}  // namespace longstride::op
