// What only some calls ask of the kernels, dropout, ALiBi and float32 results: the types that a kernel may be built
// with, and the values of a launch.
#pragma once

#include <cmath>
#include <cstdint>

#include "engine/contract.h"
#include "engine/cuda/device_plan.h"

namespace longstride::engine::cuda {

struct Plain {  // none
  static constexpr bool kDrops = false, kAlibi = false, kFloat32Results = false;
};
struct WithDropout {
  static constexpr bool kDrops = true, kAlibi = false, kFloat32Results = false;
};
// Whichever the values say. Float32 results in the plain kernels too took 2 to 4 % of the causal forward.
struct Extras {
  static constexpr bool kDrops = true, kAlibi = true, kFloat32Results = true;
};

struct DropoutValues {
  const int64_t* seed = nullptr;  // on the device
  uint32_t threshold = 0;         // a pair is kept iff its draw is not below
  float gain = 1;                 // 1 / (1 - p)
  uint32_t heads = 0;             // all of them, of which a launch may have a share
  uint32_t first_head = 0;        // of the launch among all

  // Whose draws the pairs of a batch row and query head of the launch take.
  constexpr uint32_t stream(uint32_t batch, uint32_t head) const { return batch * heads + first_head + head; }
};

struct AlibiValues {
  const float* slopes = nullptr;  // [heads] on the device; null: no bias
  float scale = 1;                // of q . k
};

inline AlibiValues alibi_values(const Problem& p) {
  if (!p.alibi) return {};
  return {p.alibi_slopes, static_cast<float>(p.scale)};
}

inline DropoutValues dropout_values(const Problem& p) {
  if (p.dropout_p <= 0) return {};
  return {p.dropout_seed, static_cast<uint32_t>(std::floor(p.dropout_p * 4294967296.0)),
          static_cast<float>(1.0 / (1.0 - p.dropout_p)), static_cast<uint32_t>(p.heads_of_all()),
          static_cast<uint32_t>(p.first_head)};
}

// A part of what every kernel is given: an option of calls that scores or probabilities depend on stands here, and not
// in the values of each kernel.
struct CallValues {
  DropoutValues dropout;
  AlibiValues alibi;
  LONGSTRIDE_DEVICE bool adjusts_scores() const { return alibi.slopes != nullptr; }  // the kernel, which then scales
};
inline bool adjusts_scores(const Problem& p) { return p.alibi; }
inline CallValues call_values(const Problem& p) { return {dropout_values(p), alibi_values(p)}; }

}  // namespace longstride::engine::cuda
