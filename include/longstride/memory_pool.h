// Memory that is used again and again: blocks are leased, and what comes back is kept for the next lease of its size
// instead of going to the system, which would have to map and clear it anew. Torch-free.
//
//   UnifiedMemoryPool pool;
//   {
//     UnifiedMemoryPool::Lease scratch = pool.lease(size_bytes);  // 64-byte aligned, contents unspecified
//     use(scratch.data());
//   }                                                             // back in the pool
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

namespace longstride {

// Thread-safe. Two live leases never share a byte. Under AddressSanitizer a block may not be touched while it lies in
// the pool, nor beyond the size that was asked for.
class UnifiedMemoryPool {
 public:
  static constexpr int64_t kAlignmentBytes = 64;

  struct Options {
    // How much idle memory is kept; beyond it the blocks that were given back first go to the system.
    int64_t most_cached_bytes = int64_t{256} << 20;
    // How much may be leased at a time; a lease beyond it is refused. No limit by default.
    int64_t most_live_bytes = std::numeric_limits<int64_t>::max();
  };

  // Bytes are those of whole blocks: a size is rounded up by a quarter at most (to 64 bytes at least).
  struct Statistics {
    int64_t live_bytes = 0;    // leased now
    int64_t cached_bytes = 0;  // idle, to be leased again
    int64_t peak_bytes = 0;    // the most that both together have been
    int64_t live_leases = 0;
    int64_t hits = 0;    // leases of memory that was here
    int64_t misses = 0;  // leases for which the system was asked
  };

 private:
  class State;

 public:
  // A block while it is somebody's. It may outlive the pool.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&& other) noexcept;
    ~Lease();
    void* data() const { return data_; }                // null if empty
    int64_t size_bytes() const { return size_bytes_; }  // as asked for
    void reset();                                       // gives the block back now

   private:
    friend class UnifiedMemoryPool;
    Lease(std::shared_ptr<State> state, void* data, int64_t size_bytes);
    std::shared_ptr<State> state_;
    void* data_ = nullptr;
    int64_t size_bytes_ = 0;
  };

  // Throws Error if a size of the options is not positive.
  explicit UnifiedMemoryPool(const Options& options);
  UnifiedMemoryPool() : UnifiedMemoryPool(Options{}) {}
  UnifiedMemoryPool(const UnifiedMemoryPool&) = delete;  // a copy would share what it must not
  UnifiedMemoryPool& operator=(const UnifiedMemoryPool&) = delete;
  // Idle memory goes back to the system; that of leases when they end.
  ~UnifiedMemoryPool();

  // size_bytes in [1, 2^60]. Throws Error if it is not or if most_live_bytes would be exceeded, std::bad_alloc if the
  // system has no more; the pool is then as before.
  Lease lease(int64_t size_bytes);

  // The same for callers that can hold a pointer only; free() takes what allocate() gave, and throws Error for any
  // other pointer. Null is let pass.
  void* allocate(int64_t size_bytes);
  void free(void* data);

  // Gives idle memory back to the system until at most keep_bytes (>= 0) are left.
  void trim(int64_t keep_bytes = 0);

  Statistics statistics() const;

 private:
  std::shared_ptr<State> state_;
};

// The pool from which attention on LibTorch takes results and scratch of more than 32 MiB on the CPU. It keeps at most
// 256 MiB idle; trim() gives that back.
UnifiedMemoryPool& process_memory_pool();

}  // namespace longstride
