// docs/features.md against the code: every pattern with every option is run on both CPU engines, or refused; what
// dtypes and dims an engine takes is what its capability() says. The page must have exactly these tables.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "engine/cpu/cpu.h"
#include "engine/reference/reference.h"
#include "test/nn/support.h"

namespace longstride::nn_test {
namespace {

using at::Tensor;

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

constexpr int64_t kBatch = 2, kHeads = 4, kLen = 44, kDim = 8, kBlock = 4;  // 11 blocks

struct NamedPattern {
  const char* name;
  FlatPattern pattern;
  std::optional<LearnedBlocks> learned = std::nullopt;
};

std::vector<NamedPattern> patterns() {
  const auto blocks = [](std::vector<BlockRule> rules) {
    FlatPattern flat;
    for (const BlockRule& rule : rules) flat.blocks.emplace_back(kBlock, rule);
    return flat;
  };
  FlatPattern dilated;
  dilated.segment_lengths = {8, 24};
  dilated.dilation_rates = {1, 3};
  FlatPattern beside = dilated;
  beside.blocks = blocks({LocalWindow{.window = 12}}).blocks;
  FlatPattern window;
  window.blocks = {{1, SlidingWindow{.left = 9, .right = 3, .sink_tokens = 2}}};
  const LearnedBlocks learned{.block_size = kBlock, .density = 0.4, .hidden = 8, .temperature = 0};
  return {
      {"dilated groups", dilated},
      {"local_window", blocks({LocalWindow{.window = 12}})},
      {"dilated_sparse", blocks({DilatedSparse{.rates = {1, 2}, .reach = 2}})},
      {"global_local", blocks({GlobalLocal{12, 4}})},
      {"strided", blocks({Strided{3}})},
      {"axial", blocks({Axial{}})},
      {"random", blocks({RandomBlocks{0.4, 1}})},
      {"hierarchical", blocks({Hierarchical{{{4, 8}, {16, std::nullopt}}}})},
      {"sliding_window", window},
      {"list", blocks({BlockList{{{-1, -1, 0, 0}, {-1, -1, 1, 0}, {0, -1, 1, 1}, {-1, 1, 9, 1}, {-1, -1, 10, 8}}}})},
      {"hybrid", blocks({LocalWindow{.window = 12}, Strided{4}})},
      {"groups and blocks", beside},
      {"learned", {}, learned}};
}

// What a call is asked, beside its pattern.
struct Setup {
  FlatPattern pattern;
  DilatedAttentionOptions options;  // but for the pattern
  AttentionOptions call;
  int64_t kv_heads = kHeads;
  int64_t queries = kLen;  // the last ones, if fewer than the keys
};

// What shows that an option is not ignored.
enum class Proof { kOtherResult, kSameRows, kGateGradient, kBothEngines };

struct Option {
  const char* name;
  std::function<void(Setup&)> ask;
  Proof proof = Proof::kOtherResult;
};

std::vector<Option> options() {
  return {{"causal", [](Setup& s) { s.pattern.options.causal = true; }},
          {"lengths",
           [](Setup& s) {
             s.call.lengths = {{kLen, 17}};
           }},
          {"documents",
           [](Setup& s) {
             s.call.cu_seqlens = {{0, 19, kLen}};
           }},
          {"GQA", [](Setup& s) { s.kv_heads = 2; }, Proof::kBothEngines},
          {"decoding",
           [](Setup& s) {
             s.queries = 3;
             s.call.query_start = kLen - 3;
           },
           Proof::kSameRows},
          {"dropout", [](Setup& s) { s.options.attention_dropout = 0.4; }},
          {"ALiBi",
           [](Setup& s) {
             s.call.alibi_slopes = at::tensor({1.0, 0.5, 0.25, -0.1}, at::kFloat);
           }},
          {"zero_keys", [](Setup& s) { s.pattern.options.padding = Padding::kZeroKeys; }},
          {"head_partition", [](Setup& s) { s.pattern.options.mixing = Mixing::kHeadPartition; }},
          {"gates",
           [](Setup& s) {
             const int64_t rows = s.pattern.blocks.empty() || s.pattern.blocks[0].name() != std::string("list") ? 1 : 5;
             s.call.gates = at::ones({rows}).requires_grad_();
           },
           Proof::kGateGradient}};
}

struct Ran {
  Tensor out;
  std::vector<Tensor> grads;
};

Ran run(Setup s, at::ScalarType dtype) {
  s.options.pattern = s.pattern.pattern();
  if (s.options.learned) {
    s.options.learned->head_dim = kDim;
    s.options.learned->kv_heads = s.kv_heads;
  }
  torch::manual_seed(1);
  DilatedAttention module(s.options);
  const auto make = [&](int64_t heads) { return at::randn({kBatch, kLen, heads, kDim}, at::kDouble).to(dtype); };
  const Tensor whole = make(kHeads);
  const Tensor q = whole.slice(1, kLen - s.queries).contiguous().requires_grad_();
  const Tensor k = make(s.kv_heads).requires_grad_(), v = make(s.kv_heads).requires_grad_();
  std::vector<Tensor> wanted = {q, k, v};
  if (s.call.gates) {
    s.call.gates = s.call.gates->detach().to(dtype).requires_grad_();
    wanted.push_back(*s.call.gates);
  }
  const AttentionResult r = module(q, k, v, s.call);
  EXPECT_EQ(last_engine(), dtype == at::kDouble ? "reference" : "cpu");
  const Tensor weight = at::sin(at::arange(r.out.numel(), at::kDouble)).view(r.out.sizes()).to(dtype);
  return {r.out.detach(), torch::autograd::grad({(r.out * weight).sum()}, wanted)};
}

// "" if the call runs alike on both engines, forward and backward, and the option is seen to act; else why it is
// refused.
std::string verdict(const NamedPattern& pattern, const Option& option) {
  SCOPED_TRACE(fmt::format("{} with {}", pattern.name, option.name));
  Setup plain{pattern.pattern, {.learned = pattern.learned}, {}}, asked = plain;
  try {
    option.ask(asked);
    const Ran exact = run(asked, at::kDouble), single = run(asked, at::kFloat);
    EXPECT_LT(distance(single.out, exact.out), 1e-4);
    for (size_t i = 0; i < exact.grads.size(); ++i) EXPECT_LT(distance(single.grads[i], exact.grads[i]), 1e-3) << i;
    const Ran without = run(plain, at::kDouble);
    if (option.proof == Proof::kOtherResult) {
      EXPECT_GT(distance(exact.out, without.out), 1e-3) << "ignored";
    } else if (option.proof == Proof::kSameRows) {
      EXPECT_LT(distance(exact.out, without.out.slice(1, kLen - asked.queries)), 1e-12);
    } else if (option.proof == Proof::kGateGradient) {
      EXPECT_GT(exact.grads.at(3).abs().max().item<double>(), 1e-3) << "no gradient";
    }
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Features, PageSaysWhatPatternsTakeWhichOptions) {
  std::string table = "| pattern |", rule = "|---|", notes;
  for (const Option& option : options()) {
    table += fmt::format(" {} |", option.name);
    rule += "---|";
  }
  table += "\n" + rule + "\n";
  std::vector<std::string> reasons;
  for (const NamedPattern& pattern : patterns()) {
    table += fmt::format("| {} |", pattern.name);
    for (const Option& option : options()) {
      const std::string reason = verdict(pattern, option);
      if (reason.empty()) {
        table += " yes |";
        continue;
      }
      auto found = std::find(reasons.begin(), reasons.end(), reason);
      if (found == reasons.end()) found = reasons.insert(reasons.end(), reason);
      table += fmt::format(" no ({}) |", found - reasons.begin() + 1);
    }
    table += "\n";
  }
  for (size_t n = 0; n < reasons.size(); ++n) notes += fmt::format("{}. `{}`\n", n + 1, reasons[n]);
  const std::string page = text_of(std::filesystem::path(LONGSTRIDE_SOURCE) / "docs" / "features.md");
  EXPECT_NE(page.find(table + "\n" + notes), std::string::npos) << "docs/features.md must have:\n"
                                                                << table << "\n"
                                                                << notes;
}

TEST(Features, PageSaysWhatEnginesTake) {
  const std::filesystem::path root(LONGSTRIDE_SOURCE);
  const std::string page = text_of(root / "docs" / "features.md");
  using Capable = engine::Capability (*)(const engine::Problem&);
  const std::vector<std::pair<const char*, Capable>> engines = {{"reference", engine::reference::capability},
                                                                {"cpu", engine::cpu::capability}};
  const auto cell = [](const engine::Capability& can) { return can.yes ? std::string("yes") : "no: " + can.reason; };
  engine::Problem problem{.batch = 1, .heads = 2, .kv_heads = 1, .len_q = 8, .len_k = 8, .dim = 64};
  const auto expect_line = [&](const std::string& what) {
    std::string line = fmt::format("| {} |", what);
    for (const auto& [name, capable] : engines) line += fmt::format(" {} |", cell(capable(problem)));
    EXPECT_NE(page.find("\n" + line), std::string::npos) << "docs/features.md must have a line that begins: " << line;
  };
  for (const auto dtype :
       {core::DType::kFloat32, core::DType::kBFloat16, core::DType::kFloat16, core::DType::kFloat64}) {
    problem.dtype = dtype;
    expect_line(core::name(dtype));
  }
  problem.dtype = core::DType::kFloat32;
  for (const int64_t dim : {1, 33, 256, 257, 1000}) {
    problem.dim = dim;
    expect_line(fmt::format("dim {}", dim));
  }
  problem.alibi = true;
  problem.dim = 64;
  expect_line("ALiBi");
  // The CUDA engine is not part of this build: what the page quotes must stand in its checks.
  const std::string checks = text_of(root / "src/engine/cuda/sm90/capability.cc");
  for (const char* quoted : {"dtype must be float32, bfloat16 or float16", "len_k must be below 2^31"}) {
    EXPECT_NE(checks.find(quoted), std::string::npos) << quoted;
    EXPECT_NE(page.find(quoted), std::string::npos) << quoted;
  }
  EXPECT_NE(checks.find("dim must be 1 to {}, got {}"), std::string::npos);
  EXPECT_NE(page.find("dim must be 1 to 256"), std::string::npos);
}

}  // namespace
}  // namespace longstride::nn_test
