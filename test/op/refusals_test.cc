// Bad input: one test a message, its wording, and that everything is as it was.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "longstride/pattern/json.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

class Refusals : public testing::Test {
 protected:
  void SetUp() override { seen_ = plan_cache_stats(); }
  // A refused call changes no tensor and compiles no plan, and the next good call is what it was.
  void TearDown() override {
    EXPECT_EQ(q._version(), 0);
    EXPECT_EQ(k._version(), 0);
    EXPECT_EQ(v._version(), 0);
    EXPECT_EQ(plan_cache_stats().misses, seen_.misses);
    EXPECT_EQ(plan_cache_stats().bytes, seen_.bytes);
    EXPECT_TRUE(same_bits(attention(q, k, v, pattern).out, expected_));
  }

  std::string call(const Tensor& a, const Tensor& b, const Tensor& c) {
    return refusal([&] { attention(a, b, c, pattern, options); });
  }
  std::string call() { return call(q, k, v); }

  const Tensor q = normal(1, {2, 10, 4, 8}), k = normal(2, {2, 10, 2, 8}), v = normal(3, {2, 10, 2, 8});
  const Pattern pattern = Pattern::dilated({4, 8}, {1, 2});
  AttentionOptions options;

 private:
  const Tensor expected_ = attention(q, k, v, pattern).out;
  PlanCacheStats seen_;
};

TEST_F(Refusals, Dimensions) {
  EXPECT_THAT(call(q[0], k, v),
              HasSubstr("q must have the 4 dimensions [batch, len, heads, dim], got shape [10, 4, 8]"));
  EXPECT_THAT(call(q, k[0], v),
              HasSubstr("k must have the 4 dimensions [batch, len, heads, dim], got shape [10, 2, 8]"));
  EXPECT_THAT(call(q, k, v.unsqueeze(0)), HasSubstr("v must have the 4 dimensions"));
}

TEST_F(Refusals, UndefinedTensor) { EXPECT_THAT(call(q, Tensor(), v), HasSubstr("k must be a tensor")); }

TEST_F(Refusals, KeysAndValuesDiffer) {
  EXPECT_THAT(call(q, k, v.narrow(1, 0, 9)),
              HasSubstr("v must have the shape of k, [2, 10, 2, 8], got shape [2, 9, 2, 8]"));
  EXPECT_THAT(call(q, k, v.narrow(2, 0, 1)),
              HasSubstr("v must have the shape of k, [2, 10, 2, 8], got shape [2, 10, 1, 8]"));
}

TEST_F(Refusals, BatchOrDimDiffer) {
  EXPECT_THAT(call(q[0].unsqueeze(0), k, v),
              HasSubstr("k must have the batch of q, [1, 10, 4, 8], got shape [2, 10, 2, 8]"));
  EXPECT_THAT(call(q.narrow(3, 0, 4), k, v),
              HasSubstr("k must have the dim of q, [2, 10, 4, 4], got shape [2, 10, 2, 8]"));
}

TEST_F(Refusals, EmptyDimOrHeads) {
  EXPECT_THAT(call(q.narrow(3, 0, 0), k.narrow(3, 0, 0), v.narrow(3, 0, 0)),
              HasSubstr("q must have a dim of at least 1"));
  EXPECT_THAT(call(q.narrow(2, 0, 0), k, v), HasSubstr("q must have at least one head"));
  EXPECT_THAT(call(q, k.narrow(2, 0, 0), v.narrow(2, 0, 0)), HasSubstr("k must have at least one head"));
}

TEST_F(Refusals, HeadsNoMultipleOfKvHeads) {
  EXPECT_THAT(call(q.narrow(2, 0, 3), k, v),
              HasSubstr("heads of q must be a multiple of the heads of k and v, 2, got 3"));
}

TEST_F(Refusals, LengthsDifferWithoutQueryStart) {
  EXPECT_THAT(
      call(q.narrow(1, 0, 7), k, v),
      HasSubstr("len of q must equal the len of k, 10, when query_start is not given, got 7; give query_start"));
}

TEST_F(Refusals, QueryStartOutOfRange) {
  for (const int64_t start : {-1, 4}) {
    options.query_start = start;
    EXPECT_THAT(
        call(q.narrow(1, 0, 7), k, v),
        HasSubstr("query_start must be in [0, len_k - len_q] with len_q 7 and len_k 10, got " + std::to_string(start)));
  }
  options.query_start = 0;
  EXPECT_THAT(call(q, k.narrow(1, 0, 7), v.narrow(1, 0, 7)), HasSubstr("query_start must be in"));
}

TEST_F(Refusals, DTypes) {
  const auto as = [](const Tensor& t, at::ScalarType dtype) { return t.to(dtype); };
  EXPECT_THAT(call(as(q, at::kLong), as(k, at::kLong), as(v, at::kLong)),
              HasSubstr("q must be float32, bfloat16, float16 or float64, got Long"));
  EXPECT_THAT(call(as(q, at::kComplexFloat), as(k, at::kComplexFloat), as(v, at::kComplexFloat)),
              HasSubstr("q must be float32, bfloat16, float16 or float64, got ComplexFloat"));
  EXPECT_THAT(call(q, as(k, at::kHalf), v), HasSubstr("k must have the dtype of q, Float, got Half"));
  EXPECT_THAT(call(q, k, as(v, at::kDouble)), HasSubstr("v must have the dtype of q, Float, got Double"));
}

TEST_F(Refusals, Devices) {
  EXPECT_THAT(call(q, k.to(at::kMeta), v), HasSubstr("k must be on the device of q, cpu, got meta"));
  EXPECT_THAT(call(q, k, v.to(at::kMeta)), HasSubstr("v must be on the device of q, cpu, got meta"));
}

TEST_F(Refusals, DimNotContiguous) {
  const Tensor turned = q.transpose(1, 3).contiguous().transpose(1, 3);
  EXPECT_THAT(call(turned, k, v),
              HasSubstr("q must have its last dimension (dim) contiguous, got strides [320, 1, 10, 40]; "
                        "no copy is made in silence: pass q.contiguous()"));
}

TEST_F(Refusals, Scale) {
  options.scale = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(call(), HasSubstr("scale must be finite, got nan"));
  options.scale = std::numeric_limits<double>::infinity();
  EXPECT_THAT(call(), HasSubstr("scale must be finite, got inf"));
}

TEST_F(Refusals, DropoutP) {
  options.dropout_seed = torch::tensor({int64_t{1}}, at::kLong);
  for (const double p : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    options.dropout_p = p;
    EXPECT_THAT(call(), HasSubstr("dropout_p must be in [0, 1), got "));
  }
}

TEST_F(Refusals, DropoutSeed) {
  options.dropout_p = 0.5;
  EXPECT_THAT(call(),
              HasSubstr("dropout_seed must be given when dropout_p > 0, got none; draw one with draw_dropout_seed"));
  options.dropout_seed = torch::tensor({1, 2}, at::kLong);
  EXPECT_THAT(call(), HasSubstr("dropout_seed must be one int64, got Long of shape [2]"));
  options.dropout_seed = torch::tensor({1}, at::kInt);
  EXPECT_THAT(call(), HasSubstr("dropout_seed must be one int64, got Int of shape [1]"));
  options.dropout_seed = torch::tensor({1}, at::kLong).to(at::kMeta);
  EXPECT_THAT(call(), HasSubstr("dropout_seed must be on the device of q, cpu, got meta"));
}

TEST_F(Refusals, Documents) {
  options.cu_seqlens = {{0, 4, 10}};
  options.lengths = {{10, 10}};
  EXPECT_THAT(call(), HasSubstr("cu_seqlens and lengths must not be given together"));
  options.lengths.reset();
  options.cu_seqlens = std::vector<int64_t>{};
  EXPECT_THAT(call(), HasSubstr("cu_seqlens must have at least its first entry, 0, got an empty list"));
  options.cu_seqlens = {{1, 10}};
  EXPECT_THAT(call(), HasSubstr("cu_seqlens[0] must be 0, got 1"));
  options.cu_seqlens = {{0, 6, 5, 10}};
  EXPECT_THAT(call(), HasSubstr("cu_seqlens[2] must be at least cu_seqlens[1] (6), got 5"));
  options.cu_seqlens = {{0, 9}};
  EXPECT_THAT(call(), HasSubstr("cu_seqlens[1] must be len_k (10), got 9"));
}

TEST_F(Refusals, Lengths) {
  options.lengths = {{10}};
  EXPECT_THAT(call(), HasSubstr("lengths must have one entry per batch row, 2, got 1 entries"));
  options.lengths = {{10, 11}};
  EXPECT_THAT(call(), HasSubstr("lengths[1] must be in [0, len_k] = [0, 10], got 11"));
  options.lengths = {{-1, 10}};
  EXPECT_THAT(call(), HasSubstr("lengths[0] must be in [0, len_k] = [0, 10], got -1"));
}

// A call of the operator itself: what Python can give and the C++ types cannot.
std::string call_operator(const std::string& name, std::vector<c10::IValue> tensors, const std::string& pattern,
                          const std::optional<Tensor>& cu_seqlens = std::nullopt,
                          const std::optional<Tensor>& lengths = std::nullopt) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(("longstride::" + name).c_str(), "");
  return refusal([&] {
    torch::jit::Stack stack = std::move(tensors);
    const c10::IValue none;
    for (const c10::IValue& rest :
         std::vector<c10::IValue>{pattern, none, none, none, cu_seqlens, lengths, none, none, none, 0.0, false})
      stack.push_back(rest);
    op.callBoxed(stack);
  });
}

TEST_F(Refusals, TensorsOfLengths) {
  const auto with = [&](const std::optional<Tensor>& cu_seqlens, const std::optional<Tensor>& lengths) {
    return call_operator("attention", {q, k, v}, to_json(pattern), cu_seqlens, lengths);
  };
  const Tensor two = torch::tensor({10, 10}, at::kInt);
  EXPECT_THAT(with(two, two), HasSubstr("cu_seqlens and lengths must not be given together, got both"));
  EXPECT_THAT(with(two.to(at::kFloat), {}),
              HasSubstr("cu_seqlens must be an int32 or int64 tensor of one dimension, got Float of shape [2]"));
  EXPECT_THAT(with({}, two.unsqueeze(0)),
              HasSubstr("lengths must be an int32 or int64 tensor of one dimension, got Int of shape [1, 2]"));
  EXPECT_THAT(with({}, two.narrow(0, 0, 1)), HasSubstr("lengths must have one entry per batch row, 2, got 1 entries"));
  EXPECT_THAT(with({}, two + 1), HasSubstr("lengths[0] must be in [0, len_k] = [0, 10], got 11"));
  EXPECT_THAT(with(two, {}), HasSubstr("cu_seqlens[0] must be 0, got 10"));
  EXPECT_THAT(with(two.narrow(0, 0, 0), {}), HasSubstr("cu_seqlens must have at least its first entry, 0"));
}

// Lists reach the operator unchecked when Python calls it.
TEST_F(Refusals, PatternArguments) {
  const auto with = [&](std::vector<int64_t> segments, std::vector<int64_t> rates, const char* offset = "modulo",
                        const char* mixing = "joint", bool average = false, const char* padding = "masked",
                        std::optional<std::vector<int64_t>> offsets = std::nullopt) {
    const std::string table = offsets ? fmt::format(R"(, "offsets": [{}])", fmt::join(*offsets, ", ")) : "";
    return call_operator(
        "attention", {q, k, v},
        fmt::format(R"({{"dilated": {{"segment_lengths": [{}], "dilation_rates": [{}], "head_offset": )"
                    R"("{}", "mixing": "{}", "average": {}, "padding": "{}"{}}}}})",
                    fmt::join(segments, ", "), fmt::join(rates, ", "), offset, mixing, average, padding, table));
  };
  EXPECT_THAT(with({}, {}), HasSubstr("cannot be empty"));
  EXPECT_THAT(with({4}, {}), HasSubstr("cannot be empty"));
  EXPECT_THAT(with({4, 8}, {1}), HasSubstr("must have the same length: 2 != 1"));
  EXPECT_THAT(with({4, 0}, {1, 2}), HasSubstr("segment_lengths[1] must be positive, got 0"));
  EXPECT_THAT(with({4, 8}, {1, -2}), HasSubstr("dilation_rates[1] must be positive, got -2"));
  EXPECT_THAT(with({4}, {1}, "modulus"), HasSubstr("'modulus'; one of [modulo, block, group]; did you mean 'modulo'?"));
  EXPECT_THAT(with({4}, {1}, "modulo", "disjoint"), HasSubstr("did you mean 'joint'?"));
  EXPECT_THAT(with({4}, {1}, "modulo", "joint", false, "mask"), HasSubstr("did you mean 'masked'?"));
  EXPECT_THAT(with({4}, {1}, "modulo", "joint", true), HasSubstr("average"));
  EXPECT_THAT(with({4}, {1}, "modulo", "joint", false, "masked", {{0, 0, 0}}), HasSubstr("offsets"));
  EXPECT_THAT(with({4, 8, 16}, {1, 2, 4}, "modulo", "head_partition"),
              HasSubstr("heads of k and v must be at least the number of groups, 3, under head_partition, got 2"));
}

TEST_F(Refusals, MetaTensorsGetTheSame) {
  const Tensor a = q.to(at::kMeta), b = k.to(at::kMeta), c = v.to(at::kMeta);
  EXPECT_THAT(call(a.narrow(2, 0, 3), b, c), HasSubstr("heads of q must be a multiple"));
  options.lengths = {{10, 11}};
  EXPECT_THAT(call(a, b, c), HasSubstr("lengths[1] must be in [0, len_k] = [0, 10], got 11"));
}

TEST_F(Refusals, BackwardShapes) {
  const AttentionResult r = attention(q, k, v, pattern);
  const auto with = [&](const Tensor& d_out, const Tensor& d_lse, const Tensor& out, const Tensor& lse) {
    return call_operator("attention_backward", {d_out, d_lse, q, k, v, out, lse}, to_json(pattern));
  };
  EXPECT_THAT(with(r.out[0], r.lse, r.out, r.lse),
              HasSubstr("d_out must have the shape [2, 10, 4, 8], got shape [10, 4, 8]"));
  EXPECT_THAT(with(r.out, r.lse.transpose(1, 2), r.out, r.lse), HasSubstr("d_lse must have the shape [2, 4, 10]"));
  EXPECT_THAT(with(r.out, r.lse, r.out, r.lse.to(at::kDouble)), HasSubstr("lse must be Float, got Double"));
  EXPECT_THAT(with(r.out, r.lse, r.out.to(at::kHalf), r.lse), HasSubstr("out must be Float, got Half"));
}

TEST(CacheRefusals, NegativeLimit) {
  const int64_t limit = plan_cache_stats().limit_bytes;
  EXPECT_THAT(refusal([] { set_plan_cache_limit(-1); }), HasSubstr("got -1"));
  EXPECT_EQ(plan_cache_stats().limit_bytes, limit);
}

}  // namespace
}  // namespace longstride::test
