// The rate of LibTorch's micro-GEMM by itself: the ceiling that bench and doctor measure against (peers.h).
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "peer/peers.h"

namespace longstride::peer {
namespace {

constexpr int64_t kTile = 64;
constexpr double kTileFlops = 2.0 * kTile * kTile * kTile;
constexpr int kBurst = 64;  // products between two looks at the clock: about 100 us

// Products done in `seconds` by the calling thread.
template <typename T>
int64_t products(double seconds, bool pairs) {
  std::vector<T> a(kTile * kTile, T(0.5f)), b(kTile * kTile, T(0.25f));
  std::vector<float> c(kTile * kTile);
  const auto burst = [&] {
    for (int i = 0; i < kBurst; ++i)
      at::native::cpublas::brgemm(kTile, kTile, kTile, kTile, kTile, kTile, false, a.data(), b.data(), c.data(), pairs);
  };
  burst();  // generates and loads the kernel
  int64_t done = 0;
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    burst();
    done += kBurst;
  }
  at::native::cpublas::brgemm_release(pairs);
  return done;
}

template <typename T>
GemmRate rate(double seconds, bool pairs) {
  std::atomic<int64_t> done{0};
  std::mutex mutex;
  std::string failure;
  const int threads = at::get_num_threads();
  const auto start = std::chrono::steady_clock::now();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      try {
        done += products<T>(seconds, pairs);
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        failure = error.what();
      }
    }
  });
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!failure.empty()) return {0, failure.substr(0, failure.find('\n'))};
  return {static_cast<double>(done) * kTileFlops / wall / 1e9, ""};
}

}  // namespace

GemmRate brgemm_rate(at::ScalarType dtype, double seconds) {
  switch (dtype) {
    case at::kFloat:
      return rate<float>(seconds, false);
    case at::kBFloat16:
      return rate<at::BFloat16>(seconds, true);
    case at::kHalf:
      return rate<at::Half>(seconds, true);
    default:
      return {0, "brgemm takes float32, bfloat16 and float16"};
  }
}

}  // namespace longstride::peer
