// Shapes without numbers: what a tracing compiler asks. Everything is refused here that is refused in a run and can be
// told from what is known.
#include <ATen/Functions.h>

#include "op/autograd/kernels.h"
#include "op/checks.h"

namespace longstride::op::autograd {

using at::Tensor;

Outputs forward_meta(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  const Views of = views_of(q, k, v);
  check_forward(of, call);
  if (has_numbers(of, call)) extent_of(of, call);
  return {
      at::empty_symint(q.sym_sizes(), q.options()),
      at::empty_symint({q.sym_size(0), q.sym_size(2), q.sym_size(1)}, q.options().dtype(lse_dtype(q.scalar_type())))};
}

InputGrads backward_meta(const BackwardInputs& in, const Call& call) {
  const Views of = views_of(in.q, in.k, in.v);
  check_backward(of, in, call);
  if (has_numbers(of, call)) extent_of(of, call);
  return {at::empty_symint(in.q.sym_sizes(), in.q.options()), at::empty_symint(in.k.sym_sizes(), in.k.options()),
          at::empty_symint(in.v.sym_sizes(), in.v.options()),
          has_gates(call) ? at::empty_symint(call.gates->sym_sizes(), call.gates->options())
                          : at::empty({0}, in.lse.options())};
}

}  // namespace longstride::op::autograd
