// What the host keeps of devices from call to call, without a GPU: numbers by device, slabs of memory.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "engine/cuda/per_device.h"
#include "engine/cuda/shared_bytes.h"
#include "engine/cuda/slabs.h"

namespace longstride::test {
namespace {

using engine::cuda::PerDevice;
using engine::cuda::Slabs;

TEST(PerDeviceNumbers, AreMadeOnceADevice) {
  PerDevice table, other;
  std::vector<int> asked;
  const auto make = [&](int device) {
    return [&asked, device] {
      asked.push_back(device);
      return 100 + device;
    };
  };
  for (int round = 0; round < 3; ++round)
    for (const int device : {0, 1, 63}) EXPECT_EQ(table.of(device, make(device)), 100 + device);
  EXPECT_EQ(asked, (std::vector<int>{0, 1, 63}));
  EXPECT_EQ(other.of(1, [] { return 7; }), 7);
  EXPECT_EQ(table.of(1, make(1)), 101);
}

TEST(PerDeviceNumbers, AFailureIsNotKept) {
  PerDevice table;
  EXPECT_THROW(table.of(2, []() -> int32_t { throw std::runtime_error("no such device"); }), std::runtime_error);
  EXPECT_EQ(table.of(2, [] { return 5; }), 5);
}

TEST(PerDeviceNumbers, DevicesBeyondTheTableAreAskedEachTime) {
  PerDevice table;
  int asked = 0;
  for (int n = 0; n < 2; ++n)
    for (const int device : {-1, PerDevice::kMostDevices}) EXPECT_EQ(table.of(device, [&] { return ++asked; }), asked);
  EXPECT_EQ(asked, 4);
}

void one_kernel() {}
void another_kernel() {}

TEST(SharedBytes, AreAllowedKernelByKernel) {
  using engine::cuda::allowed_shared_bytes;
  allowed_shared_bytes<one_kernel>().of(0, [] { return 1000; });
  EXPECT_EQ(allowed_shared_bytes<another_kernel>().of(0, [] { return 2000; }), 2000);
  EXPECT_EQ(allowed_shared_bytes<one_kernel>().of(0, [] { return 3000; }), 1000);
  EXPECT_EQ(allowed_shared_bytes<one_kernel>().of(1, [] { return 4000; }), 4000);
}

// Host memory for a device's; takes are refused while `full`.
class SlabsTest : public testing::Test {
 protected:
  std::map<char*, std::vector<char>> held;  // by where they begin
  int taken = 0, given_back = 0;
  bool full = false;
  Slabs slabs{{[this](size_t bytes) -> void* {
                 if (full) throw std::bad_alloc();
                 ++taken;
                 std::vector<char> memory(bytes + Slabs::kAlignment);
                 const auto at = reinterpret_cast<uintptr_t>(memory.data());
                 char* const begin = memory.data() + (Slabs::kAlignment - at % Slabs::kAlignment);
                 held.emplace(begin, std::move(memory));
                 return begin;
               },
               [this](void* memory) {
                 ++given_back;
                 EXPECT_EQ(held.erase(static_cast<char*>(memory)), 1U);
               }}};
};

// While any is there, no byte is another's: also none that was released, which a kernel may still read.
TEST_F(SlabsTest, PiecesAreApart) {
  std::mt19937_64 random(1);
  std::map<char*, size_t> pieces;  // live ones
  std::set<char*> ever;
  for (int n = 0; n < 4000; ++n) {
    const size_t bytes = 1 + random() % (n % 50 == 0 ? 2 * Slabs::kLargestPiece : 8000);
    auto* const piece = static_cast<char*>(slabs.cut(static_cast<int>(random() % 2), bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece) % Slabs::kAlignment, 0U);
    const auto after = pieces.lower_bound(piece);
    if (after != pieces.end()) {
      ASSERT_LE(piece + bytes, after->first);
    }
    if (after != pieces.begin()) {
      ASSERT_LE(std::prev(after)->first + std::prev(after)->second, piece);
    }
    pieces.emplace(piece, bytes);
    if (random() % 2 == 0) {
      const auto gone = std::next(pieces.begin(), static_cast<long>(random() % pieces.size()));
      slabs.release(gone->first);
      pieces.erase(gone);
    }
  }
  for (const auto& [piece, bytes] : pieces) slabs.release(piece);
  EXPECT_EQ(held.size(), 2U);  // those that are being cut, one a device
}

TEST_F(SlabsTest, WhatWasReleasedIsNotCutAgain) {
  std::set<void*> pieces;
  for (size_t n = 0; n < Slabs::kSlabBytes / Slabs::kAlignment; ++n) {
    void* const piece = slabs.cut(0, 1);
    EXPECT_TRUE(pieces.insert(piece).second);
    slabs.release(piece);
  }
  EXPECT_EQ(taken, 1);
  EXPECT_EQ(given_back, 0);
  slabs.release(slabs.cut(0, 1));
  EXPECT_EQ(taken, 2);
  EXPECT_EQ(given_back, 1);
}

TEST_F(SlabsTest, ASlabStaysWithItsLastPiece) {
  void* const kept = slabs.cut(0, 1);
  for (int n = 0; n < 2; ++n)
    for (size_t cut = 0; cut < Slabs::kSlabBytes / Slabs::kLargestPiece; ++cut)
      slabs.release(slabs.cut(0, Slabs::kLargestPiece));
  EXPECT_EQ(taken, 3);
  EXPECT_EQ(given_back, 1);
  slabs.release(kept);
  EXPECT_EQ(given_back, 2);
}

TEST_F(SlabsTest, DevicesHaveSlabsOfTheirOwn) {
  auto* const first = static_cast<char*>(slabs.cut(0, 1));
  slabs.cut(1, 1);
  EXPECT_EQ(taken, 2);
  EXPECT_EQ(slabs.cut(0, 1), first + Slabs::kAlignment);
}

TEST_F(SlabsTest, LargePiecesHaveMemoryOfTheirOwn) {
  auto* const small = static_cast<char*>(slabs.cut(0, 1));
  void* const large = slabs.cut(0, Slabs::kLargestPiece + 1);
  EXPECT_EQ(taken, 2);
  slabs.release(large);
  EXPECT_EQ(given_back, 1);
  EXPECT_EQ(slabs.cut(0, 1), small + Slabs::kAlignment);
}

TEST_F(SlabsTest, WhereThereIsNoMemoryAllStaysAsItWas) {
  auto* const first = static_cast<char*>(slabs.cut(0, 1));
  full = true;
  EXPECT_THROW(slabs.cut(0, Slabs::kLargestPiece + 1), std::bad_alloc);
  EXPECT_THROW(slabs.cut(1, 1), std::bad_alloc);
  EXPECT_EQ(slabs.cut(0, 1), first + Slabs::kAlignment);
  full = false;
  slabs.release(first);
  EXPECT_EQ(given_back, 0);
}

}  // namespace
}  // namespace longstride::test
