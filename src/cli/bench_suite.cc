// The accepted table for CPUs (bench_report.h). The bars were set from measurements of the official pipeline and of a
// trial of this design on two cores of an EPYC with AVX-512.
#include <fmt/format.h>

#include "bench_report.h"
#include "longstride/error.h"

namespace longstride::cli {
namespace {

BenchCase longnet(int64_t len, const std::string& dtype, bool causal, bool backward) {
  BenchCase result;
  for (int64_t rate = 1; rate <= 16; rate *= 2) {
    result.pattern.segments.push_back(len / 16 * rate);
    result.pattern.rates.push_back(rate);
  }
  result.pattern.causal = causal;
  result.len = len;
  result.dtype = dtype;
  result.backward = backward;
  return result;
}

}  // namespace

std::vector<std::pair<BenchCase, Bar>> suite_cases(const std::string& name) {
  if (name != "cpu") throw Error(fmt::format("--suite: unknown '{}'; one of [cpu]", name));
  std::vector<std::pair<BenchCase, Bar>> cases;
  // The peer first: a slow one would flatter. The official pipeline takes these shares of dense attention's time.
  for (const bool causal : {false, true}) {
    cases.push_back({longnet(16384, "float32", causal, false), {"", 0, 0, causal ? 0.42 : 0.27}});
    cases.push_back({longnet(16384, "bfloat16", causal, false), {"", 0, 0, causal ? 0.26 : 0.17}});
  }
  struct Row {
    const char* dtype;
    bool causal;
    double accept, goal, accept_backward;
  };
  for (const Row& row : {Row{"float32", false, 4, 5, 3}, Row{"float32", true, 6, 8, 4}, Row{"bfloat16", false, 5, 7, 3},
                         Row{"bfloat16", true, 6, 8, 4}}) {
    for (const bool backward : {false, true}) {
      BenchCase entry = longnet(32768, row.dtype, row.causal, backward);
      entry.peers = {"official", "per_group"};
      cases.push_back({entry, {"official", backward ? row.accept_backward : row.accept, backward ? 0 : row.goal, 0}});
    }
  }
  for (const char* dtype : {"float32", "bfloat16"}) {
    BenchCase plain;
    plain.pattern.segments = {16384};
    plain.pattern.rates = {1};
    plain.len = 16384;
    plain.dtype = dtype;
    plain.peers = {"dense"};
    cases.push_back({plain, {"dense", std::string(dtype) == "float32" ? 1.8 : 3.0, 0, 0}});
  }
  return cases;
}

}  // namespace longstride::cli
