// Common members by the Chinese remainder theorem; differences.
#include "parallel/progressions.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>

#include "core/checked.h"

namespace longstride::parallel {
namespace {

void append(const Progression& p, std::vector<Progression>& out) {
  if (p.count > 0) out.push_back(p);
}

// Members [begin, end), counted from 0, every step-th of them.
Progression members(const Progression& p, int64_t begin, int64_t end, int64_t step = 1) {
  if (begin >= end) return {};
  return {p.first + begin * p.step, p.step * step, core::ceil_divide(end - begin, step)};
}

// x in [0, modulus) with a * x = 1 (mod modulus); a and modulus have no factor in common, modulus >= 2.
int64_t inverse(int64_t a, int64_t modulus) {
  int64_t before = modulus, now = a % modulus, x_before = 0, x = 1;
  while (now != 0) {
    const int64_t times = before / now;
    before = std::exchange(now, before - times * now);
    x_before = std::exchange(x, x_before - times * x);
  }
  return core::floor_modulo(x_before, modulus);
}

}  // namespace

void append_outside(const Progression& p, std::span<const pattern::Interval> holes, std::vector<Progression>& out) {
  if (p.count == 0) return;
  int64_t begin = p.first;
  auto hole = std::ranges::partition_point(holes, [&](const pattern::Interval& h) { return h.end <= p.first; });
  for (; hole != holes.end() && hole->begin <= p.last(); ++hole) {
    append(p.within(begin, hole->begin - 1), out);
    begin = hole->end;
  }
  append(p.within(begin, p.last()), out);
}

Progression common(const Progression& p, const Progression& other) {
  if (p.count == 0 || other.count == 0) return {};
  const int64_t low = std::max(p.first, other.first), high = std::min(p.last(), other.last());
  const int64_t divisor = std::gcd(p.step, other.step), apart = other.first - p.first;
  if (low > high || apart % divisor != 0) return {};
  // Members [begin, end) of the first lie where the second is; every period-th, from `met` on, is one of its members.
  const int64_t begin = core::ceil_divide(low - p.first, p.step), end = (high - p.first) / p.step + 1;
  const int64_t period = other.step / divisor;
  int64_t met = begin;
  if (period > 1) {
    const auto residue =
        static_cast<__int128>(core::floor_modulo(apart / divisor, period)) * inverse(p.step / divisor, period) % period;
    met += core::floor_modulo(static_cast<int64_t>(residue) - begin, period);
  }
  if (met >= end) return {};
  const int64_t count = (end - 1 - met) / period + 1;
  return {p.first + met * p.step, count > 1 ? p.step * period : p.step, count};
}

void append_without(const Progression& p, const Progression& other, std::vector<Progression>& out) {
  const Progression met = common(p, other);
  if (met.count == 0) return append(p, out);
  const int64_t begin = (met.first - p.first) / p.step, end = (met.last() - p.first) / p.step + 1;
  const int64_t period = met.step / p.step;
  if (met.count < period) {
    int64_t from = 0;
    for (int64_t n = 0; n < met.count; ++n) {
      append(members(p, from, begin + n * period), out);
      from = begin + n * period + 1;
    }
    append(members(p, from, p.count), out);
    return;
  }
  append(members(p, 0, begin), out);
  for (int64_t n = 1; n < period; ++n) append(members(p, begin + n, end, period), out);
  append(members(p, end, p.count), out);
}

}  // namespace longstride::parallel
