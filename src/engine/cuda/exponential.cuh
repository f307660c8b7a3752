// How scores become probabilities in the kernels. A score q . k stays as the product left it until the greatest of its
// row, or the row's lse, has been subtracted: what is large is taken away before a factor or a change of base rounds
// it. So a probability is as good at scores of 1e30 as at scores of 1.
#pragma once

namespace longstride::engine::cuda {

constexpr float kLog2E = 1.44269504088896340f;

// 2^x as the multi-function unit gives it: one instruction, where exp2f() spends three more on results below 2^-126,
// which count as 0 here. -inf gives 0, NaN stays NaN.
__device__ __forceinline__ float exp2_unit(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What an lse holds of the rounding of scale * score: below this, what was rounded off matters.
constexpr float kFineLse = 64;

// lse of a row, for a sum that is not 0. Where it is large the product is rounded by itself, as exponent_below() does.
__device__ __forceinline__ float row_lse(float greatest, float scale, float sum) {
  const float log_sum = logf(sum), fine = fmaf(greatest, scale, log_sum);
  return fabsf(fine) < kFineLse ? fine : __fmul_rn(greatest, scale) + log_sum;
}

// log2(weight * exp(scale * score - lse)). The product is rounded by itself, as the forward rounded the greatest one's
// for lse, so that they cancel. No probability is above 1; what says so is an lse too large to hold log(weight), or a
// score made by other instructions than the forward's (gates.cu). NaN stays NaN. kFull, for results of float32: at a
// small lse, what the product's rounding took is added again.
template <bool kFull>
__device__ __forceinline__ float exponent_below(float score, float scale, float lse, float weight_log2) {
  const float product = __fmul_rn(score, scale);
  float below = product - lse;
  if (kFull && fabsf(lse) < kFineLse) below += fmaf(score, scale, -product);
  const float exponent = fmaf(below, kLog2E, weight_log2);
  return exponent > 0.f ? 0.f : exponent;
}

}  // namespace longstride::engine::cuda
