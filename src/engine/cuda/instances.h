// Picks the instance of a launch that a problem runs on, among those of the engines' files *.cu: one that none of them
// has does not link.
#pragma once

#include "core/dtype.h"
#include "core/half.h"
#include "longstride/error.h"

namespace longstride::engine::cuda {

template <class Element>
constexpr core::DType kDTypeOf = core::DType::kFloat32;
template <>
inline constexpr core::DType kDTypeOf<core::BFloat16> = core::DType::kBFloat16;
template <>
inline constexpr core::DType kDTypeOf<core::Float16> = core::DType::kFloat16;

// call.operator()<Element>() for the one of this dtype.
template <class... Elements, class Call>
void at_element(core::DType dtype, const Call& call) {
  if (!((dtype == kDTypeOf<Elements> && (call.template operator()<Elements>(), true)) || ...))
    throw Error("no kernel of this dtype, though capability() took it");
}

// call.operator()<kDim>() for the first, and so the least, of kDims that has room for dim.
template <int... kDims, class Call>
void at_dim(int64_t dim, const Call& call) {
  if (!((dim <= kDims && (call.template operator()<kDims>(), true)) || ...))
    throw Error("no kernel of this dim, though capability() took it");
}

}  // namespace longstride::engine::cuda
