// Safetensors files and model directories: round trips, Python's library, damage, full disks.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>

#include "test/nn/support.h"

namespace longstride {
namespace {

namespace fs = std::filesystem;
using at::Tensor;
using nn_test::refusal;
using nn_test::small_config;
using nn_test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

using Tensors = std::map<std::string, Tensor>;

// Files may not grow beyond this many bytes: the write fails as on a full disk.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) {
    before_signal_ = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit tight = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, before_signal_);
  }

 private:
  rlimit before_ = {};
  void (*before_signal_)(int) = nullptr;
};

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

int64_t files_in(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

Tensors all_types() {
  Tensors t;
  t["f32"] = at::randn({3, 5});
  t["f64"] = at::randn({2, 1, 4}, at::kDouble);
  t["bf16"] = at::randn({7}).to(at::kBFloat16);
  t["f16"] = at::randn({3}).to(at::kHalf);
  t["i64"] = at::arange(5) - 2;
  t["i32"] = at::arange(3, at::kInt);
  t["i16"] = at::arange(3, at::kShort);
  t["i8"] = at::arange(3, at::kChar);
  t["u8"] = at::arange(3, at::kByte);
  t["bool"] = at::arange(3) > 1;
  t["scalar"] = at::tensor(2.5);
  t["empty"] = at::empty({0, 4});
  t["turned"] = at::randn({4, 6}).t();
  t["ünïcode \"name\""] = at::ones({1});
  return t;
}

void expect_equal(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [key, tensor] : a) {
    ASSERT_TRUE(b.contains(key)) << key;
    EXPECT_EQ(tensor.scalar_type(), b.at(key).scalar_type()) << key;
    EXPECT_TRUE(at::equal(tensor, b.at(key))) << key;
  }
}

void run_python(const std::string& program, const fs::path& folder) {
  const fs::path script = folder / "script.py";
  write_bytes(script, program);
  const std::string command = std::string(LONGSTRIDE_TEST_PYTHON) + " " + script.string() + " " + folder.string();
  ASSERT_EQ(std::system(command.c_str()), 0) << program;
}

TEST(Safetensors, RoundTrip) {
  const TemporaryFolder folder;
  const Tensors tensors = all_types();
  const std::map<std::string, std::string> metadata = {{"step", "17"}, {"note", "a \"b\"\n"}};
  save_tensors(folder.path() / "a.safetensors", tensors, metadata);
  const TensorFile file = load_tensors(folder.path() / "a.safetensors");
  expect_equal(tensors, file.tensors);
  EXPECT_EQ(file.metadata, metadata);
  EXPECT_EQ(files_in(folder.path()), 1);
  save_tensors(folder.path() / "a.safetensors", {});
  EXPECT_TRUE(load_tensors(folder.path() / "a.safetensors").tensors.empty());
}

TEST(Safetensors, PythonReadsOursAndWeReadPythons) {
  const TemporaryFolder folder;
  const Tensors tensors = all_types();
  save_tensors(folder.path() / "ours.safetensors", tensors, {{"step", "17"}});
  run_python(R"(
import sys, torch
from safetensors import safe_open
from safetensors.torch import save_file
with safe_open(sys.argv[1] + "/ours.safetensors", "pt") as f:
    assert f.metadata() == {"step": "17"}, f.metadata()
    tensors = {key: f.get_tensor(key) for key in f.keys()}
assert len(tensors) == 14, len(tensors)
assert tensors["i64"].tolist() == [-2, -1, 0, 1, 2] and tensors["i64"].dtype == torch.int64
assert tensors["bf16"].dtype == torch.bfloat16 and tensors["scalar"].item() == 2.5
assert tuple(tensors["turned"].shape) == (6, 4) and tuple(tensors["empty"].shape) == (0, 4)
save_file({k: v.clone() for k, v in tensors.items()}, sys.argv[1] + "/python.safetensors", {"by": "python"})
)",
             folder.path());
  const TensorFile file = load_tensors(folder.path() / "python.safetensors");
  expect_equal(tensors, file.tensors);
  EXPECT_EQ(file.metadata.at("by"), "python");
}

TEST(Safetensors, RefusesWhatItCannotWrite) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.safetensors";
  EXPECT_THAT(refusal([&] { save_tensors(path, {{"z", at::zeros({2}, at::kComplexFloat)}}); }), HasSubstr("'z'"));
  EXPECT_THAT(refusal([&] { save_tensors(path, {{"z", Tensor()}}); }), HasSubstr("undefined"));
  EXPECT_THAT(refusal([&] { save_tensors(path, {{"__metadata__", at::zeros({2})}}); }), HasSubstr("__metadata__"));
  EXPECT_THAT(refusal([&] { save_tensors(path, {{"\xff", at::zeros({2})}}); }), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal([&] {
                save_tensors(folder.path() / "none" / "a", {{"z", at::zeros({2})}});
              }),
              HasSubstr("No such file"));
  EXPECT_EQ(files_in(folder.path()), 0);
}

TEST(Safetensors, AFullDiskLeavesThePreviousFile) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.safetensors";
  save_tensors(path, {{"x", at::ones({10})}});
  const std::string before = read_bytes(path);
  {
    const FullDisk full(4096);
    EXPECT_THAT(refusal([&] {
                  save_tensors(path, {{"x", at::zeros({5000})}});
                }),
                AllOf(HasSubstr(path.string()), HasSubstr("File too large")));
  }
  EXPECT_EQ(read_bytes(path), before);
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(Safetensors, DamageIsNamed) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.safetensors";
  const auto message = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    const std::string text = refusal([&] { load_tensors(path); });
    EXPECT_THAT(text, HasSubstr(path.string()));
    return text;
  };
  const auto with_header = [](const std::string& header, const std::string& data) {
    const uint64_t bytes = header.size();
    return std::string(reinterpret_cast<const char*>(&bytes), 8) + header + data;
  };
  EXPECT_THAT(refusal([&] { load_tensors(folder.path() / "none"); }), HasSubstr("No such file"));
  EXPECT_THAT(refusal([&] { load_tensors(folder.path()); }), HasSubstr("regular file"));
  EXPECT_THAT(message(""), HasSubstr("too short"));
  EXPECT_THAT(message("PK\3\4 this is a zip file and no safetensors"), HasSubstr("not a safetensors"));
  EXPECT_THAT(message(with_header("not json", "")), HasSubstr("its header must be JSON"));
  EXPECT_THAT(message(with_header("[1]", "")), HasSubstr("its header is not a JSON object"));
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"F32","shape":)" + deep + R"(,"data_offsets":[0,4]}})", "abcd")),
              HasSubstr("nested at most 64 levels deep"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"x":{}})", "")),
              HasSubstr("its header: x must be given once"));
  // Empty, and its strides overflow all the same.
  for (const char* sizes : {"0,9223372036854775807,9223372036854775807", "9223372036854775807,2,0"}) {
    const std::string shape = std::string("\"shape\":[") + sizes + "]";
    EXPECT_THAT(message(with_header(R"({"x":{"dtype":"F32",)" + shape + R"(,"data_offsets":[0,0]}})", "")),
                HasSubstr("bytes 0 to 0"));
  }
  std::string ones = "1";
  for (int i = 1; i < 65; ++i) ones += ",1";
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,1]}})", "a")),
              HasSubstr("has 65 dimensions"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}})", "a")),
              HasSubstr("x.shape[0] must fit 64 bits"));
  EXPECT_THAT(message(with_header(R"({"x": 3})", "")), HasSubstr("incompletely"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}})", "abcd")),
              HasSubstr("dtype 'F4'"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd")),
              HasSubstr("shape [2]"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "abcd")),
              HasSubstr("-1 where a size belongs"));
  EXPECT_THAT(
      message(with_header(
          R"({"x":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,4]}})", "abcd")),
      HasSubstr("bytes 0 to 4"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", "abcd")),
              HasSubstr("hole"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "abcd")),
              HasSubstr("tail"));
  EXPECT_THAT(message(with_header(R"({"x":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", "z")),
              HasSubstr("no bool"));
  EXPECT_THAT(message(with_header(R"({"__metadata__":{"a":1}})", "")), HasSubstr("metadata"));
  save_tensors(path, all_types());
  const std::string whole = read_bytes(path);
  for (const size_t kept : {size_t{4}, size_t{9}, whole.size() / 2, whole.size() - 1}) {
    EXPECT_FALSE(message(whole.substr(0, kept)).empty()) << kept;
  }
}

TEST(Weights, MismatchesAreAllNamedAndNothingIsLoaded) {
  LongNetLM model(small_config());
  Tensors good = weights(*model);
  Tensors before;
  for (const auto& [key, tensor] : good) before[key] = tensor.clone();
  Tensors wrong = before;
  for (auto& [key, tensor] : wrong) tensor = tensor + 1;
  wrong["stranger"] = at::zeros({1});
  wrong.erase("final_norm.bias");
  wrong["head.weight"] = at::zeros({3, 3});
  wrong["layers.0.attention_norm.bias"] = at::zeros({32}, at::kLong);
  EXPECT_THAT(refusal([&] { load_weights(*model, wrong); }),
              AllOf(HasSubstr("unknown stranger"), HasSubstr("missing final_norm.bias"),
                    HasSubstr("head.weight is [3, 3] and must be [31, 32]"), HasSubstr("is Long and must be Float"),
                    HasSubstr("nothing was loaded")));
  expect_equal(before, weights(*model));
}

TEST(Weights, ModelsLoadTheOtherProjection) {
  auto config = small_config();
  LongNetLM fused(config);
  config.layer.attention.fused_qkv = false;
  LongNetLM split(config);
  const Tensor tokens = nn_test::random_tokens(1, 20, 31, 1);
  load_weights(*split, weights(*fused));
  EXPECT_LT(nn_test::distance(split(tokens), fused(tokens)), 1e-4);
  EXPECT_EQ(weights(*split).count("layers.2.attention.k_proj.bias"), 1U);
}

TEST(ModelDirectory, RoundTrip) {
  const TemporaryFolder folder;
  auto config = small_config();
  config.layer.attention.positions.kind = Positions::kXpos;
  const Tensor tokens = nn_test::random_tokens(1, 20, 31, 2);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    LongNetLM model(config);
    model->to(dtype);
    save_model(folder.path() / "model", model, [&](const fs::path& inside) {
      save_tensors(inside / "optimizer.safetensors", {{"m", at::ones({2})}});
    });
    LongNetLM loaded = load_model<LongNetLM>(folder.path() / "model");
    EXPECT_EQ(loaded->config, config);
    EXPECT_TRUE(at::equal(loaded(tokens), model(tokens)));
    EXPECT_EQ(load_tensors(folder.path() / "model" / "optimizer.safetensors").tensors.size(), 1U);
    EXPECT_EQ(files_in(folder.path()), 1);
    EXPECT_EQ(files_in(folder.path() / "model"), 3);
  }
  run_python(R"(
import json, sys
from safetensors.torch import load_file
config = json.load(open(sys.argv[1] + "/model/config.json"))
assert config["model"] == "LongNetLM" and config["config"]["positions"] == "xpos", config
weights = load_file(sys.argv[1] + "/model/model.safetensors")
assert tuple(weights["layers.2.feed_forward.fc1.weight"].shape) == (48, 32)
)",
             folder.path());
}

TEST(ModelDirectory, ErrorsLeaveThePreviousCheckpoint) {
  const TemporaryFolder folder;
  const fs::path directory = folder.path() / "model";
  LongNetLM model(small_config());
  save_model(directory, model);
  const Tensors before = load_tensors(directory / "model.safetensors").tensors;
  LongNetLM other(small_config());
  {
    const FullDisk full(20000);
    EXPECT_THAT(refusal([&] { save_model(directory, other); }), HasSubstr("File too large"));
  }
  EXPECT_THROW(save_model(directory, other, [](const fs::path&) { throw std::runtime_error("no"); }),
               std::runtime_error);
  expect_equal(before, load_tensors(directory / "model.safetensors").tensors);
  EXPECT_EQ(files_in(folder.path()), 1);
  EXPECT_EQ(files_in(directory), 2);

  fs::create_directory(folder.path() / "home");
  write_bytes(folder.path() / "home" / "letter.txt", "dear");
  EXPECT_THAT(refusal([&] { save_model(folder.path() / "home", model); }), HasSubstr("no checkpoint"));
  EXPECT_THAT(refusal([&] { save_model(folder.path() / "home" / "letter.txt", model); }), HasSubstr("not a directory"));
  EXPECT_EQ(read_bytes(folder.path() / "home" / "letter.txt"), "dear");
}

TEST(ModelDirectory, ForeignOrDamagedIsRefused) {
  const TemporaryFolder folder;
  const fs::path directory = folder.path() / "model";
  EXPECT_THAT(refusal([&] { load_model<LongNetLM>(directory); }), HasSubstr("No such file"));
  LongNetLM model(small_config());
  save_model(directory, model);
  const std::string config = read_bytes(directory / "config.json");
  const auto with_config = [&](const std::string& text) {
    write_bytes(directory / "config.json", text);
    return refusal([&] { load_model<LongNetLM>(directory); });
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = config;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  EXPECT_THAT(with_config("{\"model_type\": \"bert\"}"), HasSubstr("not the config of a longstride checkpoint"));
  EXPECT_THAT(with_config("]"), HasSubstr("not the config of a longstride checkpoint"));
  EXPECT_THAT(with_config(std::string("{\"config\": ") + std::string(100'000, '[') + std::string(100'000, ']') + "}"),
              HasSubstr("nested at most 64 levels deep"));
  EXPECT_THAT(with_config(replaced("\"layers\": 3", "\"layers\": 3, \"layers\": 3")),
              HasSubstr("config.layers must be given once"));
  EXPECT_THAT(with_config(replaced("\"layers\": 3", "\"layers\": 1e999")),
              HasSubstr("config.layers must be a number below 1.8e308, got 1e999"));
  EXPECT_THAT(with_config(replaced("\"layers\": 3", "\"layers\": 3.5")),
              HasSubstr("layers must be an integer, got 3.5"));
  EXPECT_THAT(with_config(replaced("\"format_version\": 1", "\"format_version\": 2")),
              HasSubstr("format_version is 2"));
  EXPECT_THAT(with_config(replaced("\"layers\": 3", "\"layers\": 2")), HasSubstr("unknown layers.2."));
  EXPECT_THAT(with_config(replaced("\"layers\"", "\"layres\"")), HasSubstr("did you mean 'layers'"));
  write_bytes(directory / "config.json", config);
  const std::string data = read_bytes(directory / "model.safetensors");
  write_bytes(directory / "model.safetensors", data.substr(0, data.size() / 2));
  EXPECT_THAT(refusal([&] { load_model<LongNetLM>(directory); }), HasSubstr("truncated"));
  fs::remove(directory / "model.safetensors");
  EXPECT_THAT(refusal([&] { load_model<LongNetLM>(directory); }), HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace longstride
