// A decoding step costs what the pattern shows, however many keys there are: counted in the pages of k, v and scratch
// that are touched. What planning it costs: plan/work/work_test.cc.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "test/engine/address_space.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

constexpr int64_t kDim = 64;
constexpr int64_t kKeyBytes = kDim * 4;
// The last query sees 512 keys in a row, every 8th of 8192 and every 4096th of 262144.
const Pattern kPattern =
    Pattern::dilated({512, 8192, 1 << 18}, {1, 8, 4096}, {.causal = true, .offsets = std::vector<int64_t>{0, 7, 4095}});

Extent step(int64_t len) { return {.len_q = 1, .len_k = len, .query_start = len - 1}; }

engine::ForwardProblem problem(int64_t len, const AddressSpace& k, const AddressSpace& v, const AddressSpace& rest) {
  engine::ForwardProblem p;
  p.batch = p.heads = p.kv_heads = p.len_q = 1;
  p.len_k = len;
  p.dim = kDim;
  p.query_start = len - 1;
  p.q = {rest.at(0), 0, kDim, 0};
  p.k = {k.at(0), 0, kDim, 0};
  p.v = {v.at(0), 0, kDim, 0};
  p.out = {rest.at(4096), 0, kDim, 0};
  p.lse = rest.at(8192);
  return p;
}

// Pages of k that hold keys which the last query sees.
int64_t pages_shown(int64_t len) {
  std::set<int64_t> pages;
  const auto add = [&](int64_t first, int64_t stride) {
    for (int64_t i = first; i < len; i += stride) pages.insert(i * kKeyBytes / sysconf(_SC_PAGESIZE));
  };
  add(len - 512, 1);
  add(len - 8192 + 7, 8);
  add(len - (1 << 18) + 4095, 4096);
  return static_cast<int64_t>(pages.size());
}

TEST(Decode, TouchesOnlyWhatThePatternShows) {
  for (const Engine& engine : {reference_engine(), cpu_engine()}) {
    std::vector<int64_t> touched;
    for (const int64_t len : {int64_t{1} << 19, int64_t{1} << 23}) {
      const Plan plan = compile(kPattern, step(len), engine::cpu::geometry(core::DType::kFloat32, kDim, true, {}));
      const AddressSpace k(len * kKeyBytes), v(len * kKeyBytes), rest(1 << 14);
      engine.forward(problem(len, k, v, rest), plan.view(), {});
      EXPECT_EQ(k.touched_pages(), v.touched_pages()) << engine.name;
      // The CPU engine packs whole blocks of a line of keys, so it may read some that no query sees.
      EXPECT_GE(k.touched_pages(), pages_shown(len)) << engine.name;
      EXPECT_LE(k.touched_pages(), 2 * pages_shown(len)) << engine.name << " of " << len << " keys";
      touched.push_back(k.touched_pages());
    }
    EXPECT_EQ(touched[0], touched[1]) << engine.name << ": sixteen times the keys, and more pages";
  }
}

// What stands before the window and behind the sinks is not read: a cache could drop it.
TEST(Decode, ReadsAWindowAndItsSinks) {
  constexpr int64_t kLeft = 1023, kSinks = 64;
  const Pattern window = Pattern::block_sparse({{1, SlidingWindow{.left = kLeft, .sink_tokens = kSinks}}}, true);
  for (const Engine& engine : {reference_engine(), cpu_engine()}) {
    for (const int64_t len : {int64_t{1} << 19, int64_t{1} << 23}) {
      const Plan plan = compile(window, step(len), engine::cpu::geometry(core::DType::kFloat32, kDim, true, {}));
      const AddressSpace k(len * kKeyBytes), v(len * kKeyBytes), rest(1 << 14);
      engine.forward(problem(len, k, v, rest), plan.view(), {});
      const int64_t shown = (kLeft + 1 + kSinks) * kKeyBytes / sysconf(_SC_PAGESIZE);
      EXPECT_GE(k.touched_pages(), shown) << engine.name << len;
      // The CPU engine packs whole blocks of 64 keys, of the window and of the sinks.
      EXPECT_LE(k.touched_pages(), shown + 2 * 64 * kKeyBytes / sysconf(_SC_PAGESIZE)) << engine.name << len;
      EXPECT_EQ(v.touched_pages(), k.touched_pages()) << engine.name << len;
    }
  }
}

// The scratch that a step writes, lent by the workspace from address space of which only touched pages exist.
struct CountedScratch {
  std::vector<std::unique_ptr<AddressSpace>> lent;
  int64_t allocations = 0;

  engine::Workspace workspace() {
    engine::Workspace workspace;
    workspace.allocate = [this](size_t bytes) -> void* {
      ++allocations;
      lent.push_back(std::make_unique<AddressSpace>(static_cast<int64_t>(bytes)));
      return lent.back()->at(0);
    };
    workspace.free = [](void*) {};  // kept, to be counted
    return workspace;
  }
  int64_t touched_pages() const {
    int64_t pages = 0;
    for (const auto& space : lent) pages += space->touched_pages();
    return pages;
  }
};

// What grew with the keys would write sixteen times as much.
TEST(Decode, WritesNoMoreScratchForSixteenTimesTheKeys) {
  std::vector<int64_t> allocations, pages;
  for (const int64_t len : {int64_t{1} << 19, int64_t{1} << 23}) {
    const Plan plan = compile(kPattern, step(len), engine::cpu::geometry(core::DType::kFloat32, kDim, true, {}));
    const AddressSpace k(len * kKeyBytes), v(len * kKeyBytes), rest(1 << 14);
    CountedScratch scratch;
    cpu_engine().forward(problem(len, k, v, rest), plan.view(), scratch.workspace());
    allocations.push_back(scratch.allocations);
    pages.push_back(scratch.touched_pages());
  }
  EXPECT_GT(pages[0], 0);
  EXPECT_EQ(allocations[0], allocations[1]);
  // Packed keys stand further apart where there are more between them, and so on a few pages more.
  EXPECT_LE(pages[1], pages[0] + pages[0] / 4);
}

// Every key is read once, and no copy of them is kept: the scratch is a few blocks, of each thread.
TEST(Decode, KeepsNoCopyOfTheKeysThatItReads) {
  constexpr int64_t kLen = 1 << 17;
  const Pattern all = Pattern::dilated({kLen}, {1}, {.causal = true});
  const Plan plan = compile(all, step(kLen), engine::cpu::geometry(core::DType::kFloat32, kDim, true, {}));
  const AddressSpace k(kLen * kKeyBytes), v(kLen * kKeyBytes), rest(1 << 14);
  CountedScratch scratch;
  cpu_engine().forward(problem(kLen, k, v, rest), plan.view(), scratch.workspace());
  EXPECT_EQ(k.touched_pages(), kLen * kKeyBytes / sysconf(_SC_PAGESIZE));
  EXPECT_GT(scratch.touched_pages(), 0);
  EXPECT_LT(scratch.touched_pages(), k.touched_pages() / 50);
}

}  // namespace
}  // namespace longstride::test
