// 2^x as the multi-function unit gives it: one instruction, where exp2f() spends three more on results below 2^-126,
// which count as 0 here. -inf gives 0, NaN stays NaN.
#pragma once

namespace longstride::engine::cuda::sm90 {

__device__ __forceinline__ float exp2_unit(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace longstride::engine::cuda::sm90
