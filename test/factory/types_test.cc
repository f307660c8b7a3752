// Walks the registry: every type, plain and multihead, with every option that it documents. Each is built by name, run
// forward and backward against the oracle under the mask that the option claims, cloned, saved, loaded and run again.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "longstride/factory.h"
#include "test/factory/oracle_attention.h"
#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using factory_test::oracle_attention;
using nn_test::distance;
using nn_test::refusal;
using nn_test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kLen = 29;  // no multiple of a segment or a block

// What options by name are to mean: the same said to the module's options and to the oracle, by hand.
struct Meant {
  MultiheadDilatedAttentionOptions module;
  oracle::Options oracle;
  LearnedBlocks learned;  // of a learned pattern; its blocks are told to the oracle when they have been chosen
};

struct Trial {
  NamedOptions options;
  std::function<void(Meant&)> means = [](Meant&) {};
};

bool is_sparse(const std::string& type) { return type.starts_with("block_sparse"); }
bool is_adaptive(const std::string& type) { return type == "block_sparse_adaptive"; }

// A learned pattern without noise, so that dropout finds the generator as it would without a scorer.
NamedOptions learned_options(const std::string& type, bool multihead) {
  NamedOptions o = {{"block_size", 4}, {"sparsity_ratio", 0.6}, {"temperature", 0.0}};
  if (!multihead) o.merge(NamedOptions{{"head_dim", 8}, {"kv_heads", 4}});
  if (!is_adaptive(type)) o.merge(NamedOptions{{"pattern", "learned"}, {"window", OptionValue()}});
  return o;
}

// Where every trial starts.
NamedOptions base_options(const std::string& type, bool multihead) {
  NamedOptions o;
  if (is_adaptive(type)) {
    o = learned_options(type, multihead);
  } else if (is_sparse(type)) {
    o = {{"pattern", "local_window"}, {"block_size", 4}, {"window", 8}};
  } else {
    o = {{"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}};
  }
  if (multihead) o.merge(NamedOptions{{"embed_dim", 32}, {"num_heads", 4}, {"dtype", "float64"}});
  return o;
}

oracle::BlockRule local_window() {
  oracle::BlockRule r;
  r.kind = oracle::BlockKind::kLocalWindow;
  r.block_size = 4;
  r.window = 8;
  return r;
}

void set_groups(Meant& m, const std::vector<int64_t>& segments, const std::vector<int64_t>& rates) {
  m.module.attention.segment_lengths = m.oracle.segments = segments;
  m.module.attention.dilation_rates = m.oracle.rates = rates;
}

Meant base_meaning(const std::string& type) {
  Meant m;
  m.module.embed_dim = 32;
  m.module.num_heads = 4;
  m.learned.block_size = 4;
  m.learned.density = 0.4;
  m.learned.temperature = 0;
  set_groups(m, {8, 24}, {1, 3});
  if (is_sparse(type)) {
    // Groups here serve only to let the module pass its checks; what computes is the oracle.
    m.oracle.segments = m.oracle.rates = {};
    m.oracle.blocks = {local_window()};
  }
  return m;
}

Trial head_partition(NamedOptions more, std::function<void(Meant&)> means) {
  more["mixing"] = "head_partition";
  more["segment_lengths"] = {8, 24};
  more["dilation_rates"] = {1, 3};
  return {more, [means](Meant& m) {
            set_groups(m, {8, 24}, {1, 3});
            m.module.attention.mixing = Mixing::kHeadPartition;
            m.oracle.head_partition = true;
            means(m);
          }};
}

// A pattern by its options, in place of the base's window.
Trial pattern(NamedOptions options, std::function<void(oracle::BlockRule&)> means) {
  options.try_emplace("window", OptionValue());
  options.try_emplace("block_size", 4);
  return {options, [means](Meant& m) {
            oracle::BlockRule r = local_window();
            r.window = 0;
            means(r);
            m.oracle.blocks = {r};
          }};
}

// The trials of an option of learned blocks; none for other options.
std::vector<Trial> learned_trials(const std::string& option, const std::string& type, bool multihead) {
  const auto trial = [&](NamedOptions options, std::function<void(LearnedBlocks&)> means) {
    options.merge(learned_options(type, multihead));
    return std::vector<Trial>{{options, [means](Meant& m) { means(m.learned); }}};
  };
  const auto same = [](LearnedBlocks&) {};
  if (is_adaptive(type)) {
    if (option == "block_size") return trial({{"block_size", 3}}, [](auto& l) { l.block_size = 3; });
    if (option == "density") {
      return trial({{"density", 0.55}, {"sparsity_ratio", OptionValue()}}, [](auto& l) { l.density = 0.55; });
    }
    if (option == "sparsity_ratio") return trial({{"sparsity_ratio", 0.5}}, [](auto& l) { l.density = 0.5; });
  }
  if (option == "min_sparsity_ratio") return trial({{"min_sparsity_ratio", 0.5}}, [](auto& l) { l.max_density = 0.5; });
  if (option == "max_sparsity_ratio") {
    return trial({{"min_sparsity_ratio", 0.25}, {"max_sparsity_ratio", 0.75}}, [](auto& l) {
      l.min_density = 0.25;
      l.max_density = 0.75;
    });
  }
  if (option == "hidden") return trial({{"hidden", 5}}, [](auto& l) { l.hidden = 5; });
  if (option == "temperature") return trial({{"temperature", 0.7}}, [](auto& l) { l.temperature = 0.7; });
  if (option == "head_dim" || (option == "kv_heads" && !multihead)) return trial({}, same);
  return {};
}

// The trials of one option; at least one for every option there is.
std::vector<Trial> trials_of(const std::string& option, const std::string& type, bool multihead) {
  if (auto learned = learned_trials(option, type, multihead); !learned.empty()) return learned;
  using oracle::BlockKind;
  const auto groups = [](Meant& m) { set_groups(m, {16, 7}, {2, 5}); };
  const NamedOptions both = {{"segment_lengths", {16, 7}}, {"dilation_rates", {2, 5}}};
  const std::map<std::string, std::vector<Trial>> all = {
      {"segment_lengths", {{both, groups}}},
      {"dilation_rates", {{both, groups}}},
      {"causal", {{{{"causal", true}}, [](Meant& m) { m.module.attention.causal = m.oracle.causal = true; }}}},
      {"head_offset",
       {{{{"head_offset", "block"}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.module.attention.head_offset = HeadOffset::kBlock;
           m.oracle.rule = oracle::OffsetRule::kBlock;
         }},
        {{{"head_offset", "group"}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.module.attention.head_offset = HeadOffset::kGroup;
           m.oracle.rule = oracle::OffsetRule::kGroup;
         }}}},
      {"offsets",
       {{{{"offsets", {0, 0, 0, 0, 2, 1, 0, 2}}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.oracle.offsets = {0, 0, 0, 0, 2, 1, 0, 2};
           m.module.attention.offsets = m.oracle.offsets;
         }}}},
      {"mixing", {head_partition({}, [](Meant&) {})}},
      {"average",
       {head_partition({{"average", true}}, [](Meant& m) { m.module.attention.average = m.oracle.average = true; })}},
      {"padding",
       {{{{"padding", "zero_keys"}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.module.attention.padding = Padding::kZeroKeys;
           m.oracle.zero_keys = true;
         }}}},
      {"softmax_scale", {{{{"softmax_scale", 0.7}}, [](Meant& m) { m.module.attention.softmax_scale = 0.7; }}}},
      {"attention_dropout",
       {{{{"attention_dropout", 0.3}}, [](Meant& m) { m.module.attention.attention_dropout = 0.3; }}}},
      {"embed_dim", {{{{"embed_dim", 64}}, [](Meant& m) { m.module.embed_dim = 64; }}}},
      {"num_heads", {{{{"num_heads", 2}}, [](Meant& m) { m.module.num_heads = 2; }}}},
      {"kv_heads", {{{{"kv_heads", 2}}, [](Meant& m) { m.module.kv_heads = 2; }}}},
      {"fused_qkv", {{{{"fused_qkv", false}}, [](Meant& m) { m.module.fused_qkv = false; }}}},
      {"bias", {{{{"bias", false}}, [](Meant& m) { m.module.bias = false; }}}},
      {"qk_norm", {{{{"qk_norm", true}}, [](Meant& m) { m.module.qk_norm = true; }}}},
      {"positions",
       {{{{"positions", "rope"}}, [](Meant& m) { m.module.positions.kind = Positions::kRope; }},
        {{{"positions", "xpos"}}, [](Meant& m) { m.module.positions.kind = Positions::kXpos; }}}},
      {"rope_base",
       {{{{"positions", "rope"}, {"rope_base", 50}},
         [](Meant& m) {
           m.module.positions.kind = Positions::kRope;
           m.module.positions.base = 50;
         }}}},
      {"xpos_scale_base",
       {{{{"positions", "xpos"}, {"xpos_scale_base", 40.5}},
         [](Meant& m) {
           m.module.positions.kind = Positions::kXpos;
           m.module.positions.xpos_scale_base = 40.5;
         }}}},
      {"max_len",
       {{{{"positions", "xpos"}, {"max_len", 20000}},
         [](Meant& m) {
           m.module.positions.kind = Positions::kXpos;
           m.module.positions.max_len = 20000;
         }}}},
      {"sub_layer_norm", {{{{"sub_layer_norm", true}}, [](Meant& m) { m.module.sub_layer_norm = true; }}}},
      {"layer_norm_eps",
       {{{{"sub_layer_norm", true}, {"layer_norm_eps", 0.1}},
         [](Meant& m) {
           m.module.sub_layer_norm = true;
           m.module.layer_norm_eps = 0.1;
         }}}},
      {"gamma_init", {{{{"gamma_init", 2.0}}, [](Meant& m) { m.module.gamma_init = 2.0; }}}},
      {"device", {{{{"device", "cpu"}}}}},
      {"dtype", {{{{"dtype", "float64"}}}}},
      {"group", {{{{"group", "none"}}}}},
      {"ring_size", {{{{"ring_size", 1}}}}},
      {"world_size", {{{{"world_size", 1}}}}},
      {"rank", {{{{"rank", 0}}}}},
      {"backend", {}},  // wants a process group: see CreateTest
      {"pattern", {pattern({{"pattern", "local_window"}, {"window", 12}}, [](auto& r) { r.window = 12; })}},
      {"block_size",
       {pattern({{"block_size", 3}, {"window", 9}},
                [](auto& r) {
                  r.block_size = 3;
                  r.window = 9;
                })}},
      {"window", {pattern({{"window", 20}}, [](auto& r) { r.window = 20; })}},
      {"density", {pattern({{"density", 0.4}}, [](auto& r) { r.density = 0.4; })}},
      {"sparsity_ratio", {pattern({{"sparsity_ratio", 0.5}}, [](auto& r) { r.density = 0.5; })}},
      {"rates",
       {pattern({{"pattern", "dilated_sparse"}, {"rates", {1, 2}}, {"density", 0.4}},
                [](auto& r) {
                  r.kind = BlockKind::kDilatedSparse;
                  r.rates = {1, 2};
                  r.density = 0.4;
                })}},
      {"reach",
       {pattern({{"pattern", "dilated_sparse"}, {"rates", {2, 3}}, {"reach", 2}},
                [](auto& r) {
                  r.kind = BlockKind::kDilatedSparse;
                  r.rates = {2, 3};
                  r.reach = 2;
                })}},
      {"global_tokens",
       {pattern({{"pattern", "global_local"}, {"window", 4}, {"global_tokens", 5}},
                [](auto& r) {
                  r.kind = BlockKind::kGlobalLocal;
                  r.window = 4;
                  r.global_tokens = 5;
                })}},
      {"stride_blocks",
       {pattern({{"pattern", "strided"}, {"stride_blocks", 3}},
                [](auto& r) {
                  r.kind = BlockKind::kStrided;
                  r.stride = 3;
                })}},
      {"grid_columns",
       {pattern({{"pattern", "axial"}, {"grid_columns", 3}},
                [](auto& r) {
                  r.kind = BlockKind::kAxial;
                  r.columns = 3;
                }),
        pattern({{"pattern", "axial"}}, [](auto& r) { r.kind = BlockKind::kAxial; })}},
      {"seed",
       {pattern({{"pattern", "random"}, {"seed", 5}, {"density", 0.4}},
                [](auto& r) {
                  r.kind = BlockKind::kRandom;
                  r.seed = 5;
                  r.density = 0.4;
                })}},
      {"levels",
       {pattern({{"pattern", "hierarchical"},
                 {"levels", OptionValue::json(R"([{"stride": 4, "window": 8}, {"stride": 12, "global": true}])")}},
                [](auto& r) {
                  r.kind = BlockKind::kHierarchical;
                  r.levels = {{4, 8}, {12, 0}};
                })}},
      {"blocks",
       {{{{"pattern", "hybrid"},
          {"block_size", OptionValue()},
          {"window", OptionValue()},
          {"blocks", OptionValue::json(R"([{"pattern": "local_window", "block_size": 4, "window": 4},
                                           {"pattern": "strided", "block_size": 8, "stride_blocks": 2}])")}},
         [](Meant& m) {
           oracle::BlockRule local = local_window(), strided = local_window();
           local.window = 4;
           strided.kind = BlockKind::kStrided;
           strided.block_size = 8;
           strided.stride = 2;
           m.oracle.blocks = {local, strided};
         }}}},
  };
  const auto found = all.find(option);
  if (found == all.end()) ADD_FAILURE() << "option '" << option << "' has no trial in this test";
  return found == all.end() ? std::vector<Trial>() : found->second;
}

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
  DilatedAttention by_hand(meant.module.attention, oracle_attention(meant.oracle));
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
  MultiheadDilatedAttention by_hand(meant.module, oracle_attention(meant.oracle));
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
