// The kernels' element type for each of the engine's.
#pragma once

#include <cutlass/numeric_types.h>

#include <type_traits>

#include "core/half.h"

namespace longstride::engine::cuda::sm90 {

template <class Tag>
using ElementOf = std::conditional_t<std::is_same_v<Tag, core::BFloat16>, cutlass::bfloat16_t, cutlass::half_t>;

}  // namespace longstride::engine::cuda::sm90
