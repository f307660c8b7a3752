// What cutting long tiles into parts is worth to the CPU engine: the forward (or backward) of a few shapes on one
// thread, and on more with whole tiles and with parts, all in one process and turn by turn. Prints medians.
//
//   parts_bench [threads] [rounds] [longest]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/cpu/cpu.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

constexpr int64_t kDim = 64;

struct Shape {
  std::string name;
  Pattern pattern;
  Extent extent;
  Direction direction = Direction::kForward;
};

// Threads that wait between loops, as torch's do, rather than being made for each.
class Threads {
 public:
  explicit Threads(int count) : count_(count) {
    for (int t = 1; t < count; ++t) others_.emplace_back([this, t] { wait_and_work(t); });
  }
  ~Threads() {
    body_ = nullptr;
    call();
    for (std::thread& other : others_) other.join();
  }
  engine::Workspace workspace() {
    engine::Workspace w;
    w.threads = count_;
    w.parallel_for = [this](int64_t n, const std::function<void(int64_t, int)>& body) {
      body_ = &body;
      size_ = n;
      next_ = 0;
      busy_ = count_ - 1;
      call();
      work(0);
      for (int busy = busy_; busy > 0; busy = busy_) busy_.wait(busy);
    };
    return w;
  }

 private:
  void call() {
    ++calls_;
    calls_.notify_all();
  }
  void work(int t) {
    for (int64_t i = next_++; i < size_; i = next_++) (*body_)(i, t);
  }
  void wait_and_work(int t) {
    for (int seen = 0;; ++seen) {
      calls_.wait(seen);
      if (body_ == nullptr) return;
      work(t);
      --busy_;
      busy_.notify_all();
    }
  }
  const int count_;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  int64_t size_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> calls_{0}, busy_{0};
  std::vector<std::thread> others_;
};

class Call {
 public:
  explicit Call(const Shape& s) : shape_(s) {
    const Extent& e = s.extent;
    std::mt19937 random(1);
    const auto fill = [&](std::vector<float>& x, int64_t count) {
      x.resize(count);
      for (float& value : x) value = static_cast<float>(random() % 2001) * 0.001f - 1;
    };
    for (auto* x : {&q_, &out_, &d_out_, &dq_}) fill(*x, e.len_q * e.heads * kDim);
    for (auto* x : {&k_, &v_, &dk_, &dv_}) fill(*x, e.len_k * e.kv_heads * kDim);
    lse_.resize(e.len_q * e.heads);
    engine::ForwardProblem& p = forward_;
    p.batch = 1;
    p.heads = e.heads;
    p.kv_heads = e.kv_heads;
    p.len_q = e.len_q;
    p.len_k = e.len_k;
    p.dim = kDim;
    p.query_start = e.query_start;
    p.scale = 0.125;
    p.q = ref(q_, e.len_q, e.heads);
    p.k = ref(k_, e.len_k, e.kv_heads);
    p.v = ref(v_, e.len_k, e.kv_heads);
    p.out = ref(out_, e.len_q, e.heads);
    p.lse = lse_.data();
    backward_ = {p};
    backward_.out = p.out;
    backward_.lse = p.lse;
    backward_.d_out = ref(d_out_, e.len_q, e.heads);
    backward_.dq = ref(dq_, e.len_q, e.heads);
    backward_.dk = ref(dk_, e.len_k, e.kv_heads);
    backward_.dv = ref(dv_, e.len_k, e.kv_heads);
  }

  Plan plan(int workers) const {
    Geometry g = engine::cpu::geometry(core::DType::kFloat32, kDim, shape_.pattern.causal(), shape_.direction);
    g.workers = workers;
    return compile(shape_.pattern, shape_.extent, g, shape_.direction);
  }
  int workers(int threads) const { return engine::cpu::workers(forward_, shape_.direction, threads); }

  double milliseconds(const Plan& plan, const engine::Workspace& w) const {
    const auto start = std::chrono::steady_clock::now();
    if (shape_.direction == Direction::kForward) {
      engine::cpu::forward(forward_, plan.view(), w);
    } else {
      engine::cpu::backward(backward_, plan.view(), w);
    }
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  static engine::TensorRef ref(std::vector<float>& x, int64_t len, int64_t heads) {
    return {x.data(), len * heads * kDim, heads * kDim, kDim};
  }
  Shape shape_;
  std::vector<float> q_, k_, v_, out_, d_out_, dq_, dk_, dv_, lse_;
  engine::ForwardProblem forward_;
  engine::BackwardProblem backward_;
};

Extent square(int64_t heads, int64_t len) { return {.heads = heads, .kv_heads = heads, .len_q = len, .len_k = len}; }
Extent step(int64_t heads, int64_t len) {
  return {.heads = heads, .kv_heads = heads, .len_q = 1, .len_k = len, .query_start = len - 1};
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

void time_shape(const Shape& s, int threads, int rounds) {
  const Call call(s);
  const int workers = call.workers(threads);
  const Plan whole = call.plan(1), parts = call.plan(workers);
  Threads one_thread(1), all_threads(threads);
  const engine::Workspace alone = one_thread.workspace(), team = all_threads.workspace();
  std::vector<double> one, before, after;
  for (int n = 0; n <= rounds; ++n) {  // the first warms up
    const double times[] = {call.milliseconds(whole, alone), call.milliseconds(whole, team),
                            call.milliseconds(parts, team)};
    if (n == 0) continue;
    one.push_back(times[0]);
    before.push_back(times[1]);
    after.push_back(times[2]);
  }
  const PlanCounts counts = count(parts.view(), 0);
  std::printf("%-34s %9.3f %9.3f %9.3f   %5.2f   %ld tiles in %ld parts, %d workers\n", s.name.c_str(), median(one),
              median(before), median(after), median(before) / median(after), static_cast<long>(counts.split_tiles),
              static_cast<long>(counts.parts), workers);
  std::fflush(stdout);
}

}  // namespace
}  // namespace longstride

int main(int argc, char** argv) {
  using namespace longstride;
  const int threads =
      argc > 1 ? std::atoi(argv[1]) : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  const int64_t longest = argc > 3 ? std::atoll(argv[3]) : 1 << 20;
  std::printf("medians of %d, in ms, float32, dim %ld\n%-34s %9s %9s %9s   whole over parts\n", rounds,
              static_cast<long>(kDim), "", "1 thread", "whole", "parts");
  for (int64_t len = 2048; len <= longest; len *= 2) {
    if (len > 16384 && len < longest) continue;
    const Pattern all = Pattern::dilated({len}, {1}, {.causal = true});
    time_shape({"1 query, 8 heads, keys " + std::to_string(len), all, step(8, len)}, threads, rounds);
  }
  const Pattern global = Pattern::block_sparse({{1, GlobalLocal{.window = 256, .global_tokens = 2}}});
  const Pattern alone = Pattern::block_sparse({{1, GlobalLocal{.window = 1, .global_tokens = 2}}});
  const int64_t len = std::min<int64_t>(65536, longest);
  for (const Direction d : {Direction::kForward, Direction::kTransposed}) {
    const std::string way = d == Direction::kForward ? ", forward" : ", backward";
    time_shape({"2 global rows, window 256" + way, global, square(1, len), d}, threads, rounds);
    time_shape({"2 global rows, window 1" + way, alone, square(1, len), d}, threads, rounds);
    const int64_t half = std::min<int64_t>(32768, longest);
    const Pattern longnet = Pattern::dilated({half / 16, half / 8, half / 4, half / 2, half}, {1, 2, 4, 8, 16});
    time_shape({"LongNet, 3 heads" + way, longnet, square(3, half), d}, threads, rounds);
  }
}
