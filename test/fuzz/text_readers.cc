// The readers of the torch-free rooms, and of the safetensors header.
#include "core/json.h"
#include "fuzz/reader.h"
#include "longstride/pattern.h"
#include "longstride/pattern/json.h"
#include "nn/safetensors_header.h"

namespace longstride::fuzz {
namespace {

const std::vector<std::string>& pattern_seeds() {
  static const std::vector<std::string> seeds = {
      R"({"causal": true, "dilated": {"segment_lengths": [2048, 4096], "dilation_rates": [1, 2]}})",
      R"({"causal": false, "dilated": {"segment_lengths": [64, 256], "dilation_rates": [1, 4], "head_offset": "block",
          "mixing": "head_partition", "average": true, "padding": "zero_keys"}})",
      R"({"dilated": {"segment_lengths": [4, 8], "dilation_rates": [1, 2], "offsets": [0, 1]}})",
      R"({"causal": true, "blocks": [{"pattern": "local_window", "block_size": 16, "window": 64},
          {"pattern": "dilated_sparse", "block_size": 8, "rates": [1, 3], "reach": 2},
          {"pattern": "global_local", "block_size": 8, "window": 24, "global_tokens": 9}]})",
      R"({"blocks": [{"pattern": "strided", "block_size": 8, "stride_blocks": 3},
          {"pattern": "axial", "block_size": 8, "grid_columns": 4}, {"pattern": "axial", "block_size": 4}]})",
      R"({"blocks": [{"pattern": "random", "block_size": 8, "density": 0.3, "seed": -7}]})",
      R"({"blocks": [{"pattern": "random", "block_size": 8, "sparsity_ratio": 0.75},
          {"pattern": "local_window", "block_size": 8, "density": 0.4}]})",
      R"({"blocks": [{"pattern": "hierarchical", "block_size": 8,
          "levels": [{"stride": 8, "window": 24}, {"stride": 32, "global": true}]}]})",
      R"({"blocks": [{"pattern": "list", "block_size": 8, "blocks": [[-1, -1, 0, 0], [0, 1, 2, 1]]}]})"};
  return seeds;
}

void read_json(const std::string& text) {
  const core::Json json = core::parse_json("text", text);
  require(core::parse_json("text", json.dump()) == json, "a value that is written and read again is another");
}

// 64 tokens: what a rule shows, and what its numbers may overflow.
void read_pattern(const std::string& text) {
  const Pattern pattern = pattern_from_json(text);
  require(pattern_from_json(to_json(pattern)) == pattern, "a pattern that is written and read again is another");
  for (const BlockPattern& block : pattern.blocks()) {
    for (const bool causal : {false, true}) (void)block.active_blocks(64, causal, /*kv_head=*/1);
  }
}

void read_list_beside(const std::string& text) { (void)pattern_from_json(text, std::vector<Block>{{-1, 0, 2, 1}}); }

void read_header(const std::string& text) {
  const auto element_bytes = [](std::string_view dtype) { return dtype == "F32" ? 4 : dtype == "BF16" ? 2 : 0; };
  const nn::TensorHeader header = nn::read_tensor_header("text", text, 40, element_bytes);
  int64_t bytes = 0;
  for (const nn::TensorEntry& entry : header.entries) {
    int64_t elements = 1;
    for (const int64_t size : entry.shape) {
      require(size >= 0, "a negative size");
      elements *= size;
    }
    require(elements * element_bytes(entry.dtype) == entry.end - entry.begin,
            "a tensor of another size than its bytes");
    bytes += entry.end - entry.begin;
  }
  require(bytes == 40, "tensors that do not fill their file");
}

}  // namespace

std::vector<Reader> text_readers() {
  std::vector<std::string> json = pattern_seeds();
  json.push_back(
      R"([null, true, -1, 18446744073709551615, 0.1, 1e300, "\u00e9\n\ud83d\ude00", {"a": {"b": [[], {}]}}])");
  return {{"json", json, read_json},
          {"pattern", pattern_seeds(), read_pattern},
          {"list",
           {R"({"causal": true, "blocks": [{"pattern": "list", "block_size": 8},
                {"pattern": "strided", "block_size": 4, "stride_blocks": 3}]})"},
           read_list_beside},
          {"header",
           {R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
                "b.c": {"dtype": "BF16", "shape": [4], "data_offsets": [32, 40]}})",
            R"({"none": {"dtype": "F32", "shape": [3, 0], "data_offsets": [0, 0]},
                "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
                "rest": {"dtype": "BF16", "shape": [18], "data_offsets": [4, 40]}})"},
           read_header}};
}

}  // namespace longstride::fuzz
