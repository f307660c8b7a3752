// Chance that is the same on every machine. Called by the cases.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

namespace longstride::test {

// Draws that do not depend on the standard library's distributions.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  double real() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double value() { return 2 * (real() + real() + real()) - 3; }  // near enough to normal, variance 1
  int64_t one_of(std::initializer_list<int64_t> list) { return list.begin()[below(static_cast<int64_t>(list.size()))]; }
  uint64_t bits() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

}  // namespace longstride::test
