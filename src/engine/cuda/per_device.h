// A number for each device, made when it is first asked for: what the driver is to be asked or told once a device,
// since every such call costs the host its time. Used by device.cc and, one a kernel, by the launches.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace longstride::engine::cuda {

class PerDevice {
 public:
  // What make() gave for this device, a number above 0; threads that ask at one time may each make it. If make()
  // throws, it is called again the next time; for devices beyond kMostDevices always.
  template <class Make>
  int32_t of(int device, const Make& make) {
    if (device < 0 || device >= kMostDevices) return make();
    std::atomic<int32_t>& kept = kept_[device];
    int32_t value = kept.load(std::memory_order_relaxed);
    if (value == 0) kept.store(value = make(), std::memory_order_relaxed);
    return value;
  }

  static constexpr int kMostDevices = 64;

 private:
  std::array<std::atomic<int32_t>, kMostDevices> kept_{};
};

}  // namespace longstride::engine::cuda
