// The peers of bench (peer/peers.h) on a pattern: which of them can run it, and running it. Called by bench_case.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "longstride/pattern.h"
#include "peer/peers.h"

namespace longstride::cli {

// Why `who` ("official" or "per_group"; others run everything) cannot run this pattern at this length; empty: it can.
// They need dilated groups alone, joint mixing, masked padding, and what peer::refusal says; official also as many KV
// heads as heads and the offset rule modulo or block.
std::string peer_refusal(const std::string& who, const Pattern& pattern, int64_t len, int64_t heads, int64_t kv_heads);

// Throws Error with peer_refusal().
peer::PeerResult run_peer(const std::string& who, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const Pattern& pattern);

}  // namespace longstride::cli
