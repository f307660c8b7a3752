// The list of blocks of a call that lies with q on a GPU: planned there by the engine, or read. Called by the kernels
// of a call and of a rank's, whose checks leave such a list where it is.
#pragma once

#include <memory>
#include <optional>

#include "longstride/pattern.h"
#include "op/engines.h"
#include "op/tensor.h"

namespace longstride::op {

// The checked pattern with the rows of such a list, copied to the host, which waits; one that has all rows as it is.
std::shared_ptr<const Pattern> with_rows(std::shared_ptr<const Pattern>, const Tensor& q, const Call&);

// Such a list as the engine plans it. Rows and lengths stay as long as this.
class DeviceList {
 public:
  // None if the list lies elsewhere, other patterns stand beside it, or the engine does not plan it.
  static std::optional<DeviceList> of(const Engine&, const engine::Problem&, const Pattern&, const Extent&,
                                      const Tensor& q, const Call&);

  // `gate_grad`: where a backward writes the gradient of each row's gate, or null.
  engine::BlocksOnDevice view(void* gate_grad = nullptr) const;

 private:
  DeviceList(std::shared_ptr<const void> rows, const engine::BlocksOnDevice& list, const Extent& extent)
      : rows_(std::move(rows)), list_(list), lengths_(extent.lengths) {}
  std::shared_ptr<const void> rows_;  // the tensor
  engine::BlocksOnDevice list_;
  std::vector<int64_t> lengths_;
};

}  // namespace longstride::op
