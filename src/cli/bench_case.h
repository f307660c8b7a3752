// One case of bench: shapes, pattern, who takes part; timed in rounds in which everybody runs once. Called by bench.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "longstride/pattern.h"
#include "pattern_options.h"

namespace longstride::cli {

struct BenchCase {
  PatternOptions pattern;
  int64_t len = 0;
  int64_t heads = 8;
  int64_t kv_heads = 8;
  int64_t dim = 64;
  std::string dtype = "float32";  // float32, bfloat16, float16
  bool backward = false;          // forward and backward together
  bool causal() const { return pattern.pattern().causal(); }
  std::vector<std::string> peers = {"dense", "official", "per_group"};  // who takes part beside longstride
};

// Throws Error for a name that is none of those above.
at::ScalarType dtype_from_name(const std::string& name);

// Throws Error for a case that longstride itself would refuse.
void check_case(const BenchCase& bench_case);

// "float32, causal, forward + backward, 32768 tokens, 8 heads of 64".
std::string case_words(const BenchCase& bench_case);

struct Runs {
  std::string name;  // "longstride" or a peer
  std::vector<double> seconds;
  double median() const;
  double low() const;
  double high() const;
};

struct BenchResult {
  BenchCase bench_case;
  std::vector<Runs> runs;                       // longstride last
  std::string engine;                           // that computed ours
  std::map<std::string, std::string> refusals;  // of peers that did not take part although asked to: why
  double useful_flops = 0;                      // of the timed work, counted from the plan: a backward is 2.5 forwards
  double nominal_flops = 0;                     // by the field's formula
  double keys_per_query = 0;                    // that our engine multiplies
  const Runs* of(const std::string& name) const;
};

struct BenchBudget {
  int64_t repeats = 5;
  double seconds = 0;  // 0: no limit; else no round is started after it, but one is always run
};

// Runs everybody once untimed, then in rounds. Inputs are normal random numbers from one seed.
BenchResult run_case(const BenchCase& bench_case, const BenchBudget& budget);

// The most memory that one call of `who` held beyond its inputs and outputs: the high-water mark of this process's
// resident memory over what it was before. -1 if the kernel does not let the mark be reset.
int64_t measure_extra_bytes(const BenchCase& bench_case, const std::string& who);
// The same of a process of its own, so that nothing that earlier cases left in pools hides what the call needs: starts
// this program again as `longstride bench --memory-of WHO ...`, and reads what it prints. Throws std::runtime_error
// when the process cannot be started or fails.
int64_t extra_bytes_in_own_process(const BenchCase& bench_case, const std::string& who, int64_t threads);

}  // namespace longstride::cli
