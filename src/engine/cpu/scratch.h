// The arrays of one call in scratch memory. Called by forward.cc and backward.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/contract.h"

namespace longstride::engine::cpu {

// Cuts an allocation into aligned arrays. With a null base it only measures.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* at = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    // Whole cache lines, so that two threads' arrays share none.
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return at;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

template <class Carve>
int64_t carved_bytes(const Carve& carve) {
  Carver carver(nullptr);
  carve(carver);
  return carver.used();
}

// Memory of `count` copies of what carve(Carver&) lays out; they are appended to `copies`.
class Copies {
 public:
  template <class Layout, class Carve>
  Copies(const Workspace& w, int count, const Carve& carve, std::vector<Layout>& copies)
      : memory_(w, count * carved_bytes(carve)) {
    for (int i = 0; i < count; ++i) {
      Carver carver(memory_.data() + i * carved_bytes(carve));
      copies.push_back(carve(carver));
    }
  }

 private:
  Scratch memory_;
};

}  // namespace longstride::engine::cpu
