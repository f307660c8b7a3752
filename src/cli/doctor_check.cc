// attention() against the formula of docs/semantics.md, written out densely in float64 on torch's operators
// (doctor_check.h).
#include "doctor_check.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <exception>

#include "longstride/attention.h"
#include "longstride/error.h"
#include "longstride/pattern/sight.h"

namespace longstride::cli {
namespace {

using at::Tensor;

// Lengths that fill no tile, heads that share KV heads, groups that overlap.
constexpr int64_t kLen = 301, kHeads = 4, kKvHeads = 2, kDim = 40;

struct Dense {
  Tensor out;  // [1, len, heads, dim]
  Tensor lse;  // [1, heads, len]
};

Dense dense_formula(const Tensor& q, const Tensor& k, const Tensor& v, const Pattern& pattern) {
  const Extent extent{.heads = kHeads, .kv_heads = kKvHeads, .len_q = kLen, .len_k = kLen};
  std::vector<Tensor> outs, lses;
  for (int64_t h = 0; h < kHeads; ++h) {
    const int64_t kv_head = h / (kHeads / kKvHeads);
    const Sight sight(pattern, extent, 0, kv_head);
    const Tensor multiplicity = at::zeros({kLen, kLen}, at::kDouble);
    auto m = multiplicity.accessor<double, 2>();
    for (int64_t i = 0; i < kLen; ++i) {
      for (int64_t n = 0; n < kLen; ++n) m[i][n] = static_cast<double>(sight.multiplicity(i, n));
    }
    const Tensor scores = at::matmul(q.select(2, h), k.select(2, kv_head).transpose(1, 2)) / std::sqrt(double{kDim});
    const Tensor weights = scores.exp() * multiplicity;
    const Tensor sum = weights.sum(-1, true);
    outs.push_back(at::matmul(weights / sum, v.select(2, kv_head)));
    lses.push_back(sum.squeeze(-1).log());
  }
  return {at::stack(outs, 2), at::stack(lses, 1)};
}

double distance(const Tensor& ours, const Tensor& truth) {
  // A NaN must not pass as a small number.
  const Tensor gap = (ours.to(at::kCPU, at::kDouble) - truth).abs();
  return gap.isfinite().all().item<bool>() ? gap.max().item<double>() : INFINITY;
}

CheckResult check(const char* name, at::ScalarType dtype, double allowed, const std::string& engine) {
  CheckResult result{.dtype = name, .allowed = allowed};
  DilatedOptions options;
  options.causal = true;
  const Pattern pattern = Pattern::dilated({64, 128, 512}, {1, 2, 3}, options);
  at::Generator chance = at::detail::createCPUGenerator(7);
  const at::Device device = engine.starts_with("cuda") ? at::kCUDA : at::kCPU;
  const auto normal = [&](int64_t heads) { return at::randn({1, kLen, heads, kDim}, chance).to(device, dtype); };
  const Tensor q = normal(kHeads).requires_grad_(), k = normal(kKvHeads).requires_grad_();
  const Tensor v = normal(kKvHeads).requires_grad_(), d_out = normal(kHeads);
  const auto truth_of = [](const Tensor& x) { return x.detach().to(at::kCPU, at::kDouble).requires_grad_(); };
  const Tensor q64 = truth_of(q), k64 = truth_of(k), v64 = truth_of(v);
  try {
    const AttentionResult ours = attention(q, k, v, pattern);
    result.engine = last_engine();
    const auto gradients = torch::autograd::grad({ours.out}, {q, k, v}, {d_out});
    const Dense truth = dense_formula(q64, k64, v64, pattern);
    const auto truths = torch::autograd::grad({truth.out}, {q64, k64, v64}, {d_out.to(at::kCPU, at::kDouble)});
    result.out_error = std::max(distance(ours.out, truth.out), distance(ours.lse, truth.lse));
    for (size_t i = 0; i < gradients.size(); ++i)
      result.grad_error = std::max(result.grad_error, distance(gradients[i], truths[i]));
    if (!(std::max(result.out_error, result.grad_error) <= allowed))
      result.fault = fmt::format("differs from the dense formula by {:.2g} (gradients {:.2g}), allowed {:.2g}",
                                 result.out_error, result.grad_error, allowed);
  } catch (const std::exception& error) {
    const std::string words = error.what();
    std::string& said = !engine.empty() && dynamic_cast<const Error*>(&error) ? result.refusal : result.fault;
    said = words.substr(0, words.find('\n'));
  }
  return result;
}

}  // namespace

std::vector<CheckResult> check_attention(const std::string& engine) {
  const std::string before = use_engine(engine);
  // Gradients reach about 8 here, so half an ulp of a bfloat16 is 1/64 there and rounding P costs as much again.
  std::vector<CheckResult> results = {
      check("float32", at::kFloat, 5e-5, engine), check("bfloat16", at::kBFloat16, 0.08, engine),
      check("float16", at::kHalf, 0.01, engine), check("float64", at::kDouble, 1e-11, engine)};
  use_engine(before);
  return results;
}

}  // namespace longstride::cli
