// What compare prints and draws: a row a pattern. Called by compare.cc.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "coverage.h"
#include "doctor_machine.h"
#include "longstride/pattern/reach.h"
#include "picture/picture.h"

namespace longstride::cli {

// Held-out bits per byte of a run, over the windows.
struct RunBits {
  train::Mean mean;
  train::Mean more;  // than the first run's, window by window
  int64_t steps = 0;
};

struct ComparedPattern {
  std::string name;
  Pattern pattern;
  Reach reach;
  std::vector<LayerCoverage> coverage;  // by layer of the dense model; empty: not asked for
  std::optional<RunBits> bits;          // of a run
};

struct Comparison {
  Machine machine;
  int64_t len = 0;
  int64_t kv_heads = 0;
  double share = 0;              // of the keys of a query: the heaviest
  int64_t windows = 0;           // scored; 0: there is no run
  int64_t scored = 0;            // bytes at the end of each
  int64_t coverage_windows = 0;  // 0: not asked for
  std::string dense;             // the run whose attention is covered
  std::vector<ComparedPattern> patterns;
};

// Rounded down, so that what is not all is not called 100.0.
std::string percent_reached(const Reach& reach);

std::string comparison_text(const Comparison& comparison);
nlohmann::json comparison_json(const Comparison& comparison);
// A row a pattern; panels beside each other: pairs seen, layers until all is reached, attention kept, bits per byte.
picture::Picture comparison_picture(const Comparison& comparison);

}  // namespace longstride::cli
