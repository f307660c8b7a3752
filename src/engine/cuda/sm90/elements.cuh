// The kernels' element type for each of the engine's, and how many of them make one of the engine's.
#pragma once

#include <cutlass/numeric_types.h>

#include <type_traits>

#include "core/half.h"

namespace longstride::engine::cuda::sm90 {

template <class Tag>
using ElementOf = std::conditional_t<std::is_same_v<Tag, core::Float16>, cutlass::half_t, cutlass::bfloat16_t>;
template <class Tag>
constexpr int kPartsOf = std::is_same_v<Tag, float> ? 3 : 1;

}  // namespace longstride::engine::cuda::sm90
