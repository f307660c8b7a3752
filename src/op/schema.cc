// The operator, its backward, describe(), which says what a call would do, and use_engine(): their schemas, written
// from the call's list of fields, and their kernels on the CPU and CUDA, registered through LibTorch's stable ABI. What
// that has no words for (autograd, shapes, autocast) op/autograd adds.
#include "op/schema.h"

#include "op/kernels.h"
#include "op/library.h"

namespace longstride::op {
namespace {

// Functions of the operators' signatures around the kernels.
template <class Arguments>
struct Unpack;
template <class... Owner, class... Field>
struct Unpack<std::tuple<Argument<Owner, Field>...>> {
  static Outputs forward(Tensor q, Tensor k, Tensor v, Handed<Field>... rest) {
    return forward_device(q, k, v, Call::of(taken<Field>(rest)...));
  }
  static std::string describe(Tensor q, Tensor k, Tensor v, Handed<Field>... rest) {
    return json_of(describe_device(q, k, v, Call::of(taken<Field>(rest)...)));
  }
  static InputGrads backward(Tensor d_out, MaybeTensor d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,
                             Handed<Field>... rest) {
    return backward_device(BackwardInputs{std::move(d_out), std::move(d_lse), std::move(q), std::move(k), std::move(v),
                                          std::move(out), std::move(lse)},
                           Call::of(taken<Field>(rest)...));
  }
};
using Unpacked = Unpack<decltype(Call::arguments())>;

const Definitions registered(
    Definitions::Kind::kLibrary,
    {"attention(Tensor q, Tensor k, Tensor v" + call_schema() + ") -> (Tensor out, Tensor lse)",
     "attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse" +
         call_schema() + ") -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_gates)",
     "describe(Tensor q, Tensor k, Tensor v" + call_schema() + ") -> str", "use_engine(str name) -> str"});

std::string use_engine_by_handle(StringHandle name) { return use_engine(take(name)); }

void add_kernels(torch::stable::detail::StableLibrary& library) {
  library.impl("attention", TORCH_BOX(&Unpacked::forward));
  library.impl("attention_backward", TORCH_BOX(&Unpacked::backward));
  library.impl("describe", TORCH_BOX(&Unpacked::describe));
}

}  // namespace

const char* const kAttention = "longstride::attention";
const char* const kAttentionBackward = "longstride::attention_backward";

STABLE_TORCH_LIBRARY_IMPL(longstride, CPU, library) { add_kernels(library); }
STABLE_TORCH_LIBRARY_IMPL(longstride, CompositeExplicitAutograd, library) {
  library.impl("use_engine", TORCH_BOX(&use_engine_by_handle));
}
// In every build: one without CUDA gives our refusal, which names what can be done, and not the dispatcher's.
STABLE_TORCH_LIBRARY_IMPL(longstride, CUDA, library) { add_kernels(library); }

}  // namespace longstride::op
