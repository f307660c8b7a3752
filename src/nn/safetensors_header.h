// The header of a safetensors file, read and held against the size of the file before a byte of data is. Torch-free.
// Called by safetensors.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace longstride::nn {

constexpr uint64_t kMostHeaderBytes = 100'000'000;  // what the format's own library accepts

struct TensorEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the end of the header
  int64_t end = 0;
};

struct TensorHeader {
  std::map<std::string, std::string> metadata;
  std::vector<TensorEntry> entries;  // in the order of their bytes, which cover the data without holes
};

// `text` is what stands between the length and the data, of which there are `data_bytes`. `element_bytes` gives the
// size of a dtype's elements, 0 for a dtype that is not known. Throws Error naming `path` for a header that is no such
// JSON, or that says anything but what is there.
TensorHeader read_tensor_header(const std::filesystem::path& path, std::string_view text, uint64_t data_bytes,
                                const std::function<int64_t(std::string_view dtype)>& element_bytes);

}  // namespace longstride::nn
