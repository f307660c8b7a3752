// Walks the registry: every type, plain and multihead, with every option that it documents. Each is built by name, run
// forward and backward against the oracle under the mask that the option claims, cloned, saved, loaded and run again.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "longstride/factory.h"
#include "test/factory/oracle_attention.h"
#include "test/factory/trials.h"
#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using factory_test::base_meaning;
using factory_test::base_options;
using factory_test::kLen;
using factory_test::Meant;
using factory_test::oracle_attention;
using factory_test::Trial;
using factory_test::trials_of;
using nn_test::distance;
using nn_test::refusal;
using nn_test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

struct Ran {
  Tensor out;
  std::vector<Tensor> grads;
};

Ran run(DilatedAttention& module, const std::vector<Tensor>& inputs) {
  torch::manual_seed(31);
  const auto result = module(inputs[0], inputs[1], inputs[2]);
  const Tensor weight = at::sin(at::arange(result.out.numel(), at::kDouble)).view(result.out.sizes());
  const Tensor lse_weight = at::cos(at::arange(result.lse.numel(), at::kDouble)).view(result.lse.sizes());
  const Tensor finite = at::where(at::isinf(result.lse), at::zeros_like(result.lse), result.lse);
  return {result.out, torch::autograd::grad({(result.out * weight).sum() + (finite * lse_weight).sum()}, inputs)};
}

bool is_of_scorer(const std::string& parameter) { return parameter.find("scorer.") != std::string::npos; }

Ran run(MultiheadDilatedAttention& module, const std::vector<Tensor>& inputs) {
  torch::manual_seed(31);
  const Tensor out = module(inputs[0]).first;
  const Tensor weight = at::sin(at::arange(out.numel(), at::kDouble)).view(out.sizes());
  std::vector<Tensor> wanted = {inputs[0]};
  for (const auto& p : module->named_parameters()) {
    // The oracle's module has none.
    if (!is_of_scorer(p.key())) wanted.push_back(p.value());
  }
  return {out, torch::autograd::grad({(out * weight).sum()}, wanted)};
}

void expect_close(const Ran& got, const Ran& expected, double bound) {
  EXPECT_LE(distance(got.out, expected.out), bound);
  ASSERT_EQ(got.grads.size(), expected.grads.size());
  for (size_t i = 0; i < got.grads.size(); ++i) EXPECT_LE(distance(got.grads[i], expected.grads[i]), bound) << i;
}

// Runs the module as it is, cloned, and saved and loaded.
template <class Holder>
void expect_to_compute(Holder module, const Ran& expected, const std::vector<Tensor>& inputs) {
  const Ran first = run(module, inputs);
  expect_close(first, expected, 1e-10);
  Holder copy(std::dynamic_pointer_cast<typename Holder::ContainedType>(module->clone()));
  expect_close(run(copy, inputs), first, 0);
  const TemporaryFolder folder;
  save_model(folder.path() / "model", copy);
  Holder loaded = load_model<Holder>(folder.path() / "model");
  EXPECT_EQ(loaded->options, module->options);
  expect_close(run(loaded, inputs), first, 0);
  expect_close(run(module, inputs), first, 0);
}

NamedOptions with(NamedOptions base, const NamedOptions& more) {
  for (const auto& [name, value] : more) base[name] = value;
  return base;
}

// The blocks that a call chose, for the oracle.
oracle::BlockRule list_of(const BlockChoice& choice, int64_t block_size) {
  oracle::BlockRule r;
  r.kind = oracle::BlockKind::kList;
  r.block_size = block_size;
  for (int64_t n = 0; n < choice.blocks.size(0); ++n) {
    std::array<int64_t, 4> row;
    for (int64_t c = 0; c < 4; ++c) row[size_t(c)] = choice.blocks[n][c].item<int32_t>();
    r.list.push_back(row);
  }
  return r;
}

void try_plain(const std::string& type, const Trial& trial) {
  Meant meant = base_meaning(type);
  trial.means(meant);
  const NamedOptions options = with(base_options(type, false), trial.options);
  const NamedOptions untouched = options;
  auto created = create_dilated_attention(type, options);
  EXPECT_EQ(options, untouched);
  EXPECT_EQ(created.type, type);
  torch::manual_seed(7);
  std::vector<Tensor> inputs;
  for (int i = 0; i < 3; ++i) {
    inputs.push_back(torch::randn({2, kLen, 4, 8}, at::TensorOptions(at::kDouble).requires_grad(true)));
  }
  if (created->options.learned) {
    meant.learned.head_dim = 8;
    meant.learned.kv_heads = 4;
    EXPECT_EQ(created->options.learned, meant.learned);
    BlockChoice choice;
    torch::manual_seed(31);
    created.module(inputs[0], inputs[1], inputs[2], AttentionOptions{}, &choice);
    meant.oracle.blocks = {list_of(choice, meant.learned.block_size)};
  }
  DilatedAttention by_hand(meant.options().attention, oracle_attention(meant.oracle));
  expect_to_compute(created.module, run(by_hand, inputs), inputs);
}

void try_multihead(const std::string& type, const Trial& trial) {
  Meant meant = base_meaning(type);
  trial.means(meant);
  auto created = create_multihead_dilated_attention(type, with(base_options(type, true), trial.options));
  torch::manual_seed(8);
  const std::vector<Tensor> inputs = {
      torch::randn({2, kLen, meant.module.embed_dim}, at::TensorOptions(at::kDouble).requires_grad(true))};
  if (created->options.attention.learned) {
    EXPECT_EQ(created->options.attention.learned, meant.learned);
    BlockChoice choice;
    MultiheadCall call;
    call.choice = &choice;
    torch::manual_seed(31);
    created.module(inputs[0], call);
    meant.oracle.blocks = {list_of(choice, meant.learned.block_size)};
  }
  MultiheadDilatedAttention by_hand(meant.options(), oracle_attention(meant.oracle));
  by_hand->to(at::kDouble);
  if (meant.module.gamma_init != 1) {
    // What an initialisation is, not only that it is loaded: v's bound is gamma times Xavier's.
    const double bound = meant.module.gamma_init * std::sqrt(6.0 / 64);
    EXPECT_NEAR(created->qkv_proj->weight.narrow(0, 64, 32).abs().max().item<double>(), bound, 0.02 * bound);
  }
  std::map<std::string, Tensor> shared = weights(*created.module);
  std::erase_if(shared, [](const auto& entry) { return is_of_scorer(entry.first); });
  load_weights(*by_hand, shared);
  expect_to_compute(created.module, run(by_hand, inputs), inputs);
}

class EveryType : public testing::TestWithParam<std::string> {};

TEST_P(EveryType, ComputesWhatEveryOptionClaims) {
  const std::string type = GetParam();
  const Registry registry = builtin_registry();
  try_plain(type, {});
  for (const OptionInfo& option : registry.at(type).options) {
    EXPECT_FALSE(option.meaning.empty()) << option.name;
    for (const Trial& trial : trials_of(option.name, type, false)) {
      SCOPED_TRACE(fmt::format("{} plain {}", type, option.name));
      try_plain(type, trial);
    }
  }
}

TEST_P(EveryType, ComputesWhatEveryMultiheadOptionClaims) {
  const std::string type = GetParam();
  const Registry registry = builtin_registry();
  try_multihead(type, {});
  for (const OptionInfo& option : registry.at(type).multihead_options) {
    for (const Trial& trial : trials_of(option.name, type, true)) {
      SCOPED_TRACE(fmt::format("{} multihead {}", type, option.name));
      try_multihead(type, trial);
    }
  }
}

TEST_P(EveryType, TellsItsDefaults) {
  const std::string type = GetParam();
  const Registry registry = builtin_registry();
  for (const auto* listed : {&registry.at(type).options, &registry.at(type).multihead_options}) {
    NamedOptions defaults;
    for (const OptionInfo& option : *listed) defaults[option.name] = OptionValue::json(option.default_value);
    const bool multihead = listed == &registry.at(type).multihead_options;
    // Saying every default is saying nothing.
    if (multihead) {
      EXPECT_EQ(create_multihead_dilated_attention(type, defaults)->options,
                create_multihead_dilated_attention(type)->options);
    } else {
      EXPECT_EQ(create_dilated_attention(type, defaults)->options, create_dilated_attention(type)->options);
    }
  }
}

TEST_P(EveryType, RefusesWhatItDoesNotTake) {
  const std::string type = GetParam();
  EXPECT_THAT(refusal([&] {
                create_dilated_attention(type, {{"casual", true}});
              }),
              AllOf(HasSubstr(fmt::format("unknown option of type {} 'casual'; one of [", type)),
                    HasSubstr("did you mean 'causal'?")));
  EXPECT_THAT(refusal([&] {
                create_multihead_dilated_attention(type, {{"num_head", 4}});
              }),
              HasSubstr("did you mean 'num_heads'?"));
  EXPECT_THAT(refusal([&] { create_dilated_attention(type, {{"embed_dim", 32}}); }), HasSubstr("unknown option"));
  EXPECT_THAT(refusal([&] {
                create_dilated_attention(type, {{"causal", 1}});
              }),
              HasSubstr("causal must be true or false, got 1"));
  EXPECT_THAT(refusal([&] {
                create_dilated_attention(type, {{"segment_lengths", {4}}});
              }),
              HasSubstr("must be given together, got segment_lengths alone"));
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryType, testing::ValuesIn(builtin_registry().names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace longstride
