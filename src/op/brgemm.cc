// at::native::cpublas::brgemm behind engine::MicroGemm, found by its name, which LibTorch 2.10 to 2.14 share but none
// promises. A dtype is taken only if it is there and one small product has matched plain loops: brgemm throws for some
// dtypes on some CPUs, and its could_pack() says nothing about that.
#include "op/brgemm.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <exception>
#include <vector>

#include "op/later.h"

namespace longstride::op {
namespace {

using core::DType;
using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <class T>
using Function = void(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool accumulate,
                      const T* a, const T* b, float* c, bool pairs);

template <class T>
constexpr const char* kName = nullptr;
template <>
constexpr const char* kName<float> = "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb";
template <>
constexpr const char* kName<BFloat16> = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb";
template <>
constexpr const char* kName<Half> = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c104HalfES5_Pfb";

template <class T>
Function<T>* found() {
  static Function<T>* const function = loaded<Function<T>>("libtorch_cpu.so", kName<T>);
  return function;
}
auto* found_release() {
  static auto* const function = loaded<void(bool)>("libtorch_cpu.so", "_ZN2at6native7cpublas14brgemm_releaseEb");
  return function;
}

template <class T>
void multiply(int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate, bool pairs) {
  found<T>()(m, n, k, lda, ldb, ldc, accumulate, static_cast<const T*>(a), static_cast<const T*>(b), c, pairs);
}

// One product of the engine's shape and one that adds, against plain loops. Small integers are exact in every dtype.
template <class T>
bool matches(bool pairs) {
  if (!found<T>() || !found_release()) return false;
  constexpr int64_t kM = 16, kN = 64, kK = 32;
  std::vector<T> a(kM * kK), b(kK * kN), packed(kK * kN);
  std::vector<float> c(kM * kN, 1.0f);
  for (int64_t i = 0; i < kM * kK; ++i) a[i] = static_cast<T>(static_cast<float>(i * 7 % 11 - 5));
  for (int64_t i = 0; i < kK * kN; ++i) b[i] = static_cast<T>(static_cast<float>(i * 5 % 13 - 6));
  for (int64_t k = 0; k < kK; ++k) {
    for (int64_t n = 0; n < kN; ++n) packed[pairs ? k / 2 * 2 * kN + 2 * n + k % 2 : k * kN + n] = b[k * kN + n];
  }
  try {
    for (const bool accumulate : {false, true}) {
      multiply<T>(kM, kN, kK, a.data(), kK, packed.data(), kN, c.data(), kN, accumulate, pairs);
    }
    found_release()(pairs);
  } catch (const std::exception&) {
    return false;
  }
  for (int64_t m = 0; m < kM; ++m) {
    for (int64_t n = 0; n < kN; ++n) {
      float sum = 0;
      for (int64_t k = 0; k < kK; ++k) sum += static_cast<float>(a[m * kK + k]) * static_cast<float>(b[k * kN + n]);
      if (c[m * kN + n] != 2 * sum) return false;
    }
  }
  return true;
}

class Brgemm final : public engine::MicroGemm {
 public:
  Brgemm() : float32_(matches<float>(false)), bfloat16_(matches<BFloat16>(true)), float16_(matches<Half>(true)) {}

  const char* name() const override { return "brgemm"; }
  bool takes(DType t) const override {
    return t == DType::kFloat32 ? float32_ : t == DType::kBFloat16 ? bfloat16_ : t == DType::kFloat16 && float16_;
  }
  bool wants_pairs(DType t) const override { return t != DType::kFloat32; }
  void run(DType t, int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb, float* c,
           int64_t ldc, bool accumulate) const override {
    if (t == DType::kFloat32) {
      multiply<float>(m, n, k, a, lda, b, ldb, c, ldc, accumulate, false);
    } else if (t == DType::kBFloat16) {
      multiply<BFloat16>(m, n, k, a, lda, b, ldb, c, ldc, accumulate, true);
    } else {
      multiply<Half>(m, n, k, a, lda, b, ldb, c, ldc, accumulate, true);
    }
  }
  void release() const override { found_release()(true); }

 private:
  bool float32_;
  bool bfloat16_;
  bool float16_;
};

}  // namespace

const engine::MicroGemm* brgemm() {
  static const Brgemm instance;
  return instance.takes(DType::kFloat32) ? &instance : nullptr;
}

}  // namespace longstride::op
