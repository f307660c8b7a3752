// Attention over shards from C++, in as many processes as it is told, against one process.
//
// usage: ranks_test RANKS: starts itself as RANKS processes, ranks_test RANKS RANK FILE, and waits for all.
#include "op/autograd/ranks.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <functional>

#include "longstride/attention.h"
#include "longstride/parallel.h"
#include "longstride/parallel/work.h"
#include "test/op/parallel/processes.h"
#include "test/op/parallel/store_backend.h"

namespace longstride::test {
namespace {

using at::Tensor;

Tensor drawn(int64_t seed, at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions().dtype(at::kDouble))
      .to(dtype);
}

struct Case {
  std::string name;
  Pattern pattern;
  ShardedOptions options;
  int64_t len;
  at::ScalarType dtype = at::kDouble;
  int64_t kv_heads = 2;
};

Pattern groups(bool causal) { return Pattern::dilated({4, 16, 64}, {1, 2, 4}, {.causal = causal}); }

std::vector<Case> cases(int64_t ranks) {
  const int64_t len = 37;
  std::vector<int64_t> uneven = {0};  // the second shard is empty
  for (int64_t r = 1; r < ranks; ++r) uneven.push_back(r == 1 ? 11 : r == 2 ? 11 : 20);
  uneven.push_back(len);
  if (ranks == 2) uneven = {0, 29, len};
  std::vector<Case> all;
  for (const bool causal : {false, true}) {
    for (const char* layout : {"contiguous", "zigzag"}) {
      ShardedOptions options;
      options.sharding = {{0, len}, layout};
      all.push_back({fmt::format("{}, causal {}", layout, causal), groups(causal), options, len});
    }
  }
  ShardedOptions options;
  options.sharding.boundaries = uneven;
  options.cu_seqlens = std::vector<int64_t>{0, 13, len};
  all.push_back({"uneven, documents", groups(true), options, len});
  options = {};
  options.lengths = std::vector<int64_t>{12 * ranks, 5};
  options.scale = 0.3;
  all.push_back({"no boundaries, lengths, scale", groups(false).with_blocks({BlockPattern(1, SlidingWindow{9, 4, 1})}),
                 options, 12 * ranks});
  options = {};
  all.push_back({"local segments", Pattern::dilated({4}, {1}), options, 12 * ranks});
  all.push_back({"bfloat16", groups(true), options, 12 * ranks, at::kBFloat16});
  if (ranks == 2) {  // who has whole sequences of its share of the 2 KV heads
    options.alibi_slopes = at::tensor({0.5F, 0.0F, -0.1F, 3.0F});
    for (const char* exchange : {"auto", "heads(2)"}) {
      options.exchange = exchange;
      all.push_back({fmt::format("slopes, {}", exchange), groups(true), options, 24});
      all.push_back({fmt::format("slopes, bfloat16, {}", exchange), groups(true), options, 24, at::kBFloat16});
    }
    options = {};
  }
  const size_t direct = all.size();
  options.dropout_p = 0.3;  // of a share of as many KV heads as ranks
  for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16})
    all.push_back({fmt::format("dropout, {}", at::toString(dtype)), groups(true), options, 12 * ranks, dtype, ranks});
  options.sharding = {{0, len}, "zigzag"};
  options.exchange = fmt::format("heads({})", ranks);
  all.push_back({"dropout, " + options.exchange, groups(false), options, len, at::kDouble, 2 * ranks});
  options = {};
  options.gates = at::ones({5}, at::kDouble);  // of a list whose first row is of every head, the others of single ones
  const auto last = static_cast<int32_t>(ranks - 1);
  const Pattern listed = groups(true).with_blocks({BlockPattern(
      4, BlockList{{{-1, -1, 2, 0}, {0, 0, 4, 1}, {1, last, 3, 3}, {-1, last, 5, 2}, {-1, last, 5, 2}}})});
  for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16})
    all.push_back({fmt::format("gates, {}", at::toString(dtype)), listed, options, 12 * ranks, dtype, ranks});
  options.sharding = {{0, len}, "zigzag"};
  options.exchange = fmt::format("heads({})", ranks);
  all.push_back({"gates, " + options.exchange, listed, options, len, at::kDouble, 2 * ranks});
  for (const std::string exchange : {"direct", "ring", "heads(2)"}) {
    if (exchange == "heads(2)" && ranks != 2) continue;
    for (size_t n = 0; n < direct; ++n) {
      Case c = all[n];
      if (c.options.alibi_slopes) continue;
      c.name += ", " + exchange;
      c.options.exchange = exchange;
      all.push_back(std::move(c));
    }
  }
  return all;
}

void check_case(const Case& c, const RankGroup& group) {
  const auto make = [&](int64_t seed, int64_t heads) {
    return drawn(seed, {2, c.len, heads, 8}, c.dtype).requires_grad_();
  };
  const int64_t heads = 2 * c.kv_heads;
  const Tensor q = make(1, heads), k = make(2, c.kv_heads), v = make(3, c.kv_heads);
  const Tensor d_out = drawn(4, {2, c.len, heads, 8}, c.dtype), d_lse = drawn(5, {2, heads, c.len}, at::kDouble);
  AttentionOptions alone;
  static_cast<CallOptions&>(alone) = c.options;
  alone.scale = c.options.scale;
  alone.alibi_slopes = c.options.alibi_slopes;
  ShardedOptions options = c.options;
  alone.dropout_p = options.dropout_p;
  if (options.dropout_p > 0) {  // the first rank's seed counts
    alone.dropout_seed = at::full({}, 5, at::kLong);
    options.dropout_seed = at::full({}, 5 + 7 * group->getRank(), at::kLong);
  }
  if (options.gates) {
    for (auto* of : {&alone.gates, &options.gates})
      *of = at::ones(c.options.gates->sizes(), c.dtype == at::kDouble ? at::kDouble : at::kFloat).requires_grad_();
  }
  const AttentionResult whole = attention(q, k, v, c.pattern, alone);
  const auto loss = [](const AttentionResult& r, const Tensor& d_out, const Tensor& d_lse) {
    const Tensor seen = r.lse.isfinite();
    return (r.out.to(at::kDouble) * d_out).sum() +
           (r.lse.to(at::kDouble).masked_fill(seen.logical_not(), 0) * d_lse).sum();
  };
  loss(whole, d_out, d_lse).backward();

  Sharding at = c.options.sharding;
  if (at.boundaries.empty()) at.boundaries = {0, c.len};
  const auto part = [&](const Tensor& t, int64_t dim = 1) { return shard(t.detach(), group, at, dim).clone(); };
  const Tensor sq = part(q).requires_grad_(), sk = part(k).requires_grad_(), sv = part(v).requires_grad_();
  const auto run = [&] { return cp_attention(sq, sk, sv, c.pattern, group, options); };
  const AttentionResult own = run();
  loss(own, part(d_out), part(d_lse, 2)).backward();
  const double tolerance = c.dtype == at::kDouble ? 1e-12 : 2e-2;
  expect(own.out.scalar_type() == c.dtype, c.name + ": dtype");
  expect_near(own.out, part(whole.out), tolerance, c.name + ": out");
  const Tensor lse = part(whole.lse, 2);
  expect(own.lse.isfinite().equal(lse.isfinite()), c.name + ": rows that see nothing");
  expect_near(own.lse.nan_to_num(0, 0, 0), lse.nan_to_num(0, 0, 0), tolerance, c.name + ": lse");
  expect_near(sq.grad(), part(q.grad()), tolerance, c.name + ": dq");
  expect_near(sk.grad(), part(k.grad()), tolerance, c.name + ": dk");
  expect_near(sv.grad(), part(v.grad()), tolerance, c.name + ": dv");
  if (options.gates) {
    std::vector<Tensor> sum = {options.gates->grad().clone()};
    group->allreduce(sum)->wait();
    expect_near(sum[0], alone.gates->grad(), tolerance, c.name + ": d_gates");
    const bool has_first = group->getRank() == 0;
    expect((options.gates->grad()[1].item<double>() != 0) == has_first, c.name + ": d_gates of its heads");
  }
  expect(run().out.equal(own.out), c.name + ": repeats");
  if (options.dropout_p == 0) return;
  options.dropout_seed = at::full({}, 6, at::kLong);
  expect(run().out.equal(own.out) == (sq.numel() == 0), c.name + ": another seed drops others");
}

void check_shards(const RankGroup& group) {
  const int64_t len = 29, ranks = group->getSize();
  const Tensor x = drawn(7, {2, len, 3}, at::kDouble);
  for (const char* layout : {"contiguous", "zigzag"}) {
    const Sharding cut{{0, len}, layout};
    const Tensor own = shard(x, group, cut).clone().requires_grad_();
    expect(x.index_select(1, shard_positions(group, cut)).equal(own), "positions");
    const Tensor whole = unshard(own, group, cut);
    expect(whole.equal(x), "unshard");
    (whole * x * static_cast<double>(group->getRank() + 1)).sum().backward();
    expect_near(own.grad(), own.detach() * static_cast<double>(ranks * (ranks + 1) / 2), 1e-12, "gradient of unshard");
  }
}

void check_refusals(const RankGroup& group) {
  const int64_t rank = group->getRank(), ranks = group->getSize();
  const Tensor x = drawn(8, {1, 8, 2, 8}, at::kFloat);
  const Pattern pattern = groups(true);
  const auto call = [&](const Tensor& q, const ShardedOptions& options) {
    return cp_attention(q, q, q, pattern, group, options);
  };
  ShardedOptions scaled;
  if (rank == 1) scaled.scale = 0.5;
  expect_refused("cp_attention: scale must be the same on every rank, got null on rank", [&] { call(x, scaled); });
  const std::string own = "the 8 rows of the shard of rank 1";
  ShardedOptions cut;
  cut.sharding.boundaries = {0, 8 * ranks};
  expect_refused(own, [&] { call(rank == 1 ? x.narrow(1, 0, 7) : x, cut); });
  cut.sharding.layout = "striped";
  expect_refused("layout must be \"contiguous\" or \"zigzag\"", [&] { call(x, cut); });
  expect_refused("unshard: other sizes of x must be the same on every rank",
                 [&] { unshard(rank == 1 ? x.narrow(3, 0, 4) : x, group); });
  const auto refused = [&](const char* text, auto set) {
    ShardedOptions options;
    set(options);
    expect_refused(text, [&] { call(x, options); });
  };
  refused("gates must belong to the rows of blocks, got no blocks", [&](ShardedOptions& o) { o.gates = x; });
  refused("query_start must be unset in cp_attention, got 0", [](ShardedOptions& o) { o.query_start = 0; });
  ShardedOptions by;
  by.exchange = rank == 1 ? "ring" : "direct";
  expect_refused("cp_attention: exchange must be the same on every rank, got direct on rank", [&] { call(x, by); });
  by.exchange = "heads(5)";
  expect_refused("here, got heads(5); 5 does not divide kv_heads (2)", [&] { call(x, by); });
  by.exchange = "none";
  expect_refused("exchange must not be none where queries see keys of other ranks, ", [&] { call(x, by); });
  by.exchange = "rign";
  expect_refused("unknown exchange 'rign'", [&] { call(x, by); });
  by.exchange = "auto";
  by.alibi_slopes = at::tensor({0.5F, rank == 1 ? 0.25F : 0.5F});
  if (ranks == 2) {
    expect_refused("cp_attention: alibi_slopes must be the same on every rank, got [1056964608,1056964608] on rank 0",
                   [&] { call(x, by); });
  } else {
    expect_refused(
        fmt::format("alibi_slopes must go by exchange heads({0}), for which {0} must divide kv_heads, got 2; take "
                    "as many ranks as divide kv_heads, or leave alibi_slopes out",
                    ranks),
        [&] { call(x, by); });
  }
  by.exchange = "ring";
  expect_refused(
      fmt::format(
          "exchange must be auto or heads({}) with alibi_slopes, for which ranks have whole sequences, got ring",
          ranks),
      [&] { call(x, by); });
  by.exchange = "auto";
  by.alibi_slopes->requires_grad_();
  expect_refused("alibi_slopes must not require a gradient", [&] { call(x, by); });
  by.alibi_slopes.reset();
  by.dropout_p = 0.5;
  expect_refused("dropout_seed must be given when dropout_p > 0, got none", [&] { call(x, by); });
  by.dropout_seed = at::full({}, 5, at::kLong);
  if (ranks == 2) {
    if (rank == 1) by.dropout_p = 0.25;
    expect_refused("cp_attention: dropout_p must be the same on every rank, got 0.5 on rank 0", [&] { call(x, by); });
  } else {
    expect_refused(fmt::format("dropout_p must go by exchange heads({0}), for which {0} must divide kv_heads, got 2; "
                               "take as many ranks as divide kv_heads, or leave dropout_p out",
                               ranks),
                   [&] { call(x, by); });
  }
  by.dropout_p = 0;
  by.dropout_seed.reset();
  const Pattern listed = Pattern::block_sparse({BlockPattern(4, BlockList{{{-1, -1, 1, 0}}})});
  const auto gated = [&](std::optional<Tensor> gates) {
    by.gates = std::move(gates);
    cp_attention(x, x, x, listed, group, by);
  };
  if (ranks == 2) {
    expect_refused("cp_attention: gates must be the same on every rank, got true on rank 0 and false on rank 1",
                   [&] { gated(rank == 0 ? std::optional(at::ones({1})) : std::nullopt); });
    expect_refused("gates must all be 1", [&] { gated(at::full({1}, rank == 0 ? 1.0 : 0.5)); });
  } else {
    expect_refused(
        fmt::format("gates must go by exchange heads({0}), for which {0} must divide kv_heads, got 2; take as "
                    "many ranks as divide kv_heads, or leave gates out",
                    ranks),
        [&] { gated(at::ones({1})); });
  }
  by.gates.reset();
  by.exchange = "heads(2)";
  expect_refused("exchange must be auto, none, direct or ring on one rank, got heads(2)",
                 [&] { cp_attention(x, x, x, pattern, {}, by); });
  expect(call(x, {}).out.size(1) == 8, "works after refusals");
  expect(cp_attention(x, x, x, pattern, {}).out.equal(attention(x, x, x, pattern).out), "one rank is attention");
  expect_refused("boundaries must be given", [&] { shard_positions(group, {}); });
  expect_refused("boundaries must", [&] { shard_positions(group, {{0, 3, 2, 4, 5}}); });
  expect_refused("layout must be \"contiguous\" or \"zigzag\"", [&] { shard(x, group, {{}, "striped"}); });
}

// The last that a process does: its backends are broken then.
void check_failures(const RankGroup& group) {
  const Tensor x = drawn(8, {1, 8, 2, 8}, at::kFloat).requires_grad_();
  const auto failure = [](const std::function<void()>& body) -> std::string {
    try {
      body();
    } catch (const CommError& error) {
      return error.what();
    }
    return "none";
  };
  const Tensor out = cp_attention(x, x, x, groups(true), group).out;
  break_backends();
  const std::string place = fmt::format("on rank {} of {} of group 'ranks'", group->getRank(), group->getSize());
  const std::string first = failure([&] { out.sum().backward(); });
  expect(first.starts_with(fmt::format("cp_attention backward failed {}: the backend says: no cable", place)), first);
  const std::string again = failure([&] { unshard(x, group); });
  expect(again == fmt::format("unshard {}: the group is broken since cp_attention backward failed", place), again);
}

// Work of a GPU as a group has it: never over, or over with an error.
class Unfinished : public c10d::Work {
 public:
  bool isCompleted() override { return false; }
};
class Failed : public c10d::Work {
 public:
  bool isCompleted() override { return true; }
  std::exception_ptr exception() const override { return std::make_exception_ptr(std::runtime_error("no cable")); }
};
class Finished : public c10d::Work {
 public:
  bool isCompleted() override { return ++asked == 3; }
  bool wait(std::chrono::milliseconds) override { return waited = true; }
  int asked = 0;
  bool waited = false;
};

class Gpus : public c10d::Backend {
 public:
  Gpus() : Backend(0, 2) {}
  const std::string getBackendName() const override { return "gpus"; }
  c10::intrusive_ptr<Options> getBackendOptions() override {
    return c10::make_intrusive<Options>("gpus", std::chrono::milliseconds(40));
  }
  void abort() override { ++aborted; }
  int aborted = 0;
};

std::string what_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// There need not be a GPU: what is waited for is the group's own.
void check_devices() {
  const auto gpus = c10::make_intrusive<Gpus>();
  const auto group = c10::make_intrusive<c10d::ProcessGroup>(0, 2);
  group->setBackend(at::kCUDA, c10d::ProcessGroup::BackendType::CUSTOM, gpus);
  expect(op::autograd::host_of(group).is_cuda(), "numbers travel where the group moves any");
  const std::string refused = what_of([&] { op::autograd::check_device("q", at::zeros({1}), group); });
  expect(
      refused ==
          "q must be on a device whose tensors the group moves, which has cuda by gpus, got cpu; move the tensors, or "
          "take a group of another backend",
      refused);
  expect_refused("q must be on the CPU or a CUDA device where the sequence lies in shards, got meta",
                 [&] { op::autograd::check_device("q", at::zeros({1}, at::kMeta), group); });
  Finished finished;
  await_work(finished, group, at::kCUDA);
  expect(finished.asked == 3 && finished.waited && gpus->aborted == 0, "asks until it is over, then waits");
  Failed failed;
  const std::string error = what_of([&] { await_work(failed, group, at::kCUDA); });
  expect(error == "no cable" && gpus->aborted == 1, error);
  Unfinished unfinished;
  const std::string late = what_of([&] { await_work(unfinished, group, at::kCUDA); });
  expect(late == "not over within 0 s" && gpus->aborted == 2, late);
}

int of_rank(int rank, int ranks, const std::string& file) {
  const RankGroup group = group_of(file, rank, ranks, "ranks");
  for (const Case& c : cases(ranks)) check_case(c, group);
  check_shards(group);
  check_refusals(group);
  check_devices();
  check_failures(group);
  return failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace longstride::test

int main(int count, char** arguments) {
  return longstride::test::run_ranks(count, arguments, longstride::test::of_rank);
}
