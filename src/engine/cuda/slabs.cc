#include "engine/cuda/slabs.h"

#include <utility>

namespace longstride::engine::cuda {

Slabs::All::iterator Slabs::open(size_t bytes) {
  return slabs_.emplace(static_cast<char*>(source_.take(bytes)), Slab{.bytes = bytes}).first;
}

void Slabs::close(All::iterator slab) {
  source_.give_back(slab->first);
  slabs_.erase(slab);
}

void* Slabs::cut(int device, size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(mutex_);
  All::iterator slab;
  if (rounded > kLargestPiece) {
    slab = open(rounded);
  } else {
    const auto current = current_.find(device);
    if (current != current_.end() && current->second->second.used + rounded <= kSlabBytes) {
      slab = current->second;
    } else {
      slab = open(kSlabBytes);
      if (current == current_.end()) {
        current_.emplace(device, slab);
      } else {
        const auto full = std::exchange(current->second, slab);
        if (full->second.pieces == 0) close(full);
      }
    }
  }
  void* const piece = slab->first + slab->second.used;
  slab->second.used += rounded;
  ++slab->second.pieces;
  return piece;
}

void Slabs::release(void* piece) {
  if (piece == nullptr) return;
  const std::lock_guard lock(mutex_);
  const auto slab = slabs_.lower_bound(static_cast<char*>(piece));  // the last that begins at or before it
  if (--slab->second.pieces > 0) return;
  for (const auto& [device, current] : current_)
    if (current == slab) return;
  close(slab);
}

}  // namespace longstride::engine::cuda
