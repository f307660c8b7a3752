// Configs, process groups, and what each of them refuses.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "longstride/factory.h"
#include "test/nn/support.h"

namespace longstride {
namespace {

using nn_test::refusal;
using testing::AllOf;
using testing::HasSubstr;

class Mute : public c10d::Backend {
 public:
  using Backend::Backend;
  const std::string getBackendName() const override { return "mute"; }
};

// A process group that is registered while this lives; it has ranks, but nobody to talk to.
class RegisteredGroup {
 public:
  RegisteredGroup(const std::string& name, int rank, int size) : name_(name) {
    group_ = c10::make_intrusive<c10d::ProcessGroup>(c10::make_intrusive<c10d::HashStore>(), rank, size);
    group_->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
                       c10::make_intrusive<Mute>(rank, size));
    group_->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
    group_->setGroupName(name);
    c10d::register_process_group(name, group_);
  }
  ~RegisteredGroup() { c10d::unregister_process_group(name_); }

 private:
  std::string name_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

template <class Created>
bool over_ranks(const Created& created) {
  return created->placement() != nullptr;
}

TEST(Options, AreValuesOfEveryKind) {
  const NamedOptions options = {{"a", true}, {"b", 3}, {"c", 0.5}, {"d", "word"}, {"e", {1, 2}}, {"f", OptionValue()}};
  EXPECT_EQ(options.at("a").text(), "true");
  EXPECT_EQ(options.at("b").text(), "3");
  EXPECT_EQ(options.at("c").text(), "0.5");
  EXPECT_EQ(options.at("d").text(), "\"word\"");
  EXPECT_EQ(options.at("e").text(), "[1,2]");
  EXPECT_EQ(options.at("f").text(), "null");
  EXPECT_EQ(options_from_json(R"({"a": true, "b": 3, "c": 0.5, "d": "word", "e": [1, 2], "f": null})"), options);
  EXPECT_EQ(OptionValue::json(R"([{"x": 1}])").text(), R"([{"x":1}])");
  EXPECT_THAT(refusal([] { OptionValue::json("{"); }), HasSubstr("must be JSON"));
  EXPECT_THAT(refusal([] { options_from_json("[1]"); }), HasSubstr("must be a JSON object"));
  EXPECT_THAT(refusal([] { OptionValue value(UINT64_MAX); }), HasSubstr("below 2^63"));
}

TEST(Configs, RoundTripAndRefuseUnknownKeys) {
  RingAttentionConfig ring{"none", 2};
  EXPECT_EQ(RingAttentionConfig::from_json(ring.to_json()), ring);
  EXPECT_EQ(RingAttentionConfig::from_json("{}"), RingAttentionConfig());
  DistributedConfig distributed{"g", 2, 4, 3, "gloo"};
  EXPECT_EQ(DistributedConfig::from_json(distributed.to_json()), distributed);
  MemoryPoolConfig pool{1 << 20, 5};
  EXPECT_EQ(MemoryPoolConfig::from_json(pool.to_json()), pool);
  EXPECT_EQ(MemoryPoolConfig::from_json(MemoryPoolConfig().to_json()), MemoryPoolConfig());
  SparseAttentionConfig sparse;
  sparse.pattern = "hierarchical";
  sparse.block_size = 16;
  sparse.levels = {{16, 64}, {32, std::nullopt}};
  EXPECT_EQ(SparseAttentionConfig::from_json(sparse.to_json()), sparse);
  SparseAttentionConfig hybrid;
  hybrid.pattern = "hybrid";
  hybrid.blocks = {{8, LocalWindow{.window = 16}},
                   {4, RandomBlocks{.density = 0.25, .seed = 3}},
                   {1, SlidingWindow{.left = 7, .sink_tokens = 2}}};
  EXPECT_EQ(SparseAttentionConfig::from_json(hybrid.to_json()), hybrid);
  SparseAttentionConfig window;
  window.pattern = "sliding_window";
  window.left = 7;
  window.sink_tokens = 2;
  EXPECT_EQ(SparseAttentionConfig::from_json(window.to_json()), window);
  MultiheadConfig multihead;
  multihead.embed_dim = 32;
  multihead.num_heads = 4;
  multihead.attention.pattern = Pattern::dilated({8}, {2}).with_blocks(hybrid.blocks);
  EXPECT_EQ(MultiheadConfig::from_json(multihead.to_json()), multihead);
  SparseAttentionConfig learned;
  learned.pattern = "learned";
  learned.density = 0.25;
  learned.min_sparsity_ratio = 0.5;
  learned.max_sparsity_ratio = 0.875;
  learned.hidden = 16;
  learned.temperature = 0.5;
  EXPECT_EQ(SparseAttentionConfig::from_json(learned.to_json()), learned);
  multihead.attention.pattern = Pattern::dilated({8}, {2});
  multihead.attention.learned = learned.learned_blocks();
  EXPECT_EQ(MultiheadConfig::from_json(multihead.to_json()), multihead);
  EXPECT_THAT(refusal([] { RingAttentionConfig::from_json(R"({"ring_sise": 1})"); }),
              HasSubstr("unknown config key 'ring_sise'; one of [group, ring_size]; did you mean 'ring_size'?"));
  EXPECT_THAT(refusal([] { DistributedConfig::from_json(R"({"worldsize": 1})"); }), HasSubstr("'world_size'?"));
  EXPECT_THAT(refusal([] { SparseAttentionConfig::from_json(R"({"blocksize": 1})"); }), HasSubstr("'block_size'?"));
  EXPECT_THAT(refusal([] { RingAttentionConfig::from_json(R"({"ring_size": "1"})"); }),
              HasSubstr("must be an integer"));
}

// As version 0.1.0 at 7059de5 wrote them; never made anew.
TEST(Configs, OfAnEarlierVersionAreRead) {
  const auto text = [](const char* name) {
    std::ifstream file(std::string(LONGSTRIDE_SAVED_CONFIGS) + "/" + name);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(RingAttentionConfig::from_json(text("ring.json")), (RingAttentionConfig{"none", 1}));
  EXPECT_EQ(DistributedConfig::from_json(text("distributed.json")), (DistributedConfig{"g", 2, 4, 3, "gloo"}));
  EXPECT_EQ(MemoryPoolConfig::from_json(text("memory_pool.json")), (MemoryPoolConfig{1 << 20, 1 << 21}));
  SparseAttentionConfig sparse;
  sparse.pattern = "global_local";
  sparse.window = 16;
  sparse.global_tokens = 3;
  sparse.block_size = 8;
  EXPECT_EQ(SparseAttentionConfig::from_json(text("sparse.json")), sparse);
}

TEST(Configs, RefuseBadNumbers) {
  const auto ring = [](int64_t size) { return refusal([&] { RingAttentionConfig{std::nullopt, size}.validate(); }); };
  EXPECT_THAT(ring(0), HasSubstr("ring_size must be positive, got 0"));
  EXPECT_THAT(ring(-2), HasSubstr("ring_size must be positive, got -2"));
  const auto distributed = [](const char* text) { return refusal([&] { DistributedConfig::from_json(text); }); };
  EXPECT_THAT(distributed(R"({"world_size": 0})"), HasSubstr("world_size must be positive, got 0"));
  EXPECT_THAT(distributed(R"({"rank": -1})"), HasSubstr("rank must not be negative, got -1"));
  EXPECT_THAT(distributed(R"({"rank": 4, "world_size": 4})"), HasSubstr("rank must be below world_size 4, got 4"));
  EXPECT_THAT(distributed(R"({"ring_size": 8, "world_size": 4})"), HasSubstr("must divide world_size 4, got 8"));
  EXPECT_THAT(distributed(R"({"ring_size": 3, "world_size": 4})"), HasSubstr("must divide world_size 4, got 3"));
  EXPECT_THAT(distributed(R"({"backend": "glo"})"),
              HasSubstr("unknown backend 'glo'; one of [gloo, nccl, mpi]; did you mean 'gloo'?"));
  const auto sparse = [](const char* text) { return refusal([&] { SparseAttentionConfig::from_json(text); }); };
  EXPECT_THAT(sparse(R"({"block_size": 0})"), HasSubstr("block_size must be positive, got 0"));
  EXPECT_THAT(sparse(R"({"block_size": -8})"), HasSubstr("block_size must be positive, got -8"));
  EXPECT_THAT(sparse(R"({"sparsity_ratio": 1})"), HasSubstr("sparsity_ratio must be in (0, 1), got 1"));
  EXPECT_THAT(sparse(R"({"sparsity_ratio": 0.0})"), HasSubstr("sparsity_ratio must be in (0, 1), got 0"));
  EXPECT_THAT(sparse(R"({"density": -0.5})"), HasSubstr("density must be in (0, 1), got -0.5"));
  EXPECT_THAT(
      sparse(R"({"pattern": "local"})"),
      AllOf(HasSubstr("unknown pattern 'local'; one of [local_window, dilated_sparse"), HasSubstr("hybrid, learned]")));
  EXPECT_THAT(sparse(R"({"pattern": "axal"})"), HasSubstr("did you mean 'axial'?"));
  EXPECT_THAT(sparse(R"({"pattern": "axial", "sparsity_ratio": 0.5})"),
              HasSubstr("unknown option of pattern axial 'sparsity_ratio'; one of [grid_columns]"));
  EXPECT_THAT(sparse(R"({"pattern": "strided", "window": 5})"), HasSubstr("one of [stride_blocks]"));
  EXPECT_THAT(sparse(R"({"pattern": "hybrid"})"), HasSubstr("blocks must hold the block patterns"));
  EXPECT_THAT(sparse(R"({"sparsity_ratio": 0.5, "density": 0.5})"), HasSubstr("together"));
  const auto window = [&](const std::string& more) {
    return sparse((R"({"pattern": "sliding_window", )" + more + "}").c_str());
  };
  EXPECT_THAT(window(R"("left": -1)"), HasSubstr("left must not be negative, got -1"));
  EXPECT_THAT(window(R"("right": -5)"), HasSubstr("right must not be negative, got -5"));
  EXPECT_THAT(window(R"("sink_tokens": -2)"), HasSubstr("sink_tokens must not be negative, got -2"));
  EXPECT_THAT(window(R"("block_size": 128)"),
              HasSubstr("block_size must be 1 under sliding_window, which is in tokens, got 128"));
  EXPECT_THAT(window(R"("window": 64)"),
              HasSubstr("unknown option of pattern sliding_window 'window'; one of [left, right, sink_tokens]"));
  const auto learned = [&](const std::string& more) {
    return sparse((R"({"pattern": "learned", )" + more + "}").c_str());
  };
  EXPECT_THAT(learned(R"("min_sparsity_ratio": 0)"), HasSubstr("min_sparsity_ratio must be in (0, 1), got 0"));
  EXPECT_THAT(learned(R"("min_sparsity_ratio": 1.5)"), HasSubstr("min_sparsity_ratio must be in (0, 1), got 1.5"));
  EXPECT_THAT(learned(R"("max_sparsity_ratio": 1)"), HasSubstr("max_sparsity_ratio must be in (0, 1), got 1"));
  EXPECT_THAT(learned(R"("max_sparsity_ratio": -0.1)"), HasSubstr("max_sparsity_ratio must be in (0, 1), got -0.1"));
  EXPECT_THAT(learned(R"("min_sparsity_ratio": 0.9, "max_sparsity_ratio": 0.1)"),
              HasSubstr("min_sparsity_ratio must be below max_sparsity_ratio 0.1, got 0.9"));
  EXPECT_THAT(learned(R"("min_sparsity_ratio": 0.9, "max_sparsity_ratio": 0.9)"), HasSubstr("must be below"));
  EXPECT_THAT(learned(R"("max_sparsity_ratio": 0.8)"),
              HasSubstr("sparsity_ratio must be from min_sparsity_ratio 0.9 to max_sparsity_ratio 0.8, got 0.9"));
  EXPECT_THAT(learned(R"("sparsity_ratio": 0.5, "min_sparsity_ratio": 0.6)"), HasSubstr("must be from"));
  EXPECT_THAT(learned(R"("sparsity_ratio": 0.5, "density": 0.5)"), HasSubstr("together"));
  EXPECT_THAT(learned(R"("density": 1.5)"), HasSubstr("density must be in (0, 1), got 1.5"));
  EXPECT_THAT(learned(R"("hidden": 0)"), HasSubstr("hidden must be positive, got 0"));
  EXPECT_THAT(learned(R"("temperature": -1)"), HasSubstr("temperature must be finite and not negative, got -1"));
  EXPECT_THAT(learned(R"("window": 64)"), HasSubstr("unknown option of pattern learned 'window'; one of ["));
  EXPECT_THAT(sparse(R"({"pattern": "axial", "hidden": 8})"), HasSubstr("unknown option of pattern axial 'hidden'"));
  SparseAttentionConfig nan;
  nan.density = NAN;
  EXPECT_THAT(refusal([&] { nan.validate(); }), HasSubstr("density must be in (0, 1), got nan"));
}

// Both bounds reach the pool, each in its place.
TEST(Configs, AMemoryPoolHasTheBoundsOfItsConfig) {
  MemoryPoolConfig config;
  config.most_live_bytes = 4096;
  config.most_cached_bytes = 1024;
  const auto pool = create_memory_pool(config);
  {
    const auto one = pool->lease(1024), two = pool->lease(1024), three = pool->lease(1024);
    EXPECT_EQ(pool->statistics().live_bytes, 3072);
    EXPECT_THAT(refusal([&] { (void)pool->lease(2048); }), HasSubstr("4096"));
  }
  EXPECT_EQ(pool->statistics().live_bytes, 0);
  EXPECT_EQ(pool->statistics().cached_bytes, 1024);
  const auto usual = create_memory_pool();
  { const auto kept = usual->lease(1 << 20); }
  EXPECT_EQ(usual->statistics().cached_bytes, 1 << 20);
  config.most_cached_bytes = 0;
  EXPECT_THAT(refusal([&] { create_memory_pool(config); }), HasSubstr("most_cached_bytes must be positive, got 0"));
  EXPECT_THAT(refusal([] { MemoryPoolConfig::from_json(R"({"most_live_bytes": -1})"); }),
              HasSubstr("most_live_bytes must be positive, got -1"));
  EXPECT_THAT(refusal([] { MemoryPoolConfig::from_json(R"({"most_cashed_bytes": 1})"); }),
              HasSubstr("did you mean 'most_cached_bytes'?"));
}

TEST(Configs, SparseDefaultsAreWhatTheHeaderSays) {
  const auto of = [](const char* pattern) {
    SparseAttentionConfig c;
    c.pattern = pattern;
    c.block_size = 8;
    const SparseAttentionConfig before = c;
    const auto blocks = c.block_patterns();
    EXPECT_EQ(c, before);
    EXPECT_EQ(blocks.size(), 1U);
    EXPECT_EQ(blocks[0].block_size(), 8);
    return blocks[0].rule();
  };
  EXPECT_NEAR(*std::get<LocalWindow>(of("local_window")).density, 0.1, 1e-12);
  EXPECT_NEAR(*std::get<DilatedSparse>(of("dilated_sparse")).density, 0.1, 1e-12);
  EXPECT_NEAR(std::get<RandomBlocks>(of("random")).density, 0.1, 1e-12);
  EXPECT_EQ(std::get<GlobalLocal>(of("global_local")), (GlobalLocal{512, 64}));
  EXPECT_EQ(std::get<Strided>(of("strided")).stride_blocks, 4);
  SparseAttentionConfig window;
  window.pattern = "sliding_window";
  EXPECT_EQ(window.block_patterns(), (std::vector<BlockPattern>{{1, SlidingWindow{.left = 512, .right = 512}}}));
  window.sink_tokens = 4;
  EXPECT_EQ(window.block_patterns(),
            (std::vector<BlockPattern>{{1, SlidingWindow{.left = 512, .right = 512, .sink_tokens = 4}}}));
  window.left = 1023;
  EXPECT_EQ(window.block_patterns(), (std::vector<BlockPattern>{{1, SlidingWindow{.left = 1023, .sink_tokens = 4}}}));
  SparseAttentionConfig strided;
  strided.pattern = "strided";
  EXPECT_EQ(strided.block_patterns()[0].block_size(), 128);
  EXPECT_EQ(std::get<Hierarchical>(of("hierarchical")).levels,
            (std::vector<HierarchyLevel>{{8, 32}, {32, 128}, {128, std::nullopt}}));
}

TEST(Configs, EveryRuleIsMadeByItsName) {
  for_each_rule([]<class Rule>(const Rule& rule) {
    if constexpr (requires { Rule::usual(int64_t{1}); }) {
      SparseAttentionConfig c;
      c.pattern = rule.kName;
      const int64_t size = fixed_block_size<Rule>().value_or(8);
      c.block_size = size;
      EXPECT_EQ(c.block_patterns(), (std::vector<BlockPattern>{{size, Rule::usual(size)}})) << rule.kName;
    }
  });
}

TEST(Configs, LearnedBlocksAreWhatTheRatiosSay) {
  SparseAttentionConfig c;
  EXPECT_FALSE(c.learned_blocks().has_value());
  c.pattern = "learned";
  LearnedBlocks expected;
  expected.block_size = 128;
  expected.density = 1 - 0.9;
  EXPECT_TRUE(c.block_patterns().empty());
  EXPECT_EQ(c.learned_blocks(), expected);
  c.density = 0.25;
  c.min_sparsity_ratio = 0.5;
  c.max_sparsity_ratio = 0.875;
  c.hidden = 16;
  c.temperature = 0;
  c.block_size = 8;
  expected = {
      .block_size = 8, .density = 0.25, .min_density = 0.125, .max_density = 0.5, .hidden = 16, .temperature = 0};
  EXPECT_EQ(c.learned_blocks(), expected);
  c.min_sparsity_ratio = std::nullopt;
  expected.max_density = std::nullopt;
  EXPECT_EQ(c.learned_blocks(), expected);
}

TEST(Groups, OneProcessUnlessAGroupSaysOtherwise) {
  EXPECT_EQ(ranks_of(RingAttentionConfig{}), 1);
  EXPECT_EQ(ranks_of(RingAttentionConfig{"none", 1}), 1);
  EXPECT_EQ(ranks_of(DistributedConfig{std::nullopt, std::nullopt, 1, 0}), 1);
  EXPECT_THAT(refusal([] {
                ranks_of(RingAttentionConfig{std::nullopt, 4});
              }),
              AllOf(HasSubstr("ring_size must divide the 1 ranks"), HasSubstr("got 4"), HasSubstr("no process group")));
  EXPECT_THAT(
      refusal([] {
        ranks_of(RingAttentionConfig{"longstride-nowhere", std::nullopt});
      }),
      HasSubstr("group must be \"none\" or the name of a process group of this process, got 'longstride-nowhere'"));
  EXPECT_THAT(refusal([] {
                ranks_of(DistributedConfig{std::nullopt, std::nullopt, 2});
              }),
              HasSubstr("world_size must be that of the group, 1, got 2"));
  EXPECT_THAT(refusal([] {
                ranks_of(DistributedConfig{std::nullopt, std::nullopt, std::nullopt, 1});
              }),
              HasSubstr("rank must be that of the group, 0, got 1"));
  DistributedConfig backend;
  backend.backend = "gloo";
  EXPECT_THAT(refusal([&] { ranks_of(backend); }), HasSubstr("backend must be unset without a process group"));
}

TEST(Groups, RanksOfAGroupAreCounted) {
  const RegisteredGroup group("longstride-test-group", 1, 6);
  const std::string name = "longstride-test-group";
  EXPECT_EQ(ranks_of(RingAttentionConfig{name, std::nullopt}), 6);
  EXPECT_EQ(ranks_of(RingAttentionConfig{name, 3}), 6);
  EXPECT_EQ(ranks_of(DistributedConfig{name, 2, 6, 1}), 6);
  EXPECT_THAT(refusal([&] {
                ranks_of(RingAttentionConfig{name, 4});
              }),
              HasSubstr("must divide the 6 ranks of the group, got 4"));
  EXPECT_THAT(refusal([&] { ranks_of(RingAttentionConfig{name, 12}); }), HasSubstr("the 6 ranks of the group, got 12"));
  EXPECT_THAT(refusal([&] {
                ranks_of(DistributedConfig{name, {}, 4});
              }),
              HasSubstr("world_size must be that of the group, 6, got 4"));
  EXPECT_THAT(refusal([&] {
                ranks_of(DistributedConfig{name, {}, 6, 0});
              }),
              HasSubstr("rank must be that of the group, 1, got 0"));
  for (const char* type : {"ring", "distributed", "block_sparse_ring", "block_sparse_ring_distributed", "auto"}) {
    EXPECT_TRUE(over_ranks(create_dilated_attention(type, {{"group", name}}))) << type;
    EXPECT_FALSE(over_ranks(create_dilated_attention(type, {{"group", name}, {"ring_size", 1}}))) << type;
  }
  EXPECT_EQ(choose_attention({{"group", name}}).type, "ring");
  EXPECT_THAT(choose_attention({{"group", name}}).reason, HasSubstr("6 ranks share the sequence"));
}

TEST(Groups, TheDefaultGroupCountsWhereNoneIsNamed) {
  const RegisteredGroup group("0", 0, 2);
  EXPECT_EQ(ranks_of(RingAttentionConfig{}), 2);
  EXPECT_EQ(ranks_of(RingAttentionConfig{"none", std::nullopt}), 1);
  EXPECT_TRUE(over_ranks(create_dilated_attention("ring")));
  EXPECT_TRUE(over_ranks(from_legacy_attention("RingDilatedAttentionV2", {{{4}, {1}}, {}})));
  EXPECT_FALSE(over_ranks(create_dilated_attention("ring", {{"group", "none"}})));
  EXPECT_FALSE(over_ranks(create_dilated_attention("standard")));
  EXPECT_EQ(ring_of({})->getSize(), 2);
  EXPECT_FALSE(ring_of({"none", {}}));
  EXPECT_TRUE(over_ranks(create_dilated_attention("block_sparse_ring", {{"pattern", "learned"}})));
}

TEST(Groups, ARingOfABackendThatCannotBeSplitIsRefused) {
  const RegisteredGroup group("longstride-whole", 3, 4);
  EXPECT_THAT(refusal([] {
                create_dilated_attention("ring", {{"group", "longstride-whole"}, {"ring_size", 2}});
              }),
              AllOf(HasSubstr("ring_size must be unset or 4 where the group cannot be split (Backend mute "),
                    HasSubstr("), got 2; make the ring's own group and name it")));
}

}  // namespace
}  // namespace longstride
