// Positions of queries and keys. ALiBi (Press et al. 2022) takes a slope times the distance off scores; it has no
// parameters, and leaves queries and keys as they are. RoPE (Su et al. 2021) and xPos (Sun et al. 2022) turn them, by
// values computed once a call.
// Pair c of a head (elements 2c and 2c+1) is one complex number; it is turned by n * base^(-2c/dim) at position n. xPos
// also scales it, queries by zeta_c^(n / scale_base) and keys by the inverse, zeta_c = (2c/dim + 0.4) / 1.4.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "longstride/error.h"

namespace longstride {

enum class Positions { kNone, kRope, kXpos, kAlibi };

Positions positions_from_name(
    const std::string& name);  // "none" | "rope" | "xpos" | "alibi"; throws Error with the nearest
const char* name(Positions);
// Whether they turn queries and keys, pair by pair.
bool are_rotary(Positions);

struct PositionOptions {
  Positions kind = Positions::kNone;
  double base = 10000.0;             // of the angles; > 1
  double xpos_scale_base = 0;        // in tokens; 0: max(512, max_len / 32)
  int64_t max_len = 1 << 20;         // in tokens; what xpos_scale_base is derived from
  std::vector<double> alibi_slopes;  // of kAlibi, finite, one for each query head; empty: the paper's

  double scale_base() const;                           // xpos_scale_base, or its default
  at::Tensor slopes(int64_t heads, at::Device) const;  // float32 [heads]: alibi_slopes, or the paper's
  void validate() const;                               // throws Error
  bool operator==(const PositionOptions&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("positions", self.kind);
    visit("rope_base", self.base);
    visit("xpos_scale_base", self.xpos_scale_base);
    visit("max_len", self.max_len);
    visit("alibi_slopes", self.alibi_slopes);
  }
};

// The slopes of ALiBi for so many heads, float32 [heads] on `device`, by the paper's rule: 2^(-8 h / heads) for head
// h = 1, 2, ... where heads is a power of 2; else those of the next lower power of 2, and of the next higher one every
// other, from the first, until there are enough. Throws Error unless heads is positive.
at::Tensor alibi_slopes(int64_t heads, at::Device device = at::kCPU);

// The factors of `len` consecutive positions. Undefined tensors: positions turn nothing.
struct RotaryFactors {
  at::Tensor q;  // [len, 1, dim/2] complex: complex64 for dtypes up to float32, complex128 for float64
  at::Tensor k;  // the same tensor as q for RoPE
  bool defined() const { return q.defined(); }
};

// Factors of positions [position0, position0 + len) for heads of `dim` elements of type `dtype`. Angles are computed in
// float64, so that they are right at a million tokens. Throws Error if dim is odd, or if xPos would leave the range of
// the dtype: 1.81 * (position0 + len) / scale_base must not exceed 60 (float16: 12), for 2^1.81 = 1.4 / 0.4 is the
// largest factor a token; the error names the scale_base that works.
RotaryFactors rotary_factors(const PositionOptions& options, int64_t position0, int64_t len, int64_t dim,
                             at::ScalarType dtype, at::Device device);

// The same for positions that need not be consecutive: int64 [rows], each in [0, len), of a sequence of `len` tokens,
// by which the range of xPos goes; on their device. What a rank has whose shard is not the whole (shard_positions() of
// parallel.h).
RotaryFactors rotary_factors(const PositionOptions& options, const at::Tensor& positions, int64_t len, int64_t dim,
                             at::ScalarType dtype);

// x [batch, len, heads, dim] times factors [len, 1, dim/2], pair by pair, in float32 at least; dtype of x.
// Differentiable in x.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& factors);

}  // namespace longstride
