// The readers that need LibTorch: options and configs, and the files of saved models and runs.
#include <ATen/Functions.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "fuzz/reader.h"
#include "longstride/factory/configs.h"
#include "longstride/factory/options.h"
#include "longstride/nn.h"
#include "train/run_checkpoint.h"

namespace longstride::fuzz {
namespace {

namespace fs = std::filesystem;

// A folder of this process, in memory where the machine has such a place.
class Folder {
 public:
  Folder() {
    const fs::path memory = "/dev/shm";
    path_ = (fs::is_directory(memory) ? memory : fs::temp_directory_path()) /
            ("longstride_fuzz_" + std::to_string(getpid()));
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary | std::ios::trunc) << text;
    return path_ / name;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

const Folder& folder() {
  static const Folder folder;
  return folder;
}

template <class Options>
Reader options_reader(const char* name, std::vector<std::string> seeds) {
  return {name, std::move(seeds), [](const std::string& text) {
            const Options options = Options::from_json(text);
            require(Options::from_json(options.to_json()) == options,
                    "options that are written and read again are others");
          }};
}

template <class Options>
Reader options_reader(const char* name, const Options& example) {
  return options_reader<Options>(name, {example.to_json()});
}

LongNetLMConfig language_model() {
  LongNetLMConfig config;
  config.layers = 2;
  MultiheadDilatedAttentionOptions& o = config.layer.attention;
  o.embed_dim = 64;
  o.num_heads = 4;
  o.attention.pattern =
      Pattern::dilated({16, 64}, {1, 2}, {.causal = true})
          .with_blocks({{16, LocalWindow{.window = 64}}, {8, RandomBlocks{.density = 0.25, .seed = 3}}});
  return config;
}

MultiheadDilatedAttentionOptions multihead() {
  MultiheadDilatedAttentionOptions options{.embed_dim = 64, .num_heads = 4};
  options.attention.learned = LearnedBlocks{.block_size = 16, .density = 0.25};
  options.attention.softmax_scale = 0.125;
  return options;
}

// By itself it is told the heads that a multihead module would tell it.
DilatedAttentionOptions attention() {
  DilatedAttentionOptions options = multihead().attention;
  options.learned->head_dim = 16;
  options.learned->kv_heads = 4;
  return options;
}

void read_options(const std::string& text) {
  for (const auto& [name, value] : options_from_json(text)) {
    require(OptionValue::json(value.text()) == value, "an option that is written and read again is another");
  }
}

const char* kState = R"({"format": 1, "files": {},
  "settings": {"data": ["a"], "ext": ["py"], "dim": 64, "layers": 2, "segments": [16, 64], "rates": [1, 2],
               "pattern": {}, "model": {"head_offset": "block"}, "steps": 4, "seed": 18446744073709551615, "lr": 0.01},
  "position": {"step": 3, "seconds": 1.5, "threads": 2, "fingerprint": "00ff00ff00ff00ff", "held_out_before": 2.5,
               "held_out_latest": null}})";

// A folder with nothing beside state.json: what it says is read and checked first, and then the model is missing.
void read_state(const std::string& text) {
  folder().write(train::kStateFile, text);
  try {
    (void)train::load_run(folder().path());
  } catch (const Error& error) {
    if (std::string(error.what()).find("config.json") == std::string::npos) throw;
  }
}

void read_saved_config(const std::string& text) {
  const fs::path saved = folder().path() / "model";
  fs::create_directories(saved);
  folder().write("model/config.json", text);
  (void)saved_model_name(saved);
  nn::with_saved_config(saved, LongNetLMImpl::kModelName,
                        [](const std::string& config) { (void)LongNetLMConfig::from_json(config); });
}

std::string bytes_of(const std::map<std::string, at::Tensor>& tensors) {
  const fs::path path = folder().path() / "seed.safetensors";
  save_tensors(path, tensors, {{"format", "pt"}});
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> tensor_files() {
  return {bytes_of({{"a", at::arange(6, at::kFloat).reshape({2, 3})}, {"b", at::ones({3}, at::kBool)}}),
          bytes_of({{"half", at::ones({2, 2}, at::kHalf)},
                    {"none", at::empty({0, 5}, at::kLong)},
                    {"scalar", at::scalar_tensor(2.0, at::kDouble)}}),
          bytes_of({})};
}

// What the header says is what is there: no tensor is larger than the file.
void read_tensors(const std::string& text) {
  const TensorFile file = load_tensors(folder().write("damaged.safetensors", text));
  size_t bytes = 0;
  for (const auto& [name, tensor] : file.tensors) bytes += tensor.nbytes();
  require(bytes <= text.size(), "more bytes of tensors than of the file");
}

// Damage to a whole file mostly breaks the header's length: here the text is the header, and its length is right.
void read_tensors_of_header(const std::string& header) {
  const uint64_t length = header.size();
  read_tensors(std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + std::string(40, '\1'));
}

}  // namespace

std::vector<Reader> model_readers() {
  at::set_num_threads(1);
  SparseAttentionConfig sparse;
  sparse.pattern = "hierarchical";
  sparse.levels = {{128, 512}, {512, std::nullopt}};
  return {options_reader("attention", attention()),
          options_reader("multihead", multihead()),
          options_reader("layer", language_model().whole_layer()),
          options_reader("longnet_lm", language_model()),
          options_reader("longnet", LongNetConfig()),
          options_reader("sparse", sparse),
          options_reader<RingAttentionConfig>("ring", {R"({"group": "world", "ring_size": 4})"}),
          options_reader<DistributedConfig>("distributed", {R"({"world_size": 4, "rank": 1, "backend": "gloo"})"}),
          options_reader("memory_pool", MemoryPoolConfig()),
          {"options",
           {language_model().to_json(), R"({"a": 1, "b": [1, 2], "c": [1.5, "x"], "d": {"e": null}, "f": true})"},
           read_options},
          {"saved_config",
           {R"({"model": "LongNetLM", "format_version": 1, "config": )" + language_model().to_json() + "}"},
           read_saved_config},
          {"state", {kState}, read_state},
          {"tensors", tensor_files(), read_tensors},
          {"tensors_of",
           {R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
                "b": {"dtype": "BOOL", "shape": [8, 1], "data_offsets": [32, 40]}})",
            R"({"none": {"dtype": "I64", "shape": [3, 0], "data_offsets": [0, 0]},
                "rest": {"dtype": "U8", "shape": [40], "data_offsets": [0, 40]}})"},
           read_tensors_of_header}};
}

}  // namespace longstride::fuzz
