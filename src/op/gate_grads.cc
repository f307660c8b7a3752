// Ranges from the pattern's list (gates.h), and their sums by torch's operators.
#include "op/gate_grads.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>

#include "core/refuse.h"

namespace longstride::op {
namespace {

GateIndex index_of(const Pattern& pattern, const Extent& extent, int64_t first_kv_head) {
  for (const BlockPattern& block : pattern.blocks()) {
    if (const BlockList* list = block.list())
      return {list->blocks, block.block_size(), pattern.causal(), extent, first_kv_head};
  }
  return {{}, 1, pattern.causal(), extent, first_kv_head};
}

// aten::name of boxed arguments, the first of which its result takes the place of.
template <class... Arguments>
Tensor aten(const char* name, const Arguments&... arguments) {
  using torch::stable::detail::from;
  std::array<StableIValue, sizeof...(Arguments)> stack{from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// [rows]: the sum over the ranges of each row.
Tensor by_row(const GateIndex& index, const Tensor& of_ranges) {
  const Place place = Access<Tensor>::view(of_ranges).place;
  const auto tensor_of = [&](const std::vector<int64_t>& numbers) {
    const std::array<int64_t, 1> size = {std::ssize(numbers)};
    const Tensor host = empty(size, ScalarType::Long, {});
    std::copy(numbers.begin(), numbers.end(), static_cast<int64_t*>(host.mutable_data_ptr()));
    if (place.is_cpu()) return host;
    const Tensor on_device = empty(size, ScalarType::Long, place);
    TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(on_device.get(), host.get(), /*non_blocking=*/1));
    return on_device;
  };
  // In a fixed order on every device, which index_add is not. The lengths are right: to check them waits for the
  // device.
  const Tensor of_rows = aten("aten::index_select", of_ranges, int64_t{0}, tensor_of(index.entry_of_rows()));
  return aten("aten::segment_reduce", of_rows, std::string("sum"),
              std::optional<Tensor>(tensor_of(index.entries_of_row())), /*indices=*/std::nullopt,
              /*offsets=*/std::nullopt, /*axis=*/int64_t{0}, /*unsafe=*/true, /*initial=*/std::nullopt);
}

}  // namespace

void check_ones(const Tensor& gates) {
  const Tensor host = contiguous(on_host(gates));
  const auto ones = [n = host.numel()](const auto* first) {
    return std::all_of(first, first + n, [](auto gate) { return gate == 1; });
  };
  const void* const first = host.const_data_ptr();
  const bool doubles = Access<Tensor>::view(host).dtype == ScalarType::Double;
  if (!(doubles ? ones(static_cast<const double*>(first)) : ones(static_cast<const float*>(first))))
    core::refuse("gates", "must all be 1: they are there for their gradient", "other values",
                 "pass 1 + score - score.detach()");
}

Tensor gate_grads(const Pattern& pattern, const Extent& extent, ScalarType dtype, Place place, int64_t first_kv_head,
                  const std::function<void(const engine::Gates&)>& run) {
  const GateIndex index = index_of(pattern, extent, first_kv_head);
  const Tensor of_ranges = empty(std::array{index.entries()}, dtype, place);
  engine::Gates gates = index.view();
  gates.grad = of_ranges.mutable_data_ptr();
  run(gates);
  return by_row(index, of_ranges);
}

}  // namespace longstride::op
