// The comparator of all numeric tests: infinities and NaN first, then every element against a bound. Torch-free.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace longstride::test {

// |actual - expected| <= 2 * peer_error + 2 * unit * max(|expected|, 1) for every element, NaN exactly where expected
// has NaN, infinities equal. `peer_error` is the greatest error of the same formula computed plainly in the same dtype;
// `unit` the roundoff of the output's dtype. Returns "" or a sentence about the worst element.
inline std::string difference(const std::string& name, const std::vector<double>& actual,
                              const std::vector<double>& expected, double unit, double peer_error = 0) {
  if (actual.size() != expected.size()) {
    return name + ": " + std::to_string(actual.size()) + " elements, expected " + std::to_string(expected.size());
  }
  const auto say = [&](size_t i, double bound) {
    char text[256];
    std::snprintf(text, sizeof text, "%s[%zu] = %.17g, expected %.17g, difference %.3g, allowed %.3g", name.c_str(), i,
                  actual[i], expected[i], std::abs(actual[i] - expected[i]), bound);
    return std::string(text);
  };
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) != std::isnan(expected[i])) return say(i, 0);
    if ((std::isinf(actual[i]) || std::isinf(expected[i])) && actual[i] != expected[i]) return say(i, 0);
  }
  std::string worst;
  double worst_excess = 1;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(expected[i])) continue;
    const double bound = 2 * peer_error + 2 * unit * std::max(std::abs(expected[i]), 1.0);
    const double excess = std::abs(actual[i] - expected[i]) / bound;
    if (!(excess <= worst_excess)) {
      worst = say(i, bound);
      worst_excess = excess;
    }
  }
  return worst;
}

}  // namespace longstride::test
