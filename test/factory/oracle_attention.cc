// See oracle_attention.h.
#include "test/factory/oracle_attention.h"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>

namespace longstride::factory_test {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::vector<double> values(const Tensor& t) {
  const Tensor dense = t.detach().to(at::kDouble).contiguous();
  return {dense.data_ptr<double>(), dense.data_ptr<double>() + dense.numel()};
}

Tensor tensor(const std::vector<double>& values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kDouble).view(sizes);
}

struct Held : torch::CustomClassHolder {
  explicit Held(oracle::Options o) : options(std::move(o)) {}
  oracle::Options options;
};

class Oracle : public torch::autograd::Function<Oracle> {
 public:
  static variable_list forward(AutogradContext* context, const c10::intrusive_ptr<Held>& held, const Tensor& q,
                               const Tensor& k, const Tensor& v) {
    const oracle::Options& o = held->options;
    context->saved_data["held"] = c10::IValue::make_capsule(held);
    context->save_for_backward({q, k, v});
    const oracle::Forward result = oracle::forward(o, values(q), values(k), values(v));
    return {tensor(result.out, q.sizes()), tensor(result.lse, {o.batch, o.heads, o.len_q})};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto kept = context->get_saved_variables();
    const auto capsule = context->saved_data["held"].toCapsule();
    const oracle::Options& o = static_cast<const Held*>(capsule.get())->options;
    const auto result = oracle::backward(o, values(kept[0]), values(kept[1]), values(kept[2]), values(grads[0]),
                                         grads[1].defined() ? values(grads[1]) : std::vector<double>());
    return {Tensor(), tensor(result.dq, kept[0].sizes()), tensor(result.dk, kept[1].sizes()),
            tensor(result.dv, kept[2].sizes())};
  }
};

}  // namespace

AttentionFn oracle_attention(oracle::Options options) {
  return [options](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& call) {
    oracle::Options o = options;
    o.batch = q.size(0);
    o.len_q = q.size(1);
    o.heads = q.size(2);
    o.dim = q.size(3);
    o.len_k = k.size(1);
    o.kv_heads = k.size(2);
    o.query_start = call.query_start.value_or(0);
    o.cu_seqlens = call.cu_seqlens.value_or(std::vector<int64_t>());
    o.lengths = call.lengths.value_or(std::vector<int64_t>());
    o.scale = call.scale;
    if (call.alibi_slopes) o.alibi_slopes = values(*call.alibi_slopes);
    o.dropout_p = call.dropout_p;
    if (call.dropout_seed) o.dropout_seed = uint64_t(call.dropout_seed->item<int64_t>());
    const auto result = Oracle::apply(c10::make_intrusive<Held>(o), q, k, v);
    return AttentionResult{result[0], result[1]};
  };
}

}  // namespace longstride::factory_test
