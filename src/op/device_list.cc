#include "op/device_list.h"

#include "longstride/pattern/json.h"

namespace longstride::op {
namespace {

bool lies_with(const Tensor& q, const Call& call) {
  return given(call.blocks) && q.is_cuda() && call.blocks->is_cuda();
}

}  // namespace

std::shared_ptr<const Pattern> with_rows(std::shared_ptr<const Pattern> pattern, const Tensor& q, const Call& call) {
  if (!lies_with(q, call)) return pattern;
  return std::make_shared<const Pattern>(pattern_from_json(call.pattern, Access<Tensor>::blocks(*call.blocks)));
}

std::optional<DeviceList> DeviceList::of(const Engine& engine, const engine::Problem& problem, const Pattern& pattern,
                                         const Extent& extent, const Tensor& q, const Call& call) {
  if (!lies_with(q, call) || !extent.cu_seqlens.empty()) return std::nullopt;
  if (Access<Tensor>::view(*call.blocks).place != Access<Tensor>::view(q).place) return std::nullopt;
  if (!pattern.groups().empty() || pattern.blocks().size() != 1) return std::nullopt;
  engine::BlocksOnDevice list;
  list.count = call.blocks->size(0);
  list.block_size = pattern.blocks().front().block_size();
  list.causal = pattern.causal();
  if (!engine.plans(problem, list)) return std::nullopt;
  const auto rows = std::make_shared<Tensor>(contiguous(*call.blocks));
  list.rows = static_cast<const int32_t*>(rows->const_data_ptr());
  return DeviceList(rows, list, extent);
}

engine::BlocksOnDevice DeviceList::view(void* gate_grad) const {
  engine::BlocksOnDevice list = list_;
  list.lengths = lengths_.empty() ? nullptr : lengths_.data();
  list.gate_grad = gate_grad;
  return list;
}

}  // namespace longstride::op
