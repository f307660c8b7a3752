// Address space of which only the touched pages exist. Called by the tests of offsets far out and of decoding.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace longstride::test {

class AddressSpace {
 public:
  explicit AddressSpace(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) throw std::runtime_error("no address space");
    // A huge page would be there as a whole for one byte. Kernels without them refuse, and need not be told.
    madvise(data_, bytes_, MADV_NOHUGEPAGE);
  }
  ~AddressSpace() { munmap(data_, bytes_); }
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  char* at(int64_t byte) const { return static_cast<char*>(data_) + byte; }

  // How many pages have been read or written.
  int64_t touched_pages() const {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> resident((bytes_ + page - 1) / page);
    if (mincore(data_, bytes_, resident.data()) != 0) throw std::runtime_error("mincore failed");
    return std::count_if(resident.begin(), resident.end(), [](unsigned char r) { return (r & 1) != 0; });
  }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace longstride::test
