// Every name that says ring or distributed, built and run on several processes, against one process.
//
// usage: names_on_ranks_test RANKS
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <functional>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>

#include "longstride/factory.h"
#include "test/op/parallel/processes.h"
#include "test/op/parallel/store_backend.h"

namespace longstride::test {
namespace {

using at::Tensor;

Tensor drawn(at::IntArrayRef sizes, int64_t seed) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions(at::kDouble));
}

// Out of a built module on this rank's rows of a sequence of its group; an empty group: on all of it.
struct Shards {
  RankGroup group;
  int64_t seed = 1;

  Tensor part(at::IntArrayRef sizes, int64_t more) const { return shard(drawn(sizes, 10 * seed + more), group); }
  Tensor run(DilatedAttention module) const {
    const std::vector<int64_t> sizes = {2, 24, 4, 8};
    return module->forward(part(sizes, 1), part(sizes, 2), part(sizes, 3)).out.detach();
  }
  Tensor run(MultiheadDilatedAttention module) const {
    module->to(at::kDouble);
    return module->forward(part({2, 24, 16}, 1)).first.detach();
  }
};

using Build = std::function<Tensor(const Shards&, const NamedOptions& where)>;

NamedOptions joined(NamedOptions options, const NamedOptions& more) {
  options.insert(more.begin(), more.end());
  return options;
}

const NamedOptions kGroups = {{"segment_lengths", {4, 16}}, {"dilation_rates", {1, 2}}};
const NamedOptions kWidth = {{"embed_dim", 16}, {"num_heads", 2}};
const NamedOptions kWindow = {{"pattern", "local_window"}, {"block_size", 4}, {"window", 8}};

std::map<std::string, Build> names() {
  std::map<std::string, Build> all;
  for (const std::string type : {"ring", "distributed", "auto", "block_sparse_ring", "block_sparse_ring_distributed"}) {
    const NamedOptions options = type.starts_with("block") ? joined(kGroups, kWindow) : kGroups;
    all[type] = [=](const Shards& on, const NamedOptions& where) {
      return on.run(create_dilated_attention(type, joined(options, where)).module);
    };
    all[type + ", multihead"] = [=](const Shards& on, const NamedOptions& where) {
      return on.run(create_multihead_dilated_attention(type, joined(joined(options, kWidth), where)).module);
    };
  }
  all["create_block_sparse_attention"] = [](const Shards& on, const NamedOptions& where) {
    return on.run(create_block_sparse_attention(joined(joined(kWindow, kWidth), where)).module);
  };
  for (const std::string& name : legacy_class_names()) {
    const bool sparse = name.starts_with("BlockSparse") && name != "BlockSparseAdaptive";
    if (!sparse && name.find("Ring") == std::string::npos && name.find("Distributed") == std::string::npos) continue;
    NamedOptions options = kGroups;
    if (name.starts_with("BlockSparse"))
      options["sparse_config"] = name == "BlockSparseHierarchical"
                                     ? OptionValue::json(R"({"block_size": 4})")
                                     : OptionValue::json(R"({"block_size": 4, "sparsity_ratio": 0.5})");
    const bool multihead = name.find("Multihead") != std::string::npos || name == "RingDistributedDilatedAttention";
    all[name] = [=](const Shards& on, const NamedOptions& where) {
      if (multihead) return on.run(from_legacy_multihead(name, {{}, joined(joined(options, kWidth), where)}));
      return on.run(from_legacy_attention(name, {{}, joined(options, where)}));
    };
  }
  return all;
}

// The same weights of every module.
Tensor built(const Build& build, const Shards& on, const NamedOptions& where = {}) {
  torch::manual_seed(4);
  return build(on, where);
}

void check_names(const RankGroup& group) {
  const int64_t ranks = group->getSize();
  for (const auto& [name, build] : names()) {
    // Two classes have rings of one rank unless they are told otherwise.
    const bool told = name == "SimulatedRingDilatedAttention" || name == "TrueRingDilatedAttention";
    const NamedOptions where = told ? NamedOptions{{"ring_size", ranks}} : NamedOptions();
    const Tensor own = built(build, {group}, where);
    c10d::unregister_process_group("0");
    const Tensor whole = built(build, {});
    c10d::register_process_group("0", group);
    expect(whole.abs().max().item<double>() > 0.1, name + ": there is something");
    expect_near(own, shard(whole, group), 1e-12, name);
  }
}

void check_groups(const RankGroup& group) {
  const int64_t rank = group->getRank(), ranks = group->getSize();
  const Build build = names().at("ring"), job = names().at("distributed");
  const Tensor whole = built(build, {}, {{"group", "none"}});
  const Tensor part = shard(whole, group);
  expect_near(built(build, {group}, {{"group", "named"}}), part, 1e-12, "a group by its name");
  expect_near(built(job, {group}, {{"group", "named"}, {"world_size", ranks}, {"rank", rank}}), part, 1e-12, "a job");
  expect(built(build, {}, {{"ring_size", 1}}).equal(whole), "rings of one rank");
  expect(ring_of({"none", {}}) == RankGroup() && ring_of({}) == (ranks == 1 ? RankGroup() : group), "rings of all");
  expect_refused("group must be \"none\" or the name of a process group of this process, got 'nowhere'", [&] {
    built(build, {}, {{"group", "nowhere"}});
  });
  expect_refused(fmt::format("ring_size must divide the {} ranks of the group, got {}; leave it unset for one ring of "
                             "all ranks",
                             ranks, ranks + 1),
                 [&] {
                   built(build, {}, {{"ring_size", ranks + 1}});
                 });
  expect_refused("ring_size must be positive, got 0", [&] { built(build, {}, {{"ring_size", 0}}); });
  expect_refused(fmt::format("world_size must be that of the group, {}, got {}", ranks, ranks + 1), [&] {
    built(job, {}, {{"world_size", ranks + 1}});
  });
}

// Rings of two of four ranks, each with sequences of its own; a group of its own besides.
void check_rings(const RankGroup& group) {
  for (const std::string name : {"ring", "distributed, multihead", "RingDilatedAttentionV2"}) {
    const Build build = names().at(name);
    const RankGroup ring = ring_of({{}, 2});
    const int64_t number = group->getRank() / 2;
    expect(ring->getSize() == 2 && ring->getRank() == group->getRank() % 2, name + ": a ring of two");
    const Tensor own = built(build, {ring, 5 + number}, {{"ring_size", 2}});
    const Tensor whole = built(build, {{}, 5 + number}, {{"ring_size", 1}});
    expect_near(own, shard(whole, ring), 1e-12, name + ": rings");
    expect(ring_of({{}, 2}) == ring, "a ring is made once");
  }
}

int of_rank(int rank, int ranks, const std::string& file) {
  const RankGroup group = group_of(file, rank, ranks, "0"), named = group_of(file, rank, ranks, "named");
  c10d::register_process_group("0", group);
  c10d::register_process_group("named", named);
  if (ranks == 4) {
    check_rings(group);
  } else {
    check_names(group);
    check_groups(group);
  }
  c10d::unregister_all_process_groups();
  return failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace longstride::test

int main(int count, char** arguments) {
  return longstride::test::run_ranks(count, arguments, longstride::test::of_rank);
}
