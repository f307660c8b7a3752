// The C++ entrance: the same operator that Python calls, so that autograd, autocast and tracing are one path.
#include <ATen/Functions.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include "core/refuse.h"
#include "op/autograd/kernels.h"
#include "op/checks.h"
#include "op/engines.h"
#include "op/problem.h"
#include "op/report.h"

namespace longstride {

using at::Tensor;

namespace {

AttentionResult run(const Tensor& q, const Tensor& k, const Tensor& v, const op::autograd::Call& call) {
  // The dispatcher reads the tensors' keys before any kernel can check them.
  if (!q.defined() || !k.defined() || !v.defined()) op::check_forward(op::views_of(q, k, v), call);
  auto [out, lse] = op::autograd::dispatch_forward(q, k, v, call);
  return {out, lse};
}

}  // namespace

AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, const Pattern& pattern,
                          const AttentionOptions& options) {
  return run(q, k, v, op::autograd::make_call(pattern, options));
}

AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::string& pattern_json,
                          const std::optional<Tensor>& blocks, const AttentionOptions& options) {
  return run(q, k, v, op::autograd::make_call(pattern_json, blocks, options));
}

Tensor draw_dropout_seed(at::Device device) {
  const int devices =
      c10::impl::hasDeviceGuardImpl(device.type()) ? c10::impl::getDeviceGuardImpl(device.type())->deviceCount() : 0;
  if (std::max<int>(device.index(), 0) >= devices)
    core::refuse("device", "must be one that this torch and machine have", device.str(),
                 fmt::format("there are {} of this kind", devices));
  return at::randint(std::numeric_limits<int64_t>::max(), {}, at::TensorOptions().dtype(at::kLong).device(device));
}

AttentionReport describe_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Pattern& pattern,
                                   const AttentionOptions& options) {
  const op::autograd::Call call = op::autograd::make_call(pattern, options);
  const op::Views of = op::views_of(q, k, v);
  op::check_forward(of, call);
  const Extent extent = op::extent_of(of, call);
  engine::Problem problem = op::problem_of(op::dtype_of(q.scalar_type()), q.size(3), call, pattern, extent);
  const c10::DeviceGuard on_device(q.device());
  const op::Engine& engine = op::choose_engine(op::place_of(q.device()), problem);
  op::CallReport found = op::report_call(engine, problem, pattern, extent);
  AttentionReport report;
  report.engine = std::move(found.engine);
  report.plan = std::move(found.forward.words);
  report.plan_bytes = found.forward.bytes;
  report.useful_flops = found.useful_flops;
  report.nominal_flops = found.nominal_flops;
  report.keys_per_query = found.forward.counts.computed_per_row();
  return report;
}

}  // namespace longstride
