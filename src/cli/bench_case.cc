// Timing and memory of one case (bench_case.h).
#include "bench_case.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <malloc.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>

#include "bench_peers.h"
#include "core/refuse.h"
#include "doctor_machine.h"
#include "longstride/attention.h"
#include "longstride/error.h"

namespace longstride::cli {
namespace {

using at::Tensor;

struct Inputs {
  Tensor q, k, v, d_out;
};

Inputs make_inputs(const BenchCase& bench_case, int64_t len) {
  at::Generator chance = at::detail::createCPUGenerator(20231105);
  const at::ScalarType dtype = dtype_from_name(bench_case.dtype);
  const auto normal = [&](int64_t heads) { return at::randn({1, len, heads, bench_case.dim}, chance).to(dtype); };
  Inputs inputs{normal(bench_case.heads), normal(bench_case.kv_heads), normal(bench_case.kv_heads), {}};
  if (bench_case.backward) inputs.d_out = normal(bench_case.heads);
  return inputs;
}

// What a call leaves behind: results to be kept alive until the clock or the memory has been read.
using Work = std::function<std::vector<Tensor>()>;

Work work_of(const std::string& who, const BenchCase& bench_case, const Inputs& inputs) {
  const Pattern pattern = bench_case.pattern.pattern();
  const auto forward = [who, pattern](const Tensor& q, const Tensor& k, const Tensor& v) -> std::vector<Tensor> {
    if (who != "longstride") {
      peer::PeerResult result = run_peer(who, q, k, v, pattern);
      if (who == "dense") return {result.out};
      return {result.out, result.lse};
    }
    AttentionResult result = attention(q, k, v, pattern);
    return {result.out, result.lse};
  };
  if (!bench_case.backward) {
    return [forward, inputs] {
      const c10::NoGradGuard no_grad;
      return forward(inputs.q, inputs.k, inputs.v);
    };
  }
  return [forward, inputs] {
    const Tensor q = inputs.q.detach().requires_grad_(), k = inputs.k.detach().requires_grad_();
    const Tensor v = inputs.v.detach().requires_grad_();
    std::vector<Tensor> results = forward(q, k, v);
    for (Tensor& gradient : torch::autograd::grad({results.front()}, {q, k, v}, {inputs.d_out}))
      results.push_back(std::move(gradient));
    for (Tensor& result : results) result = result.detach();
    return results;
  };
}

// Why a peer cannot run a case; empty: it can.
std::string refusal_of(const std::string& who, const BenchCase& bench_case) {
  return peer_refusal(who, bench_case.pattern.pattern(), bench_case.len, bench_case.heads, bench_case.kv_heads);
}

bool reset_high_water() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5";
  file.close();
  return static_cast<bool>(file);
}

}  // namespace

double Runs::median() const {
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  return n == 0 ? 0 : n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
double Runs::low() const { return seconds.empty() ? 0 : *std::min_element(seconds.begin(), seconds.end()); }
double Runs::high() const { return seconds.empty() ? 0 : *std::max_element(seconds.begin(), seconds.end()); }

const Runs* BenchResult::of(const std::string& name) const {
  for (const Runs& entry : runs) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

at::ScalarType dtype_from_name(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  core::refuse_unknown("--dtype", name, std::vector<std::string>{"float32", "bfloat16", "float16"});
}

void check_case(const BenchCase& bench_case) {
  dtype_from_name(bench_case.dtype);
  // Each is in its option's range; their product sizes the tensors.
  constexpr int64_t kMostNumbers = int64_t{1} << 50;
  if (bench_case.len > kMostNumbers / bench_case.heads / bench_case.dim) {
    throw Error(fmt::format("--len x --heads x --dim must be at most {} numbers, got {} x {} x {}; take a smaller one",
                            kMostNumbers, bench_case.len, bench_case.heads, bench_case.dim));
  }
  LengthOptions lengths;
  lengths.len = bench_case.len;
  lengths.heads = bench_case.heads;
  lengths.kv_heads = bench_case.kv_heads;
  lengths.extent();
  bench_case.pattern.pattern();
}

std::string case_words(const BenchCase& bench_case) {
  std::string words = fmt::format(
      "{}, {}, {}, {} tokens, {} heads of {}", bench_case.dtype, bench_case.causal() ? "causal" : "not causal",
      bench_case.backward ? "forward + backward" : "forward", bench_case.len, bench_case.heads, bench_case.dim);
  if (bench_case.kv_heads != bench_case.heads) words += fmt::format(", {} KV heads", bench_case.kv_heads);
  return words;
}

BenchResult run_case(const BenchCase& bench_case, const BenchBudget& budget) {
  check_case(bench_case);
  const Inputs inputs = make_inputs(bench_case, bench_case.len);
  const Pattern pattern = bench_case.pattern.pattern();
  BenchResult result;
  result.bench_case = bench_case;
  const AttentionReport report = describe_attention(inputs.q, inputs.k, inputs.v, pattern);
  const double forwards = bench_case.backward ? 3.5 : 1;
  result.useful_flops = report.useful_flops * forwards;
  result.nominal_flops = report.nominal_flops * forwards;
  result.keys_per_query = report.keys_per_query;

  std::vector<Work> works;
  const auto enter = [&](const std::string& who) {
    works.push_back(work_of(who, bench_case, inputs));
    result.runs.push_back({who, {}});
  };
  for (const std::string& peer : bench_case.peers) {
    const std::string refusal = refusal_of(peer, bench_case);
    if (!refusal.empty()) result.refusals[peer] = refusal;
    if (refusal.empty()) enter(peer);
  }
  enter("longstride");

  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  for (const Work& work : works) work();
  for (int64_t round = 0; round < budget.repeats; ++round) {
    if (round > 0 && budget.seconds > 0 && elapsed() > budget.seconds) break;
    for (size_t i = 0; i < works.size(); ++i) {
      const double before = elapsed();
      const std::vector<Tensor> kept = works[i]();
      result.runs[i].seconds.push_back(elapsed() - before);
    }
  }
  result.engine = last_engine();
  return result;
}

int64_t measure_extra_bytes(const BenchCase& bench_case, const std::string& who) {
  check_case(bench_case);
  // A short call first: code, thread stacks and kernels made at run time are there once, whatever the length.
  BenchCase small = bench_case;
  small.len = std::min<int64_t>(bench_case.len, 256);
  if (refusal_of(who, small).empty()) work_of(who, small, make_inputs(small, small.len))();
  const Inputs inputs = make_inputs(bench_case, bench_case.len);
  const Work work = work_of(who, bench_case, inputs);
  malloc_trim(0);
  if (!reset_high_water()) return -1;
  const int64_t before = proc_bytes("/proc/self/status", "VmRSS");
  const std::vector<Tensor> results = work();
  const int64_t peak = proc_bytes("/proc/self/status", "VmHWM");
  int64_t outputs = 0;
  for (const Tensor& tensor : results) outputs += static_cast<int64_t>(tensor.nbytes());
  return std::max<int64_t>(0, peak - before - outputs);
}

}  // namespace longstride::cli
