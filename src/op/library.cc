// Defines the schemas of one file and gives them up with it; reads texts of LibTorch.
#include "op/library.h"

#include <memory>

#include "op/later.h"

namespace longstride::op {
namespace {

// The strides of q, k, v are part of the contract (dim contiguous): a compiler that lays tensors out anew must keep
// them. A LibTorch that takes no tags from here (before 2.12) keeps those of every operator without tags.
void define(TorchLibraryHandle library, const std::string& schema) {
  if (!torch_library_def_with_tags) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_library_def(library, schema.c_str()));
    return;
  }
  const int32_t tags[] = {torch_tag_pt2_compliant_tag(), torch_tag_needs_fixed_stride_order()};
  TORCH_ERROR_CODE_CHECK(torch_library_def_with_tags(library, schema.c_str(), tags, 2));
}

}  // namespace

Definitions::Definitions(Kind kind, std::initializer_list<std::string> schemas) {
  const auto init = kind == Kind::kLibrary ? aoti_torch_library_init_def : aoti_torch_library_init_fragment;
  TORCH_ERROR_CODE_CHECK(init("longstride", __FILE__, __LINE__, &library_));
  for (const std::string& schema : schemas) define(library_, schema);
}

Definitions::~Definitions() { aoti_torch_delete_library_object(library_); }

std::string take(StringHandle handle) {
  const std::unique_ptr<StringOpaque, AOTITorchError (*)(StringHandle)> owned(handle, torch_delete_string);
  size_t length = 0;
  const char* data = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  return {data, length};
}

}  // namespace longstride::op
