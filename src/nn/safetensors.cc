// The safetensors format: a little-endian 64-bit header length, a JSON header that names each tensor's dtype, shape and
// byte range, and the bytes, without holes. Called by checkpoints and the trainer.
#include <ATen/Functions.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/checked.h"
#include "core/files.h"
#include "core/text_stream.h"
#include "longstride/nn/checkpoint.h"
#include "nn/require.h"
#include "nn/safetensors_header.h"

namespace longstride {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

using Json = nlohmann::json;
using core::refuse_file;

constexpr size_t kAlignmentBytes = 8;

struct NamedType {
  const char* name;
  at::ScalarType type;
};
constexpr std::array<NamedType, 10> kTypes = {{{"BOOL", at::kBool},
                                               {"U8", at::kByte},
                                               {"I8", at::kChar},
                                               {"I16", at::kShort},
                                               {"I32", at::kInt},
                                               {"I64", at::kLong},
                                               {"F16", at::kHalf},
                                               {"BF16", at::kBFloat16},
                                               {"F32", at::kFloat},
                                               {"F64", at::kDouble}}};

const char* type_name(const std::string& tensor, at::ScalarType type) {
  for (const auto& t : kTypes) {
    if (t.type == type) return t.name;
  }
  core::refuse("tensor '" + tensor + "'", "must be bool, an integer, float16, bfloat16, float32 or float64",
               c10::toString(type), "convert it before saving");
}

const NamedType* find_type(std::string_view name) {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const NamedType& t) { return name == t.name; });
  return found == kTypes.end() ? nullptr : &*found;
}

}  // namespace

void save_tensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  // Wider elements first, so that every tensor lies aligned to its element.
  std::vector<std::pair<std::string, at::Tensor>> order;
  for (const auto& [key, tensor] : tensors) {
    nn::require_readable("tensor '" + key + "'", tensor);
    if (key == "__metadata__") core::refuse("tensor name", "must not be __metadata__", key, "rename the tensor");
    (void)type_name(key, tensor.scalar_type());
    order.emplace_back(key, tensor);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const auto& [key, tensor] : order) {
    const int64_t bytes = core::saturating_multiply(tensor.numel(), static_cast<int64_t>(tensor.element_size()));
    if (bytes >= std::numeric_limits<int64_t>::max() - offset) {
      core::refuse("tensor '" + key + "'", "must fit into a file", nn::shape_text(tensor));
    }
    header[key] = {{"dtype", type_name(key, tensor.scalar_type())},
                   {"shape", tensor.sizes().vec()},
                   {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& e) {
    core::refuse("tensor names and metadata", "must be UTF-8", e.what());
  }
  text.resize((text.size() + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes, ' ');

  if (text.size() > nn::kMostHeaderBytes) {
    core::refuse("tensor names and metadata",
                 fmt::format("must make a header of at most {} bytes", nn::kMostHeaderBytes), text.size(),
                 "shorten them, or save several files");
  }

  core::OutputFile file(path);
  const uint64_t header_bytes = text.size();
  file.write(&header_bytes, sizeof(header_bytes));
  file.write(text.data(), text.size());
  for (const auto& [key, tensor] : order) {
    // A view that negates only says so, and has the memory of what it negates.
    const auto copy = [&tensor] { return tensor.detach().cpu().resolve_neg().contiguous(); };
    const at::Tensor flat = nn::within_memory("tensor '" + key + "'", nn::shape_text(tensor), copy);
    file.write(flat.const_data_ptr(), flat.nbytes());
  }
  file.commit();
}

TensorFile load_tensors(const std::filesystem::path& path) {
  const core::InputFile file(path);
  uint64_t header_bytes = 0;
  if (file.bytes() < sizeof(header_bytes)) refuse_file(path, "it is too short to be a safetensors file");
  file.read(0, &header_bytes, sizeof(header_bytes));
  if (header_bytes > nn::kMostHeaderBytes) refuse_file(path, "it is not a safetensors file");
  if (header_bytes > file.bytes() - sizeof(header_bytes)) refuse_file(path, "it is truncated, or not safetensors");
  std::string text(header_bytes, '\0');
  file.read(sizeof(header_bytes), text.data(), text.size());
  const uint64_t data0 = sizeof(header_bytes) + header_bytes;
  nn::TensorHeader header = nn::read_tensor_header(path, text, file.bytes() - data0, [](std::string_view dtype) {
    const NamedType* type = find_type(dtype);
    return type ? static_cast<int64_t>(c10::elementSize(type->type)) : 0;
  });

  TensorFile result;
  result.metadata = std::move(header.metadata);
  for (const nn::TensorEntry& entry : header.entries) {
    const at::ScalarType type = find_type(entry.dtype)->type;
    at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(type));
    file.read(data0 + static_cast<uint64_t>(entry.begin), tensor.data_ptr(), tensor.nbytes());
    if (type == at::kBool) {
      const auto* bytes = static_cast<const uint8_t*>(tensor.data_ptr());
      if (std::any_of(bytes, bytes + tensor.numel(), [](uint8_t b) { return b > 1; })) {
        refuse_file(path, "tensor '" + core::printable(entry.name) + "' holds bytes that are no bool");
      }
    }
    result.tensors.emplace(entry.name, std::move(tensor));
  }
  return result;
}

}  // namespace longstride
