// What bench holds a case against, and what it prints: tables for a person and JSON for a script. Called by bench.cc.
// Torch-free.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bench_case.h"
#include "doctor_machine.h"

namespace longstride::cli {

// What a case is held against. Ratios are medians: peer / ours; a share is official / dense.
struct Bar {
  std::string against;  // a peer; empty: nothing is asked
  double accept = 0;    // at least this many times faster; 0: not asked
  double goal = 0;
  double peer_share = 0;  // the official pipeline may take at most this share of dense's time; 0: not asked
};

// The cases that longstride is held against. "cpu": LongNet's segments 2048 to 32768 at 32768 tokens against the
// official pipeline, the fairness of that peer at 16384 tokens, and one group as plain attention against dense SDPA.
// Throws Error for another name.
std::vector<std::pair<BenchCase, Bar>> suite_cases(const std::string& name);

struct BenchLine {
  BenchResult result;
  Bar bar;
  std::map<std::string, int64_t> extra_bytes;  // by name of who ran; left out: not measured
};

struct BenchReport {
  Machine machine;
  std::map<std::string, double> brgemm_gflops;         // by dtype; 0: not available
  std::map<std::string, std::string> brgemm_refusals;  // by dtype, why not
  std::vector<BenchLine> lines;
};

// Median of `peer` over that of longstride; 0 if the peer did not run.
double speedup(const BenchResult& result, const std::string& peer);
// Whether every accept bar and every peer share that the report holds is met.
bool all_accepted(const BenchReport& report);

std::string times_text(const BenchLine& line, const BenchReport& report);
std::string bars_text(const BenchReport& report);  // empty if nothing is asked
nlohmann::json report_json(const BenchReport& report);

// Milliseconds over length, one curve for each who, as SVG or PNG.
void write_curve(const std::string& path, const BenchReport& report);

}  // namespace longstride::cli
