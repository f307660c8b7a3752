// Scratch memory of one call, through the caller's Workspace. Called by forward.cc and backward.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "engine/contract.h"

namespace longstride::engine::cpu {

// One allocation, given back at the end of its scope.
class Scratch {
 public:
  Scratch(const Workspace& workspace, int64_t size_bytes) : workspace_(workspace) {
    if (size_bytes <= 0) return;
    data_ = workspace.allocate ? workspace.allocate(static_cast<size_t>(size_bytes))
                               : ::operator new (static_cast<size_t>(size_bytes), std::align_val_t{64});
  }
  ~Scratch() {
    if (!data_) return;
    if (workspace_.free) {
      workspace_.free(data_);
    } else if (!workspace_.allocate) {
      ::operator delete (data_, std::align_val_t{64});
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  const Workspace& workspace_;
  void* data_ = nullptr;
};

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
