// What a backward of tiles begins with: rows made ready (lse, delta), and P and dS of one block of pairs.
#pragma once

#include <cmath>

#include "engine/cuda/tile/alibi.cuh"
#include "engine/cuda/tile/dropout.cuh"
#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda {

// Below this |lse| an exponent of a result of 16 bits is one multiply-add: what that rounds off moves a probability by
// 2^-15 of itself.
constexpr float kMostRoundedLse = 256;

// (lse, +inf where nothing is seen so that exp(score - lse) = 0; dO . O - d_lse), kRowLanes threads a row, 16 bytes at
// a time where addresses allow. `exact`, 0 before, becomes 1 if some lse is large.
constexpr int kPreparedThreads = 256, kRowLanes = 8, kPreparedRows = kPreparedThreads / kRowLanes;
template <class Element>
__global__ void __launch_bounds__(kPreparedThreads)
    prepare_rows_kernel(const Values p, Input forward_out, const float* lse, const float* d_lse, int64_t count,
                        float2* to, int32_t* exact) {
  constexpr int kPiece = 16 / sizeof(Element);
  const int64_t row = int64_t(blockIdx.x) * kPreparedRows + threadIdx.x / kRowLanes;
  float sum = 0;
  if (row < count) {
    const int64_t i = row % p.len_q, h = row / p.len_q % p.heads, b = row / p.len_q / p.heads;
    const Element* out = forward_out.head<const Element>(b, h) + i * forward_out.len_stride;
    const Element* d_out = p.d_out.head<const Element>(b, h) + i * p.d_out.len_stride;
    if (forward_out.wide && p.d_out.wide) {
#pragma unroll 2
      for (int x = threadIdx.x % kRowLanes * kPiece; x < p.dim; x += kRowLanes * kPiece) {
        const uint4 bits[2] = {*reinterpret_cast<const uint4*>(out + x), *reinterpret_cast<const uint4*>(d_out + x)};
        const auto* const o = reinterpret_cast<const Element*>(bits);
#pragma unroll
        for (int n = 0; n < kPiece; ++n) sum = fmaf(float(o[n]), float(o[kPiece + n]), sum);
      }
    } else {
      for (int x = threadIdx.x % kRowLanes; x < p.dim; x += kRowLanes) sum = fmaf(float(out[x]), float(d_out[x]), sum);
    }
  }
#pragma unroll
  for (int step = kRowLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (row >= count || threadIdx.x % kRowLanes) return;
  to[row] = make_float2(lse[row] == -INFINITY ? INFINITY : lse[row], sum - (d_lse ? d_lse[row] : 0.f));
  if (fabsf(lse[row]) >= kMostRoundedLse && lse[row] != -INFINITY) *exact = 1;
}

// P and dS of one block, in place of scores and dP: `info` gives a query's (lse, delta), positions count for dropout.
// `exact`: some lse may be large. Pairs that are none become 0, whatever stood there. kExtras: with dropout or ALiBi.
template <class Shape, bool kExtras = true, class Scores, class Places, class Info>
__device__ __forceinline__ void differentiate(const Values& p, const ColumnBlock& b, const TilePlace& place, int row0,
                                              int head, bool transposed, bool exact, const Info& info, const Places& of,
                                              Scores& scores, Scores& dp) {
  if constexpr (kExtras) adjust_scores(p, head, row0, b.column0, place.stride, of, scores);
  const float weight = weight_log2(b), gain = p.out_scale * (kExtras ? p.dropout.gain : 1.f);
  constexpr int kCount = decltype(cute::size(scores))::value;
  uint32_t kept[(kCount + 31) / 32];
  if (kExtras && p.dropout.seed) {
    const DropoutSalts salts = dropout_salts(p.dropout, p.dropout.stream(place.batch, head));
#pragma unroll
    for (int first = 0; first < kCount; first += 32)
      kept[first / 32] = kept_pairs(p.dropout, salts, transposed, row0, b.column0, place.stride, of, first);
#pragma unroll
    for (int i = 0; i < kCount; ++i) dp(i) = kept[i / 32] >> i % 32 & 1 ? dp(i) : 0.f;
  }
  const auto finish = [&](const auto& exponent) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float2 query = info(cute::get<0>(of(i)), cute::get<1>(of(i)));
      scores(i) = exp2_unit(exponent(scores(i), query.x));
      dp(i) = scores(i) * (dp(i) * gain - query.y);
    }
  };
  constexpr bool kFull = std::is_same_v<typename Shape::Element, float>;
  if (kFull || exact) {
    finish([&](float score, float lse) { return exponent_below<kFull>(score, p.scale, lse, weight); });
  } else {
    const float scale_log2 = copysignf(p.scale_log2, p.scale);
    finish([&](float score, float lse) { return fmaf(score, scale_log2, fmaf(lse, -kLog2E, weight)); });
  }
  if (kExtras && p.dropout.seed) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) scores(i) = kept[i / 32] >> i % 32 & 1 ? scores(i) : 0.f;
  }
  if (!b.masked) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (!pair(b, cute::get<0>(of(i)), cute::get<1>(of(i)))) scores(i) = dp(i) = 0.f;
}

}  // namespace longstride::engine::cuda
