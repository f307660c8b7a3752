// What must hold between results, whatever the numbers: plain attention, decoding, permutations, repeats, threads,
// memory that nobody may read, memory of which little exists.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <limits>
#include <thread>

#include "longstride/attention/dilated.h"
#include "test/engine/compare.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kNothing = -std::numeric_limits<double>::infinity();

Pattern longnet(bool causal = false, HeadOffset rule = HeadOffset::kModulo) {
  DilatedOptions options;
  options.causal = causal;
  options.head_offset = rule;
  return Pattern::dilated({16, 32, 64}, {1, 2, 4}, options);
}

AttentionOptions dropping(double p, int64_t seed) {
  AttentionOptions options;
  options.dropout_p = p;
  options.dropout_seed = torch::tensor({seed}, at::kLong);
  return options;
}

TEST(Semantics, OneWideGroupIsPlainAttention) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const bool causal : {false, true}) {
      DilatedOptions options;
      options.causal = causal;
      const Tensor q = normal(1, {2, 150, 4, 16}, dtype), k = normal(2, {2, 150, 4, 16}, dtype),
                   v = normal(3, {2, 150, 4, 16}, dtype);
      const AttentionResult r = attention(q, k, v, Pattern::dilated({1000}, {1}, options));
      EXPECT_EQ(last_engine(), dtype == at::kDouble ? "reference" : "cpu");
      const auto sdpa = [&](at::ScalarType d) {
        return at::scaled_dot_product_attention(q.to(d).transpose(1, 2), k.to(d).transpose(1, 2),
                                                v.to(d).transpose(1, 2), {}, 0.0, causal)
            .transpose(1, 2);
      };
      const Tensor truth = sdpa(at::kDouble);
      // In float64 torch is truth and peer at once; 4e-15 is what sums of 150 terms may differ by.
      const double peer =
          dtype == at::kDouble ? 4e-15 : (sdpa(dtype).to(at::kDouble) - truth).abs().max().item<double>();
      const double unit = roundoff(dtype == at::kDouble     ? core::DType::kFloat64
                                   : dtype == at::kFloat    ? core::DType::kFloat32
                                   : dtype == at::kBFloat16 ? core::DType::kBFloat16
                                                            : core::DType::kFloat16);
      EXPECT_EQ(difference("out", values(r.out), values(truth), unit, peer), "") << dtype << " causal " << causal;
    }
  }
}

TEST(Semantics, DilatedAttentionIsAttentionOfItsPattern) {
  const Tensor q = normal(1, {2, 100, 4, 16}), k = normal(2, {2, 100, 2, 16}), v = normal(3, {2, 100, 2, 16});
  AttentionOptions options;
  options.scale = 0.3;
  const AttentionResult ours = dilated_attention(q, k, v, {16, 32, 64}, {1, 2, 4}, {.causal = true}, options);
  const AttentionResult same = attention(q, k, v, longnet(true), options);
  EXPECT_TRUE(same_bits(ours.out, same.out));
  EXPECT_TRUE(same_bits(ours.lse, same.lse));
}

TEST(Semantics, DecodingEqualsRowsOfTheWhole) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    for (const bool causal : {false, true}) {
      const Tensor q = normal(1, {2, 131, 4, 16}, dtype), k = normal(2, {2, 131, 2, 16}, dtype),
                   v = normal(3, {2, 131, 2, 16}, dtype);
      const AttentionResult whole = attention(q, k, v, longnet(causal));
      for (const auto& [start, count] :
           std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {130, 1}, {64, 9}, {17, 114}, {131, 0}}) {
        AttentionOptions options;
        options.query_start = start;
        const AttentionResult part = attention(q.narrow(1, start, count), k, v, longnet(causal), options);
        const double tolerance = dtype == at::kDouble ? 1e-14 : 1e-5;
        EXPECT_TRUE(at::allclose(part.out, whole.out.narrow(1, start, count), 0, tolerance)) << start;
        EXPECT_TRUE(at::allclose(part.lse, whole.lse.narrow(2, start, count), 0, tolerance)) << start;
      }
      if (!causal) continue;
      // Keys that come later change nothing: a growing cache gives what the whole gives.
      AttentionOptions options;
      options.query_start = 90;
      const AttentionResult step =
          attention(q.narrow(1, 90, 1), k.narrow(1, 0, 91), v.narrow(1, 0, 91), longnet(true), options);
      EXPECT_TRUE(at::allclose(step.out, whole.out.narrow(1, 90, 1), 0, dtype == at::kDouble ? 1e-14 : 1e-5));
    }
  }
}

TEST(Semantics, CausalPatternsDoNotLeak) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Tensor q = normal(1, {1, 200, 4, 16}, dtype), k = normal(2, {1, 200, 4, 16}, dtype),
                 v = normal(3, {1, 200, 4, 16}, dtype);
    const AttentionResult before = attention(q, k, v, longnet(true));
    for (const int64_t p : {0, 1, 63, 64, 127, 199}) {
      const Tensor k2 = k.clone(), v2 = v.clone();
      k2.select(1, p).add_(3);
      v2.select(1, p).add_(3);
      const AttentionResult after = attention(q, k2, v2, longnet(true));
      EXPECT_TRUE(same_bits(after.out.narrow(1, 0, p), before.out.narrow(1, 0, p))) << p;
      EXPECT_TRUE(same_bits(after.lse.narrow(2, 0, p), before.lse.narrow(2, 0, p))) << p;
      // Every position lies in a segment of the rate-1 group, so it sees itself.
      EXPECT_FALSE(same_bits(after.out.select(1, p), before.out.select(1, p))) << p;
    }
  }
}

TEST(Semantics, BatchPermutationIsBitwise) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kHalf}) {
    const Tensor order = torch::tensor({2, 0, 1}, at::kLong);
    const auto run = [&](const Tensor& rows) {
      Tensor q = normal(1, {3, 90, 4, 8}, dtype).index_select(0, rows).requires_grad_();
      Tensor k = normal(2, {3, 90, 2, 8}, dtype).index_select(0, rows).requires_grad_();
      Tensor v = normal(3, {3, 90, 2, 8}, dtype).index_select(0, rows).requires_grad_();
      const AttentionResult r = attention(q, k, v, longnet());
      const Tensor d_out = normal(4, {3, 90, 4, 8}, dtype).index_select(0, rows);
      auto d = torch::autograd::grad({r.out}, {q, k, v}, {d_out});
      return std::vector<Tensor>{r.out, r.lse, d[0], d[1], d[2]};
    };
    const auto plain = run(torch::arange(3)), permuted = run(order);
    for (size_t i = 0; i < plain.size(); ++i)
      EXPECT_TRUE(same_bits(plain[i].index_select(0, order), permuted[i])) << dtype << " tensor " << i;
  }
}

TEST(Semantics, KvHeadPermutationWithItsOffsetsIsBitwise) {
  const std::vector<int64_t> offsets = {0, 0, 0, 1, 0, 1, 3, 1, 2};  // groups x kv_heads
  const std::vector<int64_t> order = {2, 0, 1};
  std::vector<int64_t> moved;
  for (int64_t g = 0; g < 3; ++g)
    for (const int64_t j : order) moved.push_back(offsets[g * 3 + j]);
  const Tensor kv = torch::tensor(order, at::kLong), heads = torch::tensor({4, 5, 0, 1, 2, 3}, at::kLong);
  const Tensor q = normal(1, {1, 100, 6, 8}), k = normal(2, {1, 100, 3, 8}), v = normal(3, {1, 100, 3, 8});
  DilatedOptions plain, permuted;
  plain.offsets = offsets;
  permuted.offsets = moved;
  const AttentionResult a = attention(q, k, v, Pattern::dilated({16, 32, 64}, {1, 2, 4}, plain));
  const AttentionResult b = attention(q.index_select(2, heads), k.index_select(2, kv), v.index_select(2, kv),
                                      Pattern::dilated({16, 32, 64}, {1, 2, 4}, permuted));
  EXPECT_TRUE(same_bits(a.out.index_select(2, heads), b.out));
  EXPECT_TRUE(same_bits(a.lse.index_select(1, heads), b.lse));
}

TEST(Semantics, GroupOrderIsIrrelevant) {
  const Tensor q = normal(1, {1, 100, 4, 8}, at::kDouble), k = normal(2, {1, 100, 4, 8}, at::kDouble),
               v = normal(3, {1, 100, 4, 8}, at::kDouble);
  const AttentionResult a = attention(q, k, v, Pattern::dilated({16, 32, 64}, {1, 2, 4}));
  const AttentionResult b = attention(q, k, v, Pattern::dilated({64, 16, 32}, {4, 1, 2}));
  EXPECT_TRUE(at::allclose(a.out, b.out, 0, 1e-14));
  EXPECT_TRUE(at::allclose(a.lse, b.lse, 0, 1e-14));
}

TEST(Semantics, RepeatsAreBitwiseEqualAlsoOnTwoThreadsAtOnce) {
  const auto run = [](uint64_t seed) {
    Tensor q = normal(seed, {1, 300, 4, 16}).requires_grad_(), k = normal(seed + 1, {1, 300, 4, 16}).requires_grad_(),
           v = normal(seed + 2, {1, 300, 4, 16}).requires_grad_();
    const AttentionResult r = attention(q, k, v, longnet(), dropping(0.2, 5));
    auto d = torch::autograd::grad({r.out.sum() + r.lse.sum()}, {q, k, v});
    return std::vector<Tensor>{r.out, r.lse, d[0], d[1], d[2]};
  };
  const auto first = run(1), other = run(50);
  const auto again = [&](uint64_t seed, const std::vector<Tensor>& expected, int* wrong) {
    for (int n = 0; n < 5; ++n) {
      const auto got = run(seed);
      for (size_t i = 0; i < got.size(); ++i) *wrong += !same_bits(got[i], expected[i]);
      *wrong += last_engine() != "cpu";
    }
  };
  int wrong = 0, wrong_there = 0;
  std::thread beside([&] { again(50, other, &wrong_there); });
  again(1, first, &wrong);
  beside.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(wrong_there, 0);
}

TEST(Semantics, StridesDoNotMatter) {
  const Tensor q = normal(1, {2, 70, 4, 8}), k = normal(2, {2, 70, 2, 8}), v = normal(3, {2, 70, 2, 8});
  const AttentionResult plain = attention(q, k, v, longnet());
  const auto heads_first = [](const Tensor& x) { return x.transpose(1, 2).contiguous().transpose(1, 2); };
  const AttentionResult permuted = attention(heads_first(q), heads_first(k), heads_first(v), longnet());
  EXPECT_TRUE(same_bits(plain.out, permuted.out));
  EXPECT_TRUE(permuted.out.is_contiguous());
  // One fused projection: q, k, v are slices of one row.
  const Tensor fused = at::cat({q, k, v}, 2);
  const AttentionResult sliced =
      attention(fused.narrow(2, 0, 4), fused.narrow(2, 4, 2), fused.narrow(2, 6, 2), longnet());
  EXPECT_TRUE(same_bits(plain.out, sliced.out));
  // One KV head spread over all by a stride of 0 is multi-query attention.
  const Tensor one_k = k.narrow(2, 0, 1), one_v = v.narrow(2, 0, 1);
  DilatedOptions same_offsets;
  same_offsets.head_offset = HeadOffset::kGroup;
  const Pattern pattern = Pattern::dilated({16, 64}, {1, 4}, same_offsets);
  EXPECT_TRUE(at::allclose(attention(q, one_k, one_v, pattern).out,
                           attention(q, one_k.expand({2, 70, 4, 8}), one_v.expand({2, 70, 4, 8}), pattern).out, 0,
                           1e-6));
}

TEST(Semantics, PoisonStaysWhereItIsRead) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Tensor q = normal(1, {2, 60, 2, 8}, dtype), k = normal(2, {2, 60, 2, 8}, dtype),
                 v = normal(3, {2, 60, 2, 8}, dtype);
    AttentionOptions options;
    options.lengths = {{40, 60}};
    const AttentionResult clean = attention(q, k, v, longnet(), options);
    const Tensor k2 = k.clone(), v2 = v.clone();
    k2[0].narrow(0, 40, 20).fill_(kNan);
    v2[0].narrow(0, 40, 20).fill_(kNan);
    const AttentionResult padded = attention(q, k2, v2, longnet(), options);
    EXPECT_TRUE(same_bits(clean.out, padded.out)) << dtype;
    EXPECT_TRUE(same_bits(clean.lse, padded.lse)) << dtype;
    EXPECT_TRUE(at::equal(padded.out[0].narrow(0, 40, 20), at::zeros_like(padded.out[0].narrow(0, 40, 20))));
    EXPECT_TRUE(padded.lse[0].narrow(1, 40, 20).isneginf().all().item<bool>());
    // A key that is not finite reaches every row that attends to it, and no other.
    const Pattern segments = Pattern::dilated({20}, {1});
    k2.copy_(k);
    k2[1].select(0, 25).fill_(kNan);
    const Tensor out = attention(q, k2, v, segments).out;
    EXPECT_TRUE(out[1].narrow(0, 20, 20).isnan().all().item<bool>()) << dtype;
    EXPECT_EQ(out.isnan().sum().item<int64_t>(), 20 * 2 * 8) << dtype;
  }
}

TEST(Semantics, ScaleZeroIsTheMeanOfTheKeysSeen) {
  const Tensor q = normal(1, {1, 30, 2, 8}), k = normal(2, {1, 30, 2, 8}), v = normal(3, {1, 30, 2, 8});
  AttentionOptions options;
  options.scale = 0.0;
  const AttentionResult r = attention(q, k, v, Pattern::dilated({10}, {1}), options);
  EXPECT_TRUE(at::allclose(r.lse, torch::full_like(r.lse, std::log(10.0)), 0, 1e-6));
  EXPECT_TRUE(at::allclose(r.out.narrow(1, 0, 10), v.narrow(1, 0, 10).mean(1, true).expand({1, 10, 2, 8}), 0, 1e-6));
}

TEST(Semantics, NothingToDo) {
  for (const auto& [batch, len] : std::vector<std::pair<int64_t, int64_t>>{{0, 5}, {2, 0}, {0, 0}}) {
    Tensor q = normal(1, {batch, len, 4, 8}).requires_grad_(), k = normal(2, {batch, len, 2, 8}).requires_grad_(),
           v = normal(3, {batch, len, 2, 8}).requires_grad_();
    const AttentionResult r = attention(q, k, v, longnet());
    EXPECT_EQ(r.out.sizes(), q.sizes());
    EXPECT_EQ(r.lse.sizes(), at::IntArrayRef({batch, 4, len}));
    r.out.sum().backward();
    EXPECT_EQ(k.grad().sizes(), k.sizes());
  }
  // No queries: the keys get a gradient of zeros.
  Tensor q = normal(1, {2, 0, 4, 8}).requires_grad_(), k = normal(2, {2, 9, 2, 8}).requires_grad_(),
         v = normal(3, {2, 9, 2, 8}).requires_grad_();
  AttentionOptions options;
  options.query_start = 9;
  attention(q, k, v, longnet(), options).out.sum().backward();
  EXPECT_TRUE(at::equal(k.grad(), torch::zeros({2, 9, 2, 8})));
  EXPECT_TRUE(at::equal(v.grad(), torch::zeros({2, 9, 2, 8})));
}

TEST(Semantics, DropoutKeepsTheMeanAndTheSeed) {
  const Tensor q = normal(1, {1, 40, 2, 8}), k = normal(2, {1, 40, 2, 8}), v = normal(3, {1, 40, 2, 8});
  const AttentionResult plain = attention(q, k, v, longnet());
  Tensor sum = torch::zeros_like(plain.out);
  constexpr int kDraws = 2000;
  for (int64_t seed = 0; seed < kDraws; ++seed) {
    const AttentionResult r = attention(q, k, v, longnet(), dropping(0.3, seed));
    sum += r.out;
    EXPECT_TRUE(same_bits(r.lse, plain.lse)) << seed;  // lse is undropped
  }
  // The mean of 2,000 draws has a deviation of about sqrt(0.3 / 0.7 / 2000) |v| ~ 0.015.
  EXPECT_LT((sum / kDraws - plain.out).abs().max().item<double>(), 0.1);
  EXPECT_LT((sum / kDraws - plain.out).abs().mean().item<double>(), 0.015);
  torch::manual_seed(3);
  const Tensor a = draw_dropout_seed(at::kCPU), b = draw_dropout_seed(at::kCPU);
  torch::manual_seed(3);
  EXPECT_TRUE(at::equal(draw_dropout_seed(at::kCPU), a));
  EXPECT_FALSE(at::equal(a, b));
  EXPECT_EQ(a.scalar_type(), at::kLong);
}

// Views over memory of which only the touched rows exist: offsets beyond 2^31 elements and 2^32 bytes.
TEST(Semantics, StridesBeyondTwoToThe31) {
  constexpr int64_t kLen = 12, kHeads = 2, kDim = 8, kRowStride = int64_t{1} << 29;  // elements
  constexpr int64_t kHeadStride = int64_t{1} << 27;
  const size_t bytes = static_cast<size_t>(kLen * kRowStride) * sizeof(float);  // 24 GiB of addresses
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    std::vector<void*> maps;
    const auto sparse = [&](uint64_t seed) {
      void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (map == MAP_FAILED) throw std::runtime_error("no address space for the sparse view");
      maps.push_back(map);
      const Tensor view = torch::from_blob(map, {1, kLen, kHeads, kDim},
                                           {kLen * kRowStride, kRowStride, kHeadStride, 1}, torch::dtype(dtype));
      view.copy_(normal(seed, view.sizes(), dtype));
      return view;
    };
    Tensor q = sparse(1), k = sparse(2), v = sparse(3);
    ASSERT_GT(q.stride(1) * (kLen - 1), int64_t{1} << 32);
    const auto run = [&](Tensor a, Tensor b, Tensor c) {
      a.requires_grad_();
      b.requires_grad_();
      c.requires_grad_();
      const AttentionResult r = attention(a, b, c, Pattern::dilated({4, 8}, {1, 2}));
      auto d = torch::autograd::grad({r.out}, {a, b, c}, {normal(4, {1, kLen, kHeads, kDim}, dtype)});
      return std::vector<Tensor>{r.out, r.lse, d[0], d[1], d[2]};
    };
    const auto far = run(q, k, v);
    const auto near = run(q.detach().contiguous(), k.detach().contiguous(), v.detach().contiguous());
    for (size_t i = 0; i < far.size(); ++i) EXPECT_TRUE(same_bits(far[i], near[i])) << dtype << " tensor " << i;
    q = k = v = Tensor();
    for (void* map : maps) munmap(map, bytes);
  }
}

}  // namespace
}  // namespace longstride::test
