#include "test/factory/trials.h"

#include <gtest/gtest.h>

namespace longstride::factory_test {
namespace {

bool is_sparse(const std::string& type) { return type.starts_with("block_sparse"); }

bool is_adaptive(const std::string& type) { return type == "block_sparse_adaptive"; }

// A learned pattern without noise, so that dropout finds the generator as it would without a scorer.
NamedOptions learned_options(const std::string& type, bool multihead) {
  NamedOptions o = {{"block_size", 4}, {"sparsity_ratio", 0.6}, {"temperature", 0.0}};
  if (!multihead) o.merge(NamedOptions{{"head_dim", 8}, {"kv_heads", 4}});
  if (!is_adaptive(type)) o.merge(NamedOptions{{"pattern", "learned"}, {"window", OptionValue()}});
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
  m.pattern.segment_lengths = m.oracle.segments = segments;
  m.pattern.dilation_rates = m.oracle.rates = rates;
}

Trial head_partition(NamedOptions more, std::function<void(Meant&)> means) {
  more["mixing"] = "head_partition";
  more["segment_lengths"] = {8, 24};
  more["dilation_rates"] = {1, 3};
  return {more, [means](Meant& m) {
            set_groups(m, {8, 24}, {1, 3});
            m.pattern.options.mixing = Mixing::kHeadPartition;
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

// A sliding window by its options.
Trial window(NamedOptions options, std::function<void(oracle::BlockRule&)> means) {
  options.merge(NamedOptions{{"pattern", "sliding_window"}, {"block_size", OptionValue()}});
  return pattern(std::move(options), [means](oracle::BlockRule& r) {
    r = {.kind = oracle::BlockKind::kSlidingWindow};
    means(r);
  });
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

}  // namespace

MultiheadDilatedAttentionOptions Meant::options() const {
  MultiheadDilatedAttentionOptions o = module;
  o.attention.pattern = pattern.pattern();
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

// The trials of one option; at least one for every option there is.
std::vector<Trial> trials_of(const std::string& option, const std::string& type, bool multihead) {
  if (auto learned = learned_trials(option, type, multihead); !learned.empty()) return learned;
  using oracle::BlockKind;
  const auto groups = [](Meant& m) { set_groups(m, {16, 7}, {2, 5}); };
  const NamedOptions both = {{"segment_lengths", {16, 7}}, {"dilation_rates", {2, 5}}};
  const std::map<std::string, std::vector<Trial>> all = {
      {"segment_lengths", {{both, groups}}},
      {"dilation_rates", {{both, groups}}},
      {"causal", {{{{"causal", true}}, [](Meant& m) { m.pattern.options.causal = m.oracle.causal = true; }}}},
      {"head_offset",
       {{{{"head_offset", "block"}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.pattern.options.head_offset = HeadOffset::kBlock;
           m.oracle.rule = oracle::OffsetRule::kBlock;
         }},
        {{{"head_offset", "group"}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.pattern.options.head_offset = HeadOffset::kGroup;
           m.oracle.rule = oracle::OffsetRule::kGroup;
         }}}},
      {"offsets",
       {{{{"offsets", {0, 0, 0, 0, 2, 1, 0, 2}}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.oracle.offsets = {0, 0, 0, 0, 2, 1, 0, 2};
           m.pattern.options.offsets = m.oracle.offsets;
         }}}},
      {"mixing", {head_partition({}, [](Meant&) {})}},
      {"average",
       {head_partition({{"average", true}}, [](Meant& m) { m.pattern.options.average = m.oracle.average = true; })}},
      {"padding",
       {{{{"padding", "zero_keys"}, {"segment_lengths", {8, 24}}, {"dilation_rates", {1, 3}}},
         [](Meant& m) {
           set_groups(m, {8, 24}, {1, 3});
           m.pattern.options.padding = Padding::kZeroKeys;
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
      {"sinks", {{{{"sinks", true}}, [](Meant& m) { m.module.sinks = true; }}}},
      {"positions",
       {{{{"positions", "rope"}}, [](Meant& m) { m.module.positions.kind = Positions::kRope; }},
        {{{"positions", "xpos"}}, [](Meant& m) { m.module.positions.kind = Positions::kXpos; }},
        {{{"positions", "alibi"}}, [](Meant& m) { m.module.positions.kind = Positions::kAlibi; }}}},
      {"alibi_slopes",
       {{{{"positions", "alibi"}, {"alibi_slopes", OptionValue::json("[0.5, 0.25, 0.1, 0]")}},
         [](Meant& m) {
           m.module.positions.kind = Positions::kAlibi;
           m.module.positions.alibi_slopes = {0.5, 0.25, 0.1, 0.0};
         }}}},
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
      {"left",
       {window({{"left", 5}}, [](auto& r) { r.left = 5; }), window({}, [](auto& r) { r.left = r.right = 512; })}},
      {"right",
       {window({{"right", 3}}, [](auto& r) { r.right = 3; }),
        window({{"left", 6}, {"right", 0}}, [](auto& r) { r.left = 6, r.right = 0; })}},
      {"sink_tokens",
       {window({{"left", 2}, {"right", 1}, {"sink_tokens", 4}},
               [](auto& r) {
                 r.left = 2;
                 r.right = 1;
                 r.sink_tokens = 4;
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

}  // namespace longstride::factory_test
