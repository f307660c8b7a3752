// Times the CUDA engines by themselves: LongNet's segments 2048 to 32768 at rates 1 to 16, plain attention as one group
// (w = len, r = 1), a window of 1024 tokens and the same in blocks, and decoding, one query against all keys. One line
// of JSON a case: median and quartiles in ms by CUDA events, TFLOP/s of what the plan computes (`plan`, masked pairs
// included), of what is seen (`useful`) and of the sum over groups (`nominal`). A backward counts 2.5 forwards.
// Workspaces come from a pool, so that no allocation is timed. Cases whose name says so run on the portable engine
// (sm80), the others on Hopper's.
//
// usage: cuda_bench [FILTER] [REPEATS]      cases whose name contains FILTER
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/half.h"
#include "engine/cuda/device.h"
#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

using core::DType;
namespace sm80 = engine::cuda::sm80;
namespace sm90 = engine::cuda::sm90;

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw Error(std::string(what) + ": " + cudaGetErrorString(error));
}

enum class Kind { kLongNet, kDense, kWindow, kBlocks, kGlobal, kStrided, kShort, kGigaPath };

const char* kind_name(Kind kind) {
  static constexpr const char* kNames[] = {"longnet", "dense",   "window", "blocks",
                                           "global",  "strided", "short",  "gigapath"};
  return kNames[static_cast<int>(kind)];
}

struct Shape {
  int64_t len;
  int64_t dim;
  bool causal;
  Kind kind;
  bool backward;
  DType dtype = DType::kBFloat16;
  double dropout_p = 0;
  int64_t heads = 16;
  bool deterministic = false;
  bool portable = false;  // sm80
  int64_t queries = 0;    // the last ones; 0: all
  bool whole = false;     // no tile is cut into parts
  bool alibi = false;
  int64_t batch = 1;

  std::string name() const {
    return fmt::format(
        "{}{}_{}{}_n{}_d{}{}{}{}{}{}_{}", kind_name(kind), queries > 0 ? "_decode" : "", core::name(dtype),
        batch > 1 ? fmt::format("_b{}", batch) : "", len, dim, causal ? "_causal" : "",
        dropout_p > 0   ? "_dropout"
        : deterministic ? "_deterministic"
                        : "",
        alibi ? "_alibi" : "", portable ? "_sm80" : "", whole ? "_whole" : "", backward ? "backward" : "forward");
  }
  int64_t len_q() const { return queries > 0 ? queries : len; }
  Extent extent() const {
    return {.batch = batch,
            .heads = heads,
            .kv_heads = heads,
            .len_q = len_q(),
            .len_k = len,
            .query_start = len - len_q()};
  }
  Plan plan(const engine::Problem& p, Direction d) const {
    Geometry g = portable   ? sm80::geometry(dtype, dim, d)
                 : backward ? sm90::backward_geometry(dtype, d)
                            : sm90::forward_geometry(p);
    if (!whole) g.workers = engine::cuda::workers(p, d);
    return compile(pattern(), extent(), g, d);
  }
  Pattern pattern() const {
    const auto blocks = [&](int64_t size, auto rule) { return Pattern::block_sparse({{size, rule}}, causal); };
    switch (kind) {
      case Kind::kLongNet:
        return Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16}, {.causal = causal});
      case Kind::kDense:
        return Pattern::dilated({len}, {1}, {.causal = causal});
      case Kind::kWindow:
        return blocks(1, SlidingWindow{.left = 1023, .right = causal ? 0 : 1023});
      case Kind::kBlocks:
        return blocks(64, LocalWindow{.window = 1024});
      case Kind::kGlobal:
        return blocks(128, GlobalLocal{.window = 1024, .global_tokens = 256});
      case Kind::kStrided:
        return blocks(128, Strided{16});
      case Kind::kShort:
        return Pattern::dilated({len / 4, len / 2, len}, {1, 2, 4}, {.causal = causal});
      case Kind::kGigaPath:
        return Pattern::dilated({1024, 5792, 32768, 185363, 1048576}, {1, 2, 4, 8, 16},
                                {.causal = causal, .head_offset = HeadOffset::kBlock, .padding = Padding::kZeroKeys});
    }
    return Pattern::dilated({len}, {1});
  }
};

// Device memory that is kept for the next call of the same size.
class Pool {
 public:
  ~Pool() {
    for (auto& [bytes, memory] : free_) cudaFree(memory);
  }
  engine::Workspace workspace() {
    engine::Workspace w;
    w.allocate = [this](size_t bytes) {
      const auto found = free_.find(bytes);
      void* memory = nullptr;
      if (found != free_.end()) {
        memory = found->second;
        free_.erase(found);
      } else {
        check(cudaMalloc(&memory, bytes), "workspace");
        held_bytes += bytes;
      }
      used_[memory] = bytes;
      return memory;
    };
    w.free = [this](void* memory) {
      free_.insert({used_.at(memory), memory});
      used_.erase(memory);
    };
    return w;
  }
  size_t held_bytes = 0;

 private:
  std::multimap<size_t, void*> free_;
  std::map<void*, size_t> used_;
};

class Buffer {
 public:
  explicit Buffer(size_t bytes) { check(cudaMalloc(&data, bytes), "tensor"); }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  void* data = nullptr;
};

// Normal numbers: 2^22 of them, repeated at odd offsets.
void fill(void* to, int64_t count, DType dtype, uint32_t seed) {
  constexpr int64_t kDrawn = 1 << 22;
  const int64_t size = core::size_bytes(dtype);
  static std::map<DType, std::vector<unsigned char>> drawn;
  std::vector<unsigned char>& bytes = drawn[dtype];
  if (bytes.empty()) {
    bytes.resize(kDrawn * size);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < kDrawn; ++i) {
      const float x = normal(random);
      const uint16_t bits = dtype == DType::kBFloat16 ? core::to_bfloat16(x).bits : core::to_float16(x).bits;
      std::memcpy(&bytes[i * size], dtype == DType::kFloat32 ? static_cast<const void*>(&x) : &bits, size);
    }
  }
  int64_t from = (seed * 104729) % kDrawn;
  for (int64_t i = 0; i < count;) {
    const int64_t n = std::min(count - i, kDrawn - from);
    check(cudaMemcpy(static_cast<unsigned char*>(to) + i * size, bytes.data() + from * size, n * size,
                     cudaMemcpyHostToDevice),
          "fill");
    i += n;
    from = (from + n + 7919) % kDrawn;
  }
}

void run(const Shape& s, int repeats) {
  const int64_t count = s.batch * s.len * s.heads * s.dim;  // of q too, which may have fewer rows
  const auto tensor = [&] { return std::make_unique<Buffer>(count * core::size_bytes(s.dtype)); };
  const auto q = tensor(), k = tensor(), v = tensor(), out = tensor();
  uint32_t seed = 0;
  for (const auto* x : {&q, &k, &v}) fill((*x)->data, count, s.dtype, ++seed);
  Buffer lse(s.batch * s.len * s.heads * sizeof(float)), dropout_seed(sizeof(int64_t));
  check(cudaMemset(dropout_seed.data, 1, sizeof(int64_t)), "seed");

  engine::ForwardProblem p;
  p.dtype = s.dtype;
  p.batch = s.batch;
  p.heads = p.kv_heads = s.heads;
  p.len_q = s.len_q();
  p.len_k = s.len;
  p.query_start = s.len - s.len_q();
  p.dim = s.dim;
  p.scale = 1 / std::sqrt(static_cast<double>(s.dim));
  p.dropout_p = s.dropout_p;
  p.deterministic = s.deterministic;
  p.dropout_seed = s.dropout_p > 0 ? static_cast<const int64_t*>(dropout_seed.data) : nullptr;
  const Buffer slopes(s.heads * sizeof(float));
  std::vector<float> of_heads;
  for (int64_t h = 1; h <= s.heads; ++h)
    of_heads.push_back(std::exp2(-8.0F * static_cast<float>(h) / static_cast<float>(s.heads)));
  check(cudaMemcpy(slopes.data, of_heads.data(), s.heads * sizeof(float), cudaMemcpyHostToDevice), "slopes");
  p.alibi = s.alibi;
  p.alibi_slopes = s.alibi ? static_cast<const float*>(slopes.data) : nullptr;
  const int64_t row = s.heads * s.dim;
  const auto in = [&](const Buffer& b) { return engine::ConstTensorRef{b.data, s.len * row, row, s.dim}; };
  const auto to = [&](const Buffer& b) { return engine::TensorRef{b.data, s.len * row, row, s.dim}; };
  p.q = in(*q);
  p.k = in(*k);
  p.v = in(*v);
  p.out = to(*out);
  p.lse = lse.data;

  const Extent extent = s.extent();
  Pool pool;
  const engine::Workspace w = pool.workspace();
  const Plan forward_plan = s.plan(p, Direction::kForward);
  const engine::cuda::DevicePlan uploaded(forward_plan.view(), s.batch, s.heads, 1);
  std::function<void()> call = [&] { (s.portable ? sm80::forward : sm90::forward)(p, uploaded, w, nullptr); };
  PlanCounts counts = longstride::count(forward_plan.view(), extent);
  int64_t plan_bytes = uploaded.bytes();

  std::unique_ptr<Buffer> d_out, dq, dk, dv;
  std::unique_ptr<engine::cuda::DevicePlan> transposed;
  engine::BackwardProblem g{p};
  if (s.backward) {
    call();
    g.out = p.out;
    g.lse = p.lse;
    d_out = tensor(), dq = tensor(), dk = tensor(), dv = tensor();
    fill(d_out->data, count, s.dtype, ++seed);
    g.d_out = in(*d_out);
    g.dq = to(*dq);
    g.dk = to(*dk);
    g.dv = to(*dv);
    const Plan plan = s.plan(p, Direction::kTransposed);
    transposed = std::make_unique<engine::cuda::DevicePlan>(plan.view(), s.batch, s.heads, 1);
    counts = longstride::count(plan.view(), extent);
    plan_bytes = transposed->bytes();
    pool.held_bytes = 0;
    call = [&] { (s.portable ? sm80::backward : sm90::backward)(g, {*transposed, &uploaded}, w, nullptr); };
  }
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  for (int i = 0; i < 3; ++i) call();
  check(cudaDeviceSynchronize(), "warm-up");
  std::vector<float> times;
  std::vector<double> host;  // until the call returns, the GPU idle before it
  for (int i = 0; i < repeats; ++i) {
    check(cudaEventRecord(begin), "event");
    const auto began = std::chrono::steady_clock::now();
    call();
    host.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began).count());
    check(cudaEventRecord(end), "event");
    check(cudaEventSynchronize(end), "kernels");
    times.push_back(0);
    check(cudaEventElapsedTime(&times.back(), begin, end), "event");
  }
  check(cudaEventDestroy(begin), "event");
  check(cudaEventDestroy(end), "event");
  std::sort(times.begin(), times.end());
  std::sort(host.begin(), host.end());
  const double ms = times[times.size() / 2];
  const double rate = (s.backward ? 10.0 : 4.0) * static_cast<double>(s.dim) / (ms * 1e9);
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "device");
  fmt::print(
      "{{\"case\": \"{}\", \"device\": \"{}\", \"heads\": {}, \"median_ms\": {:.3f}, \"quartile1_ms\": {:.3f}, "
      "\"quartile3_ms\": {:.3f}, \"host_us\": {:.1f}, \"plan_tflops\": {:.1f}, \"useful_tflops\": {:.1f}, "
      "\"nominal_tflops\": {:.1f}, "
      "\"keys_a_row\": {:.0f}, \"merged_rows\": {:.3f}, \"split_tiles\": {}, \"parts\": {}, \"workspace_mib\": {:.1f}, "
      "\"plan_mib\": {:.2f}, \"repeats\": "
      "{}}}\n",
      s.name(), device.name, s.heads, ms, times[times.size() / 4], times[times.size() * 3 / 4], host[host.size() / 2],
      rate * static_cast<double>(counts.computed_pairs), rate * static_cast<double>(counts.seen_pairs),
      nominal_flops(s.pattern(), extent, s.dim) * (s.backward ? 2.5 : 1.0) / (ms * 1e9), counts.computed_per_row(),
      static_cast<double>(counts.merged_rows) / static_cast<double>(s.batch * s.len_q() * s.heads), counts.split_tiles,
      counts.parts, static_cast<double>(pool.held_bytes) / 1048576, static_cast<double>(plan_bytes) / 1048576, repeats);
  std::fflush(stdout);
}

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const bool backward : {false, true}) {
    for (const Kind kind : {Kind::kLongNet, Kind::kDense})
      for (const int64_t dim : {128, 64})
        for (const bool causal : {false, true})
          all.push_back({kind == Kind::kDense ? 16384 : 131072, dim, causal, kind, backward});
    for (const int64_t dim : {128, 64})
      for (const bool causal : {false, true}) all.push_back({32768, dim, causal, Kind::kLongNet, backward});
    for (const int64_t dim : {48, 96}) all.push_back({131072, dim, false, Kind::kLongNet, backward});
    all.push_back({131072, 128, false, Kind::kLongNet, backward, DType::kFloat16});
    all.push_back({131072, 128, false, Kind::kLongNet, backward, DType::kBFloat16, 0.1});
    for (const int64_t dim : {128, 64})
      all.push_back({16384, dim, false, Kind::kDense, backward, DType::kBFloat16, 0.1});
    for (const Kind kind : {Kind::kLongNet, Kind::kDense}) {
      Shape s{kind == Kind::kDense ? 16384 : 131072, 128, true, kind, backward};
      s.alibi = true;
      all.push_back(s);
    }
    for (const Kind kind : {Kind::kWindow, Kind::kBlocks, Kind::kGlobal, Kind::kStrided}) {
      for (const bool causal : {false, true}) {
        Shape s{131072, 128, causal, kind, backward};
        all.push_back(s);
        s.whole = true;
        all.push_back(s);
      }
    }
    for (const Kind kind : {Kind::kGlobal, Kind::kStrided}) all.push_back({32768, 128, true, kind, backward});
  }
  for (const int64_t len : {4096, 8192}) all.push_back({len, 128, true, Kind::kDense, true});
  for (const bool backward : {false, true}) {
    for (const auto& [batch, len, dim, causal] : {std::tuple{64, 512, 64, false},
                                                  {32, 1024, 128, true},
                                                  {64, 128, 64, false},
                                                  {8, 1024, 64, true},
                                                  {16, 2048, 128, false}}) {
      for (const Kind kind : {Kind::kShort, Kind::kDense}) {
        Shape s{len, dim, causal, kind, backward};
        s.heads = 8;
        s.batch = batch;
        all.push_back(s);
      }
    }
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16})
      all.push_back({10001, 48, false, Kind::kGigaPath, backward, dtype});
  }
  for (const int64_t len : {2048, 4096, 8192, 16384}) all.push_back({len, 128, false, Kind::kLongNet, false});
  for (const Kind kind : {Kind::kLongNet, Kind::kDense}) {
    for (const int64_t len : {8192, 131072, 1048576}) {
      Shape s{len, 128, true, kind, false};
      s.queries = 1;
      all.push_back(s);
      s.whole = true;
      all.push_back(s);
    }
  }
  for (const int64_t dim : {128, 64})
    for (const bool causal : {false, true})
      all.push_back({131072, dim, causal, Kind::kLongNet, true, DType::kBFloat16, 0, 16, true});
  for (const bool backward : {false, true})
    all.push_back({16384, 256, false, Kind::kDense, backward, DType::kBFloat16, 0, 8});
  for (const bool causal : {false, true}) all.push_back({1048576, 128, causal, Kind::kLongNet, false});
  for (const int64_t dim : {128, 96, 64, 32})
    for (const bool causal : {false, true}) all.push_back({16384, dim, causal, Kind::kDense, false, DType::kFloat32});
  for (const int64_t dim : {128, 64}) all.push_back({131072, dim, false, Kind::kLongNet, false, DType::kFloat32});
  for (const bool portable : {false, true})
    all.push_back({10001, 48, false, Kind::kGigaPath, false, DType::kFloat32, 0, 16, false, portable});
  for (const bool portable : {false, true}) {
    all.push_back({10001, 48, false, Kind::kGigaPath, true, DType::kFloat32, 0, 16, false, portable});
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      if (!portable && dtype == DType::kBFloat16) continue;  // above
      for (const bool backward : {false, true}) {
        if (!portable && !backward) continue;
        for (const int64_t dim : {128, 64})
          for (const bool causal : {false, true})
            all.push_back({16384, dim, causal, Kind::kDense, backward, dtype, 0, 16, false, portable});
        all.push_back({131072, 128, false, Kind::kLongNet, backward, dtype, 0, 16, false, portable});
      }
    }
  }
  return all;
}

}  // namespace
}  // namespace longstride

int main(int argc, char** argv) {
  try {
    for (const longstride::Shape& s : longstride::shapes()) {
      if (argc > 1 && s.name().find(argv[1]) == std::string::npos) continue;
      longstride::run(s, argc > 2 ? std::max(1, std::atoi(argv[2])) : 20);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "cuda_bench: {}\n", error.what());
    return 1;
  }
}
