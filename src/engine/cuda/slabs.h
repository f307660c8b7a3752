// Small pieces of device memory cut from larger ones, since to take and give back device memory takes the host as long
// as several calls. What was cut once is not cut again: kernels on any stream may still read a piece that was released.
// A slab is given back as a whole, by a call that waits for them. Used by device_bytes.cc; knows no CUDA.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>

namespace longstride::engine::cuda {

class Slabs {
 public:
  struct Source {
    std::function<void*(size_t bytes)> take;  // on the current device; throws Error if there is none
    std::function<void(void*)> give_back;     // waits for what still reads it
  };
  explicit Slabs(Source source) : source_(std::move(source)) {}
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  // On this device, which is the current one, aligned to kAlignment. Throws what the source throws; then all is as it
  // was.
  void* cut(int device, size_t bytes);
  // A piece that cut() gave. Its slab goes with its last piece, unless more is still to be cut from it.
  void release(void* piece);

  // A decoding step's plan takes about 6 KiB, those of long sequences up to megabytes. A plan that stays keeps its
  // slab, so slabs are no larger than saves the time: one of 100 to 300 us in 150 plans.
  static constexpr size_t kSlabBytes = size_t{1} << 20;
  // More than this has memory of its own: at most so much of a slab is lost at its end.
  static constexpr size_t kLargestPiece = kSlabBytes / 8;
  static constexpr size_t kAlignment = 256;

 private:
  struct Slab {
    size_t bytes = 0;
    size_t used = 0;
    int pieces = 0;  // not yet released
  };
  using All = std::map<char*, Slab, std::greater<>>;  // by where they begin, last first

  All::iterator open(size_t bytes);
  void close(All::iterator);

  const Source source_;
  std::mutex mutex_;
  All slabs_;
  std::map<int, All::iterator> current_;  // of each device: from which pieces are cut
};

}  // namespace longstride::engine::cuda
