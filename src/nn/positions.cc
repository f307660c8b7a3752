// ALiBi's slopes; RoPE and xPos factors and their application. Called by MultiheadDilatedAttention and LongNetLM.
#include "longstride/nn/positions.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>

#include "nn/require.h"

namespace longstride {
namespace {

// log2(1.4 / 0.4): what xPos scales the first pair by in scale_base tokens.
constexpr double kXposLog2 = 1.81;
// float32 and bfloat16 hold 2^127: at 2^60 the product of a query and a key still fits with room for the data. float16
// holds 2^16.
constexpr double kWideRangeLog2 = 60;
constexpr double kHalfRangeLog2 = 12;
// Rows of the float64 intermediates held at a time: 32 pairs of 16 bytes each make 32 MiB.
constexpr int64_t kChunkRows = 65536;

const std::array<std::string, 4> kNames = {"none", "rope", "xpos", "alibi"};

void check_xpos_range(const PositionOptions& options, int64_t end, at::ScalarType dtype) {
  const double limit = dtype == at::kHalf ? kHalfRangeLog2 : kWideRangeLog2;
  const double scale_base = options.scale_base();
  if (kXposLog2 * static_cast<double>(end) / scale_base <= limit) return;
  const auto works = static_cast<int64_t>(std::ceil(kXposLog2 * static_cast<double>(end) / limit));
  core::refuse("len", fmt::format("must satisfy 1.81 * len / xpos_scale_base <= {} in {}", limit, c10::toString(dtype)),
               fmt::format("len {} with xpos_scale_base {}", end, scale_base),
               fmt::format("xpos_scale_base = {} works", works));
}

// The factors of `rows` rows of a sequence that ends at `end`, whose positions are `some`(begin, count), float64.
RotaryFactors factors_of(const PositionOptions& options, int64_t rows, int64_t end, int64_t dim, at::ScalarType dtype,
                         at::Device device, const std::function<at::Tensor(int64_t, int64_t)>& some) {
  options.validate();
  if (!at::isFloatingType(dtype)) core::refuse("dtype", "must be a floating-point type", c10::toString(dtype));
  if (dim <= 0 || dim % 2 != 0) {
    core::refuse("head dim", fmt::format("must be even for {} positions", name(options.kind)), dim,
                 "change the number of heads or use positions none");
  }
  const bool scaled = options.kind == Positions::kXpos;
  if (scaled) check_xpos_range(options, end, dtype);

  const at::NoGradGuard no_grad;
  const auto real = at::TensorOptions().dtype(at::kDouble).device(device);
  const auto complex = real.dtype(dtype == at::kDouble ? at::kComplexDouble : at::kComplexFloat);
  const int64_t pairs = dim / 2;
  const auto empty = [&] {
    return nn::within_memory("len x dim", fmt::format("{} x {}", rows, dim), [&] {
      return at::empty({rows, 1, pairs}, complex);
    });
  };
  RotaryFactors factors{empty(), {}};
  factors.k = scaled ? empty() : factors.q;
  if (rows == 0) return factors;
  const at::Tensor pair = at::arange(pairs, real);                                  // [dim/2]
  const at::Tensor frequency = at::pow(options.base, pair * (-2.0 / double(dim)));  // [dim/2]
  const at::Tensor log_zeta = at::log((pair * (2.0 / double(dim)) + 0.4) / 1.4);    // [dim/2]
  for (int64_t begin = 0; begin < rows; begin += kChunkRows) {
    const int64_t count = std::min(kChunkRows, rows - begin);
    const at::Tensor n = some(begin, count).view({count, 1, 1});
    const at::Tensor angle = n * frequency;  // [count, 1, dim/2]
    const at::Tensor exponent = scaled ? n * (log_zeta / options.scale_base()) : at::zeros_like(angle);
    factors.q.narrow(0, begin, count).copy_(at::polar(at::exp(exponent), angle));
    if (scaled) factors.k.narrow(0, begin, count).copy_(at::polar(at::exp(-exponent), angle));
  }
  return factors;
}

}  // namespace

Positions positions_from_name(const std::string& text) {
  const auto found = std::find(kNames.begin(), kNames.end(), text);
  if (found == kNames.end()) core::refuse_unknown("positions", text, kNames);
  return static_cast<Positions>(found - kNames.begin());
}

const char* name(Positions kind) {
  const auto index = static_cast<size_t>(kind);
  if (index >= kNames.size()) core::refuse("positions", "must be kNone, kRope, kXpos or kAlibi", index);
  return kNames[index].c_str();
}

bool are_rotary(Positions kind) { return kind == Positions::kRope || kind == Positions::kXpos; }

double PositionOptions::scale_base() const {
  return xpos_scale_base > 0 ? xpos_scale_base : std::max(512.0, static_cast<double>(max_len) / 32);
}

void PositionOptions::validate() const {
  (void)name(kind);
  if (!(base > 1) || !std::isfinite(base)) core::refuse("rope_base", "must be finite and above 1", base);
  if (!(xpos_scale_base >= 0) || !std::isfinite(xpos_scale_base)) {
    core::refuse("xpos_scale_base", "must be positive, or 0 for the default", xpos_scale_base);
  }
  nn::require_positive("max_len", max_len);
  if (kind != Positions::kAlibi && !alibi_slopes.empty()) {
    core::refuse("alibi_slopes", "must be empty without positions alibi",
                 fmt::format("{} slopes with positions {}", alibi_slopes.size(), name(kind)), "set positions to alibi");
  }
  for (size_t head = 0; head < alibi_slopes.size(); ++head) {
    if (!std::isfinite(alibi_slopes[head])) {
      core::refuse(fmt::format("alibi_slopes[{}]", head), "must be finite", alibi_slopes[head]);
    }
  }
}

at::Tensor PositionOptions::slopes(int64_t heads, at::Device device) const {
  if (alibi_slopes.empty()) return longstride::alibi_slopes(heads, device);
  return at::tensor(alibi_slopes, at::TensorOptions(at::kFloat)).to(device);
}

at::Tensor alibi_slopes(int64_t heads, at::Device device) {
  nn::require_positive("heads", heads);
  int64_t lower = 1;  // the greatest power of 2 that is not above
  while (lower <= heads / 2) lower *= 2;
  const auto slope = [](double h, int64_t of) {
    return static_cast<float>(std::exp2(-8 * h / static_cast<double>(of)));
  };
  const at::Tensor slopes = at::empty({heads}, at::kFloat);
  auto* const to = slopes.mutable_data_ptr<float>();
  for (int64_t h = 0; h < heads; ++h)
    to[h] = h < lower ? slope(static_cast<double>(h + 1), lower)
                      : slope(static_cast<double>(2 * (h - lower) + 1), 2 * lower);
  return slopes.to(device);
}

RotaryFactors rotary_factors(const PositionOptions& options, int64_t position0, int64_t len, int64_t dim,
                             at::ScalarType dtype, at::Device device) {
  if (!are_rotary(options.kind)) return {};
  if (position0 < 0) core::refuse("position0", "must not be negative", position0);
  if (len < 0) core::refuse("len", "must not be negative", len);
  if (position0 > std::numeric_limits<int64_t>::max() - len) {
    core::refuse("position0 + len", "must be below 2^63", fmt::format("{} + {}", position0, len));
  }
  return factors_of(options, len, position0 + len, dim, dtype, device, [&](int64_t begin, int64_t rows) {
    return at::arange(position0 + begin, position0 + begin + rows, at::TensorOptions(at::kDouble).device(device));
  });
}

RotaryFactors rotary_factors(const PositionOptions& options, const at::Tensor& positions, int64_t len, int64_t dim,
                             at::ScalarType dtype) {
  if (!are_rotary(options.kind)) return {};
  nn::require_readable("positions", positions);
  if (positions.dim() != 1 || positions.scalar_type() != at::kLong) {
    core::refuse("positions", "must be int64 [rows]",
                 fmt::format("{} {}", c10::toString(positions.scalar_type()), nn::shape_text(positions)));
  }
  const at::Tensor outside = positions.masked_select((positions < 0).logical_or(positions >= len));
  if (outside.size(0) > 0) {
    core::refuse("positions", fmt::format("must be in [0, len {})", len), outside[0].item<int64_t>());
  }
  return factors_of(options, positions.size(0), len, dim, dtype, positions.device(),
                    [&](int64_t begin, int64_t rows) { return positions.narrow(0, begin, rows).to(at::kDouble); });
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& factors) {
  nn::require_dense("x", x);
  nn::require_dense("factors", factors);
  if (x.dim() != 4) core::refuse("x", "must be [batch, len, heads, dim]", nn::shape_text(x));
  if (factors.dim() != 3 || factors.size(0) != x.size(1) || factors.size(1) != 1 || 2 * factors.size(2) != x.size(3)) {
    core::refuse("factors", "must be [len, 1, dim/2] of x " + nn::shape_text(x), nn::shape_text(factors));
  }
  if (!x.is_floating_point()) core::refuse("x", "must be a floating-point tensor", c10::toString(x.scalar_type()));
  if (!factors.is_complex()) {
    core::refuse("factors", "must be complex", c10::toString(factors.scalar_type()), "take them of rotary_factors()");
  }
  if (factors.device() != x.device()) {
    core::refuse("x and factors", "must be on one device",
                 fmt::format("{} and {}", x.device().str(), factors.device().str()));
  }
  if (x.numel() == 0) return x.clone();
  at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  // view_as_complex wants dim contiguous, and an even offset and every other stride even, also where a size of 1 makes
  // the stride mean nothing: a tensor that calls itself contiguous may still have to be copied.
  bool viewable = wide.stride(3) == 1 && wide.storage_offset() % 2 == 0;
  for (int64_t d = 0; d < 3; ++d) viewable = viewable && wide.stride(d) % 2 == 0;
  if (!viewable) wide = wide.clone(at::MemoryFormat::Contiguous);
  const at::Tensor rotated = at::view_as_complex(wide.unflatten(3, {x.size(3) / 2, 2})) * factors;
  return at::view_as_real(rotated).flatten(3).to(x.scalar_type());
}

}  // namespace longstride
