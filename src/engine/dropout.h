// What the engines of the host drop in a problem.
#pragma once

#include "core/dropout.h"
#include "engine/contract.h"

namespace longstride::engine {

// Nothing, if it does not drop.
inline core::Dropout dropout_of(const Problem& p) {
  if (!p.drops()) return {};
  return {p.dropout_p, *p.dropout_seed, p.heads_of_all(), p.first_head};
}

}  // namespace longstride::engine
