// Checks a safetensors header field by field, before anything of its size is read.
#include "nn/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "core/checked.h"
#include "core/files.h"
#include "core/json.h"
#include "core/text_stream.h"
#include "longstride/error.h"

namespace longstride::nn {
namespace {

namespace fs = std::filesystem;
using core::Json;
using core::refuse_file;

constexpr size_t kMostDims = 64;  // of a tensor of torch

int64_t whole_number(const Json& value, const fs::path& path) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    refuse_file(path, "its header holds " + core::shown(value) + " where a size belongs");
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

TensorEntry read_entry(const std::string& name, const Json& json, const fs::path& path,
                       const std::function<int64_t(std::string_view)>& element_bytes) {
  const std::string shown_name = core::printable(name);
  const bool complete = json.is_object() && json.contains("dtype") && json["dtype"].is_string() &&
                        json.contains("shape") && json["shape"].is_array() && json.contains("data_offsets") &&
                        json["data_offsets"].is_array() && json["data_offsets"].size() == 2;
  if (!complete) refuse_file(path, "its header describes tensor '" + shown_name + "' incompletely");
  TensorEntry entry;
  entry.name = name;
  entry.dtype = json["dtype"].get<std::string>();
  int64_t bytes = element_bytes(entry.dtype);
  if (bytes == 0) {
    refuse_file(path, fmt::format("tensor '{}' has dtype '{}', which is not supported", shown_name,
                                  core::printable(entry.dtype)));
  }
  if (json["shape"].size() > kMostDims) {
    refuse_file(path, fmt::format("tensor '{}' has {} dimensions, and a tensor has at most {}", shown_name,
                                  json["shape"].size(), kMostDims));
  }
  bool empty = false;
  for (const Json& size : json["shape"]) {
    entry.shape.push_back(whole_number(size, path));
    empty = empty || entry.shape.back() == 0;
    bytes = core::saturating_multiply(bytes, std::max<int64_t>(entry.shape.back(), 1));
  }
  entry.begin = whole_number(json["data_offsets"][0], path);
  entry.end = whole_number(json["data_offsets"][1], path);
  // An empty tensor has strides all the same.
  const bool countable = bytes < std::numeric_limits<int64_t>::max();
  if (!countable || entry.end < entry.begin || entry.end - entry.begin != (empty ? 0 : bytes)) {
    refuse_file(path, fmt::format("tensor '{}' of shape [{}] and dtype {} has bytes {} to {}", shown_name,
                                  fmt::join(entry.shape, ", "), entry.dtype, entry.begin, entry.end));
  }
  return entry;
}

std::map<std::string, std::string> read_metadata(const Json& json, const fs::path& path) {
  const auto is_text = [](const Json& value) { return value.is_string(); };
  if (!json.is_object() || !std::all_of(json.begin(), json.end(), is_text)) {
    refuse_file(path, "its metadata are not an object of strings");
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) metadata[key] = value.get<std::string>();
  return metadata;
}

}  // namespace

TensorHeader read_tensor_header(const fs::path& path, std::string_view text, uint64_t data_bytes,
                                const std::function<int64_t(std::string_view dtype)>& element_bytes) {
  const Json json = [&] {
    try {
      return core::parse_json("its header", text, kMostHeaderBytes);
    } catch (const Error& error) {
      refuse_file(path, fmt::format("{}; it is corrupt, or not safetensors", error.what()));
    }
  }();
  if (!json.is_object()) refuse_file(path, "its header is not a JSON object; it is corrupt, or not safetensors");
  TensorHeader header;
  for (const auto& [key, value] : json.items()) {
    if (key == "__metadata__") {
      header.metadata = read_metadata(value, path);
    } else {
      header.entries.push_back(read_entry(key, value, path, element_bytes));
    }
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  int64_t end = 0;
  for (const TensorEntry& entry : header.entries) {
    if (entry.begin != end) {
      refuse_file(path, "tensor '" + core::printable(entry.name) + "' overlaps another or leaves a hole");
    }
    end = entry.end;
  }
  if (static_cast<uint64_t>(end) != data_bytes) {
    refuse_file(
        path, fmt::format("it is truncated or has a tail: {} bytes of data where its header says {}", data_bytes, end));
  }
  return header;
}

}  // namespace longstride::nn
