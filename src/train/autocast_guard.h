// bfloat16 autocast on one type of device for a scope, as torch.autocast("cpu", dtype=torch.bfloat16) is in Python.
// Called by train, eval and generate.
#pragma once

#include <ATen/autocast_mode.h>

namespace longstride::train {

class AutocastGuard {
 public:
  AutocastGuard(bool bf16, at::DeviceType device) : active_(bf16), device_(device) {
    if (!active_) return;
    was_enabled_ = at::autocast::is_autocast_enabled(device_);
    was_dtype_ = at::autocast::get_autocast_dtype(device_);
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~AutocastGuard() {
    if (!active_) return;
    // The cache holds bfloat16 copies of the weights, which the next optimizer step makes stale.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, was_enabled_);
    at::autocast::set_autocast_dtype(device_, was_dtype_);
  }
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  bool active_;
  at::DeviceType device_;
  bool was_enabled_ = false;
  at::ScalarType was_dtype_ = at::kBFloat16;
};

}  // namespace longstride::train
