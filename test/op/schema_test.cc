// What is registered: the schemas word for word, shapes without numbers, and what can be asked about a call.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

#include "longstride/pattern/json.h"
#include "op/pattern_text.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

// As the design document has them.
constexpr const char* kForward =
    "longstride::attention(Tensor q, Tensor k, Tensor v, str pattern, Tensor? blocks=None, Tensor? gates=None, Tensor? "
    "alibi_slopes=None, Tensor? cu_seqlens=None, Tensor? lengths=None, Tensor? dropout_seed=None, *, float? "
    "scale=None, "
    "SymInt? query_start=None, float dropout_p=0.0, bool deterministic=False) -> (Tensor out, Tensor lse)";
constexpr const char* kBackward =
    "longstride::attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "str pattern, Tensor? blocks=None, Tensor? gates=None, Tensor? alibi_slopes=None, Tensor? cu_seqlens=None, Tensor? "
    "lengths=None, Tensor? dropout_seed=None, *, float? scale=None, SymInt? query_start=None, float dropout_p=0.0, "
    "bool "
    "deterministic=False) -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_gates)";

TEST(Schema, WordForWord) {
  for (const auto& [name, text] : std::vector<std::pair<const char*, const char*>>{
           {"longstride::attention", kForward}, {"longstride::attention_backward", kBackward}}) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
    EXPECT_EQ(c10::toString(op.schema()), c10::toString(torch::jit::parseSchema(text)));
    for (const at::DispatchKey key : {at::DispatchKey::CPU, at::DispatchKey::Meta, at::DispatchKey::CUDA})
      EXPECT_TRUE(op.hasKernelForDispatchKey(key)) << name << " " << key;
    EXPECT_TRUE(op.hasKernelForDispatchKey(at::DispatchKey::Autograd)) << name;
  }
  const auto autocast = {at::DispatchKey::AutocastCPU, at::DispatchKey::AutocastCUDA};
  for (const at::DispatchKey key : autocast)
    EXPECT_TRUE(
        c10::Dispatcher::singleton().findSchemaOrThrow("longstride::attention", "").hasKernelForDispatchKey(key));
}

TEST(Schema, OneOperatorItsBackwardWhatDescribesItAndTheChoiceOfAnEngine) {
  std::vector<std::string> ours;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames())
    if (name.name.starts_with("longstride::")) ours.push_back(name.name);
  EXPECT_THAT(ours, testing::UnorderedElementsAre("longstride::attention", "longstride::attention_backward",
                                                  "longstride::describe", "longstride::use_engine"));
}

// A warm call neither writes nor parses JSON, however many patterns have been seen.
TEST(PatternText, IsKeptWithinABound) {
  const Pattern pattern = Pattern::dilated({16, 32}, {1, 2}, {.causal = true});
  const std::string text = op::text_of(pattern);
  EXPECT_EQ(text, to_json(pattern));
  const std::shared_ptr<const Pattern> parsed = op::pattern_of(text);
  EXPECT_EQ(*parsed, pattern);
  EXPECT_EQ(op::pattern_of(text), parsed);  // the same value, not an equal one
  EXPECT_EQ(op::text_of(*parsed), text);
  for (int64_t w = 1; w <= 600; ++w) {
    const Pattern other = Pattern::dilated({w}, {1});
    EXPECT_EQ(*op::pattern_of(op::text_of(other)), other);
    EXPECT_LE(op::kept_texts(), 2 * op::kMostTexts);
  }
  EXPECT_EQ(*op::pattern_of(text), pattern);  // after the store was emptied
  EXPECT_EQ(*parsed, pattern);
  const size_t kept = op::kept_texts();
  EXPECT_THROW(op::pattern_of(R"({"dilated": {"segment_lengths": [4], "dilation_rates": [0]}})"), Error);
  EXPECT_EQ(op::kept_texts(), kept);
}

TEST(Schema, MetaGivesShapesStridesAndDTypes) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto run = [&](at::Device device) {
      Tensor q = torch::zeros({2, 3, 4, 8}, torch::dtype(dtype).device(device)).requires_grad_();
      Tensor k = torch::zeros({2, 9, 2, 8}, torch::dtype(dtype).device(device)).requires_grad_();
      Tensor v = torch::zeros({2, 2, 9, 8}, torch::dtype(dtype).device(device)).transpose(1, 2).requires_grad_();
      AttentionOptions options;
      options.query_start = 5;
      const AttentionResult r = attention(q, k, v, Pattern::dilated({4}, {2}), options);
      auto d = torch::autograd::grad({r.out, r.lse}, {q, k, v}, {at::zeros_like(r.out), at::zeros_like(r.lse)});
      return std::vector<Tensor>{r.out, r.lse, d[0], d[1], d[2]};
    };
    const auto real = run(at::kCPU), meta = run(at::kMeta);
    for (size_t i = 0; i < real.size(); ++i) {
      EXPECT_TRUE(meta[i].is_meta());
      EXPECT_EQ(meta[i].sizes(), real[i].sizes());
      EXPECT_EQ(meta[i].strides(), real[i].strides());
      EXPECT_EQ(meta[i].scalar_type(), real[i].scalar_type());
    }
  }
}

TEST(Schema, MetaOfALengthThatFitsNowhere) {
  const Tensor q = torch::empty({1, int64_t{1} << 40, 64, 128}, torch::device(at::kMeta));
  EXPECT_EQ(attention(q, q, q, Pattern::dilated({2048}, {1})).lse.numel(), int64_t{1} << 46);
}

TEST(Report, DescribesWithoutRunning) {
  const Tensor q = normal(1, {1, 256, 2, 8});
  attention(q.to(at::kDouble), q.to(at::kDouble), q.to(at::kDouble), Pattern::dilated({64}, {1}));
  const AttentionReport report = describe_attention(q, q, q, Pattern::dilated({64}, {1}));
  EXPECT_EQ(last_engine(), "reference");  // not the one described
  EXPECT_EQ(report.engine, "cpu");
  EXPECT_DOUBLE_EQ(report.useful_flops, 4.0 * 8 * 2 * 256 * 64);
  EXPECT_DOUBLE_EQ(report.nominal_flops, 4.0 * 8 * 2 * 256 * 64);
  EXPECT_GE(report.keys_per_query, 64);
  EXPECT_GT(report.plan_bytes, 0);
  EXPECT_NE(report.plan, "");
  EXPECT_THROW(describe_attention(q, q[0], q, Pattern::dilated({64}, {1})), Error);
}

TEST(Report, Capabilities) {
  const std::vector<EngineReport> reports = capabilities();
  ASSERT_GE(reports.size(), 3u);
  EXPECT_EQ(reports[0].engine, "cpu");
  EXPECT_TRUE(reports[0].yes);
  EXPECT_THAT(reports[0].reason, HasSubstr("float32, bfloat16, float16"));
  EXPECT_EQ(reports[1].engine, "reference");
  EXPECT_TRUE(reports[1].yes);
  EXPECT_THAT(reports[1].reason, HasSubstr("float64"));
  if (reports[2].engine == "cuda") {  // a build without
    EXPECT_FALSE(reports[2].yes);
    EXPECT_EQ(reports[2].reason, "this build has no CUDA engine");
  } else {
    EXPECT_EQ(reports[2].engine, "cuda sm90");
    EXPECT_NE(reports[2].reason, "");
    EXPECT_LE(reports[2].yes, at::globalContext().hasCUDA());
  }
}

TEST(PlanCache, CountsKeepsAndEvicts) {
  const int64_t limit = plan_cache_stats().limit_bytes;
  clear_plan_cache();
  EXPECT_EQ(plan_cache_stats().entries, 0);
  EXPECT_EQ(plan_cache_stats().bytes, 0);
  const Pattern pattern = Pattern::dilated({16, 32}, {1, 2});
  const auto call = [&](int64_t len) {
    Tensor q = normal(1, {1, len, 2, 8}).requires_grad_();
    attention(q, q, q, pattern).out.sum().backward();
    return q.grad();
  };
  const PlanCacheStats before = plan_cache_stats();
  const Tensor grad = call(77);
  PlanCacheStats after = plan_cache_stats();
  EXPECT_EQ(after.misses - before.misses, 2);  // forward and transposed
  EXPECT_EQ(after.entries, 2);
  EXPECT_GT(after.bytes, 0);
  call(77);
  EXPECT_EQ(plan_cache_stats().misses, after.misses);
  EXPECT_EQ(plan_cache_stats().hits - after.hits, 2);
  // Another scale, dropout or dtype of one geometry is no other plan; another length is.
  call(78);
  EXPECT_EQ(plan_cache_stats().entries, 4);
  set_plan_cache_limit(after.bytes);
  EXPECT_LE(plan_cache_stats().bytes, after.bytes);
  EXPECT_GT(plan_cache_stats().evictions, before.evictions);
  // Nothing is kept at 0, and everything works.
  set_plan_cache_limit(0);
  EXPECT_EQ(plan_cache_stats().entries, 0);
  EXPECT_TRUE(same_bits(call(77), grad));
  EXPECT_EQ(plan_cache_stats().entries, 0);
  set_plan_cache_limit(limit);
}

}  // namespace
}  // namespace longstride::test
