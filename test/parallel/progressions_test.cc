// Intersections and differences of progressions against sets.
#include "parallel/progressions.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "test/engine/draw.h"

namespace longstride::parallel {
namespace {

std::multiset<int64_t> members(const std::vector<Progression>& all) {
  std::multiset<int64_t> positions;
  for (const Progression& p : all) {
    EXPECT_GT(p.count, 0);
    for (int64_t i = 0; i < p.count; ++i) positions.insert(p.first + i * p.step);
  }
  return positions;
}

Progression draw_progression(test::Draw& draw) {
  return {draw.below(60), 1 + draw.below(draw.one_of({1, 4, 12, 50})), draw.below(draw.one_of({2, 10, 40}))};
}

TEST(Progressions, WithAndWithoutAnother) {
  test::Draw draw(7);
  size_t cut = 0;
  for (int n = 0; n < 20000; ++n) {
    const Progression a = draw_progression(draw), b = draw_progression(draw);
    std::multiset<int64_t> expected, shared;
    for (int64_t i = 0; i < a.count; ++i) {
      (b.contains(a.first + i * a.step) ? shared : expected).insert(a.first + i * a.step);
    }
    const Progression both = common(a, b);
    ASSERT_EQ(shared, both.count > 0 ? members({both}) : std::multiset<int64_t>());
    std::vector<Progression> got;
    append_without(a, b, got);
    ASSERT_EQ(expected, members(got)) << a.first << " + " << a.step << " x " << a.count << " without " << b.first
                                      << " + " << b.step << " x " << b.count;
    cut += got.size() > 2;
    const auto residues = static_cast<size_t>(b.step / std::gcd(a.step, b.step));
    ASSERT_LE(got.size(), 1 + std::min(residues, shared.size()));
  }
  EXPECT_GT(cut, 300u);
}

TEST(Progressions, OutsideIntervals) {
  test::Draw draw(8);
  for (int n = 0; n < 5000; ++n) {
    const Progression a = draw_progression(draw);
    std::vector<pattern::Interval> holes;
    for (int64_t at = draw.below(20); at < 200 && draw.below(8) > 0; at += 1 + draw.below(20)) {
      const int64_t end = at + draw.below(10);
      holes.push_back({at, end});
      at = end;
    }
    std::multiset<int64_t> expected;
    for (int64_t i = 0; i < a.count; ++i) {
      const int64_t x = a.first + i * a.step;
      bool outside = true;
      for (const pattern::Interval& h : holes) outside = outside && (x < h.begin || x >= h.end);
      if (outside) expected.insert(x);
    }
    std::vector<Progression> got;
    append_outside(a, holes, got);
    ASSERT_EQ(expected, members(got));
  }
}

TEST(Progressions, StepsAndPositionsOfAnySize) {
  // Members in common: every (2^31 + 1)-th of the first, from its second one on.
  const int64_t step = int64_t{1} << 31;
  const Progression a{5, step, int64_t{1} << 20}, b{5 + step, step + 1, int64_t{1} << 20};
  std::vector<Progression> left;
  append_without(a, b, left);
  int64_t count = 0;
  for (const Progression& p : left) count += p.count;
  EXPECT_EQ(a.count - 1, count);
  EXPECT_FALSE(std::any_of(left.begin(), left.end(), [&](const Progression& p) { return p.contains(5 + step); }));
}

}  // namespace
}  // namespace longstride::parallel
