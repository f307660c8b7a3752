// The torch-free engines as tests call them, and what they are lent: threads, and a product that wants its right
// operand in pairs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/half.h"
#include "engine/contract.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/kernels.h"
#include "engine/reference/reference.h"
#include "test/engine/run.h"

namespace longstride::test {

inline Engine reference_engine() {
  return {"reference", [](const auto& p, const auto& plan, const auto& w) { engine::reference::forward(p, plan, w); },
          [](const auto& p, const auto& plan, const auto& w) { engine::reference::backward(p, plan, w); }};
}

inline Engine cpu_engine() {
  return {"cpu", [](const auto& p, const auto& plan, const auto& w) { engine::cpu::forward(p, plan, w); },
          [](const auto& p, const auto& plan, const auto& w) { engine::cpu::backward(p, plan, w); }};
}

// Plain loops over bfloat16 pairs (and float32): shows that the engine packs as the contract says.
class PairsGemm final : public engine::MicroGemm {
 public:
  const char* name() const override { return "pairs"; }
  bool takes(core::DType t) const override { return t == core::DType::kBFloat16 || t == core::DType::kFloat32; }
  bool wants_pairs(core::DType t) const override { return t == core::DType::kBFloat16; }
  void run(core::DType t, int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb,
           float* c, int64_t ldc, bool accumulate) const override {
    ++calls;
    multiplications += m * n * k;
    if (t == core::DType::kFloat32) {
      engine::cpu::multiply(m, n, k, static_cast<const float*>(a), lda, static_cast<const float*>(b), ldb, c, ldc,
                            accumulate);
      return;
    }
    if (k % 2 != 0) throw std::logic_error("pairs of an odd number of rows");
    const auto* left = static_cast<const core::BFloat16*>(a);
    const auto* right = static_cast<const core::BFloat16*>(b);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float sum = accumulate ? c[i * ldc + j] : 0.0f;
        for (int64_t x = 0; x < k; ++x) {
          sum += core::to_float(left[i * lda + x]) * core::to_float(right[x / 2 * 2 * ldb + 2 * j + x % 2]);
        }
        c[i * ldc + j] = sum;
      }
    }
  }
  mutable std::atomic<int64_t> calls{0};
  mutable std::atomic<int64_t> multiplications{0};
};

inline engine::Workspace threads(int count, const engine::MicroGemm* gemm = nullptr) {
  engine::Workspace w;
  w.threads = count;
  w.gemm = gemm;
  w.parallel_for = [count](int64_t n, const std::function<void(int64_t, int)>& body) {
    std::vector<std::thread> team;
    std::atomic<int64_t> next{0};
    for (int t = 0; t < count; ++t) {
      team.emplace_back([&, t] {
        for (int64_t i = next++; i < n; i = next++) body(i, t);
      });
    }
    for (std::thread& member : team) member.join();
  };
  return w;
}

}  // namespace longstride::test
