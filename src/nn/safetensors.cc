// The safetensors format: a little-endian 64-bit header length, a JSON header that names each tensor's dtype, shape and
// byte range, and the bytes, without holes. Called by checkpoints and the trainer.
#include <fcntl.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/checked.h"
#include "longstride/nn/checkpoint.h"
#include "nn/files.h"
#include "nn/require.h"

namespace longstride {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

using Json = nlohmann::json;
using nn::refuse_file;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // what the format's own library accepts
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

// One tensor of a header that has been checked against the file.
struct Entry {
  std::string name;
  at::ScalarType type;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the end of the header
  int64_t end = 0;
};

int64_t whole_number(const Json& value, const std::filesystem::path& path) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    refuse_file(path, "its header holds " + value.dump() + " where a size belongs");
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

Entry parse_entry(const std::string& name, const Json& json, const std::filesystem::path& path) {
  const bool complete = json.is_object() && json.contains("dtype") && json["dtype"].is_string() &&
                        json.contains("shape") && json["shape"].is_array() && json.contains("data_offsets") &&
                        json["data_offsets"].is_array() && json["data_offsets"].size() == 2;
  if (!complete) refuse_file(path, "its header describes tensor '" + name + "' incompletely");
  Entry entry;
  entry.name = name;
  const auto& type = json["dtype"].get_ref<const std::string&>();
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const NamedType& t) { return type == t.name; });
  if (found == kTypes.end())
    refuse_file(path, "tensor '" + name + "' has dtype '" + type + "', which is not supported");
  entry.type = found->type;
  int64_t bytes = static_cast<int64_t>(c10::elementSize(entry.type));
  bool empty = false;
  for (const Json& size : json["shape"]) {
    entry.shape.push_back(whole_number(size, path));
    empty = empty || entry.shape.back() == 0;
    bytes = core::saturating_multiply(bytes, std::max<int64_t>(entry.shape.back(), 1));
  }
  entry.begin = whole_number(json["data_offsets"][0], path);
  entry.end = whole_number(json["data_offsets"][1], path);
  if (entry.end < entry.begin || entry.end - entry.begin != (empty ? 0 : bytes)) {
    refuse_file(path, fmt::format("tensor '{}' of shape [{}] and dtype {} has bytes {} to {}", name,
                                  fmt::join(entry.shape, ", "), type, entry.begin, entry.end));
  }
  return entry;
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

  if (text.size() > kMaxHeaderBytes) {
    core::refuse("tensor names and metadata", fmt::format("must make a header of at most {} bytes", kMaxHeaderBytes),
                 std::to_string(text.size()), "shorten them, or save several files");
  }

  nn::OutputFile file(path);
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
  const nn::InputFile file(path);
  uint64_t header_bytes = 0;
  if (file.bytes() < sizeof(header_bytes)) refuse_file(path, "it is too short to be a safetensors file");
  file.read(0, &header_bytes, sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) refuse_file(path, "it is not a safetensors file");
  if (header_bytes > file.bytes() - sizeof(header_bytes)) refuse_file(path, "it is truncated, or not safetensors");
  std::string text(header_bytes, '\0');
  file.read(sizeof(header_bytes), text.data(), text.size());
  const Json header = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) refuse_file(path, "its header is not JSON; it is corrupt, or not safetensors");

  TensorFile result;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") {
      if (!value.is_object()) refuse_file(path, "its metadata are not an object of strings");
      for (const auto& [meta_key, meta] : value.items()) {
        if (!meta.is_string()) refuse_file(path, "its metadata are not an object of strings");
        result.metadata[meta_key] = meta.get<std::string>();
      }
    } else {
      entries.push_back(parse_entry(key, value, path));
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  int64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end) refuse_file(path, "tensor '" + entry.name + "' overlaps another or leaves a hole");
    end = entry.end;
  }
  const uint64_t data0 = sizeof(header_bytes) + header_bytes;
  if (static_cast<uint64_t>(end) != file.bytes() - data0) {
    refuse_file(path, fmt::format("it is truncated or has a tail: {} bytes of data where its header says {}",
                                  file.bytes() - data0, end));
  }
  for (const Entry& entry : entries) {
    at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(entry.type));
    file.read(data0 + static_cast<uint64_t>(entry.begin), tensor.data_ptr(), tensor.nbytes());
    if (entry.type == at::kBool) {
      const auto* bytes = static_cast<const uint8_t*>(tensor.data_ptr());
      if (std::any_of(bytes, bytes + tensor.numel(), [](uint8_t b) { return b > 1; })) {
        refuse_file(path, "tensor '" + entry.name + "' holds bytes that are no bool");
      }
    }
    result.tensors.emplace(entry.name, std::move(tensor));
  }
  return result;
}

}  // namespace longstride
