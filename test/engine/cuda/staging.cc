// The copies of staging.h.
#include "test/engine/cuda/staging.h"

#include <cuda_runtime.h>

#include <array>
#include <cmath>

#include "engine/cuda/lists/plan.h"
#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "longstride/error.h"

namespace longstride::test {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw Error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Host bytes and their copy on the device.
class Mirror {
 public:
  Mirror(const void* host, size_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&device_, bytes + 256), "cudaMalloc");
    if (bytes) check(cudaMemcpy(device_, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
  }
  ~Mirror() { cudaFree(device_); }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;
  void* device() const { return device_; }
  void fetch(void* host) const {
    if (bytes_) check(cudaMemcpy(host, device_, bytes_, cudaMemcpyDeviceToHost), "copy from the device");
  }

 private:
  void* device_ = nullptr;
  size_t bytes_;
};

class Mirrors {
 public:
  explicit Mirrors(const engine::Problem& p) : p_(p) {}

  void in(engine::ConstTensorRef& t, int64_t len, int64_t heads) { t.data = add(t.data, span(t, len, heads)); }
  void out(engine::TensorRef& t, int64_t len, int64_t heads) {
    void* const host = t.data;
    t.data = add(t.data, span(t, len, heads));
    back_.push_back({mirrors_.size() - 1, host});
  }
  void* in(const void* host, size_t bytes) { return host ? add(host, bytes) : nullptr; }
  void* out(void* host, size_t bytes) {
    void* const device = add(host, bytes);
    back_.push_back({mirrors_.size() - 1, host});
    return device;
  }
  void finish() {
    check(cudaDeviceSynchronize(), "kernels");
    for (const auto& [index, host] : back_) mirrors_[index]->fetch(host);
  }

 private:
  template <class Ref>
  size_t span(const Ref& t, int64_t len, int64_t heads) const {
    if (p_.batch * len * heads * p_.dim == 0) return 0;
    return ((p_.batch - 1) * t.batch_stride + (len - 1) * t.len_stride + (heads - 1) * t.head_stride + p_.dim) *
           core::size_bytes(p_.dtype);
  }
  void* add(const void* host, size_t bytes) {
    mirrors_.push_back(std::make_unique<Mirror>(host, bytes));
    return mirrors_.back()->device();
  }
  const engine::Problem& p_;
  std::vector<std::unique_ptr<Mirror>> mirrors_;
  std::vector<std::pair<size_t, void*>> back_;
};

}  // namespace

engine::Workspace poisoned_workspace() {
  engine::Workspace w;
  w.allocate = [](size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "workspace");
    check(cudaMemset(memory, 0xFF, bytes), "workspace");
    return memory;
  };
  w.free = [](void* memory) {
    check(cudaDeviceSynchronize(), "kernels");
    check(cudaFree(memory), "workspace");
  };
  return w;
}

namespace {

namespace sm80 = engine::cuda::sm80;
namespace sm90 = engine::cuda::sm90;
using engine::cuda::BackwardPlans;
using engine::cuda::DevicePlan;
using Forward = void (*)(const engine::ForwardProblem&, const DevicePlan&, const engine::Workspace&, engine::Stream);
using Backward = void (*)(const engine::BackwardProblem&, const BackwardPlans&, const engine::Workspace&,
                          engine::Stream);

// A case's list on the device.
class ListOnDevice {
 public:
  ListOnDevice(const Case& c, bool portable) : portable_(portable), lengths_(c.options.lengths) {
    const oracle::BlockRule& rule = c.options.blocks.at(0);
    std::vector<std::array<int64_t, 4>> all = gate_cells(c);
    all.insert(all.end(), rule.list.begin(), rule.list.end());
    std::vector<int32_t> rows;
    for (const auto& row : all) rows.insert(rows.end(), row.begin(), row.end());
    rows_ = std::make_unique<Mirror>(rows.data(), rows.size() * sizeof(int32_t));
    const std::vector<float> nothing(all.size(), NAN);
    gates_ = std::make_unique<Mirror>(nothing.data(), nothing.size() * sizeof(float));
    list_ = {.rows = static_cast<const int32_t*>(rows_->device()),
             .count = std::ssize(all),
             .block_size = rule.block_size,
             .causal = c.options.causal,
             .lengths = lengths_.empty() ? nullptr : lengths_.data()};
  }

  std::unique_ptr<DevicePlan> plan(const engine::ForwardProblem& p, const engine::Workspace& w) const {
    constexpr Direction d = Direction::kForward;
    return plan(p, d, portable_ ? sm80::geometry(p.dtype, p.dim, d) : sm90::geometry(d), w);
  }
  std::unique_ptr<DevicePlan> plan(const engine::BackwardProblem& p, Direction d, const engine::Workspace& w) const {
    return plan(p, d, portable_ ? sm80::geometry(p.dtype, p.dim, d) : sm90::backward_geometry(p.dtype, d), w);
  }
  engine::BlocksOnDevice with_gates() const {
    engine::BlocksOnDevice list = list_;
    list.gate_grad = gates_->device();
    return list;
  }
  // Those of the first rows.
  void fetch_gates(void* to, int64_t count) const {
    check(cudaMemcpy(to, gates_->device(), count * sizeof(float), cudaMemcpyDeviceToHost), "gates from the device");
  }

 private:
  std::unique_ptr<DevicePlan> plan(const engine::Problem& p, Direction d, const Geometry& g,
                                   const engine::Workspace& w) const {
    if (!engine::cuda::lists::takes(p, list_, g, d)) throw Error("the list is not planned on the device");
    return std::unique_ptr<DevicePlan>(new DevicePlan(engine::cuda::lists::plan(p, list_, g, d, w, nullptr)));
  }

  bool portable_;
  std::vector<int64_t> lengths_;
  std::unique_ptr<Mirror> rows_, gates_;
  engine::BlocksOnDevice list_;
};

using Listed = std::shared_ptr<const ListOnDevice>;

// `listed`: null where plans are uploaded. `short_tiles`: whether they are taken to have such; empty: if they do.
Engine staged(const char* name, Forward forward, Backward backward, bool deterministic, const Listed& listed,
              std::optional<bool> short_tiles = {}) {
  const auto stage = [](Mirrors& m, engine::Problem& p) {
    m.in(p.q, p.len_q, p.heads);
    m.in(p.k, p.len_k, p.kv_heads);
    m.in(p.v, p.len_k, p.kv_heads);
    p.alibi_slopes = static_cast<const float*>(m.in(p.alibi_slopes, p.heads * sizeof(float)));
    p.dropout_seed = static_cast<const int64_t*>(m.in(p.dropout_seed, sizeof(int64_t)));
  };
  Engine e;
  e.name = name;
  auto last = std::make_shared<std::unique_ptr<DevicePlan>>();  // of the forward before, for the backward
  e.forward = [=](const engine::ForwardProblem& host, const PlanView& plan, const engine::Workspace& w) {
    engine::ForwardProblem p = host;
    Mirrors m(host);
    stage(m, p);
    m.out(p.out, p.len_q, p.heads);
    p.lse = m.out(p.lse, p.batch * p.heads * p.len_q * sizeof(float));
    const engine::Workspace lent = w.allocate ? w : poisoned_workspace();
    if (listed) {
      forward(p, *listed->plan(p, lent), lent, nullptr);
    } else {
      *last = std::make_unique<DevicePlan>(plan, p.batch, p.kv_heads, p.heads / p.kv_heads);
      if (short_tiles) (*last)->take_short_tiles(*short_tiles);
      forward(p, **last, lent, nullptr);
    }
    m.finish();
  };
  e.backward = [=](const engine::BackwardProblem& host, const PlanView& plan, const engine::Workspace& w) {
    engine::BackwardProblem p = host;
    p.deterministic = deterministic;
    Mirrors m(host);
    stage(m, p);
    m.in(p.out, p.len_q, p.heads);
    const size_t rows_bytes = p.batch * p.heads * p.len_q * sizeof(float);
    p.lse = m.in(p.lse, rows_bytes);
    m.in(p.d_out, p.len_q, p.heads);
    p.d_lse = m.in(p.d_lse, rows_bytes);
    m.out(p.dq, p.len_q, p.heads);
    m.out(p.dk, p.len_k, p.kv_heads);
    m.out(p.dv, p.len_k, p.kv_heads);
    const engine::Workspace lent = w.allocate ? w : poisoned_workspace();
    if (listed) {
      p.gates = nullptr;
      const auto transposed = listed->plan(p, Direction::kTransposed, lent);
      const auto of_queries = listed->plan(p, Direction::kForward, lent);
      const engine::BlocksOnDevice list = listed->with_gates();
      backward(p, {.transposed = *transposed, .forward = of_queries.get(), .list = host.gates ? &list : nullptr}, lent,
               nullptr);
      m.finish();
      if (host.gates) listed->fetch_gates(host.gates->grad, host.gates->begin[p.batch * p.kv_heads]);
      return;
    }
    engine::Gates gates;
    if (p.gates) {
      gates = *p.gates;  // but for what is written, on the host
      gates.grad = m.out(gates.grad, gates.begin[p.batch * p.kv_heads] * sizeof(float));
      p.gates = &gates;
    }
    const DevicePlan uploaded(plan, p.batch, p.kv_heads, 1);
    backward(p, {.transposed = uploaded, .forward = last->get()}, lent, nullptr);
    m.finish();
  };
  return e;
}

Engine staged_sm90_with(bool deterministic, const Listed& listed, std::optional<bool> short_tiles = {}) {
  const Backward backward = [](const engine::BackwardProblem& p, const BackwardPlans& plans, const engine::Workspace& w,
                               engine::Stream stream) {
    (sm90::has_backward(p) ? sm90::backward : sm80::backward)(p, plans, w, stream);
  };
  return staged(deterministic ? "cuda sm90, deterministic" : "cuda sm90", sm90::forward, backward, deterministic,
                listed, short_tiles);
}
Engine staged_sm80_with(bool deterministic, const Listed& listed) {
  return staged(deterministic ? "cuda sm80, deterministic" : "cuda sm80", sm80::forward, sm80::backward, deterministic,
                listed);
}

}  // namespace

Engine staged_sm90(bool deterministic) { return staged_sm90_with(deterministic, nullptr); }
Engine staged_sm90_tiles(bool are_short) { return staged_sm90_with(false, nullptr, are_short); }
Engine staged_sm80(bool deterministic) { return staged_sm80_with(deterministic, nullptr); }

Engine staged_list(const Case& c, bool portable, bool deterministic) {
  const auto listed = std::make_shared<const ListOnDevice>(c, portable);
  return portable ? staged_sm80_with(deterministic, listed) : staged_sm90_with(deterministic, listed);
}

Results run_sm90(const Case& c, bool deterministic, const std::function<void(Geometry&)>& change) {
  const auto plan = [&](Geometry g, Direction d) {
    if (change) change(g);
    return compile(c.pattern(), c.extent(), g, d);
  };
  const auto of_backward = [&](Direction d) { return plan(sm90::backward_geometry(c.dtype, d), d); };
  const Plan transposed = of_backward(Direction::kTransposed);
  Engine engine = staged_sm90(deterministic);
  Results r = run_case(engine, c, of_backward(Direction::kForward), transposed);
  if (c.dtype != core::DType::kFloat32) return r;
  engine.backward = [](const engine::BackwardProblem&, const PlanView&, const engine::Workspace&) {};
  Results wide = run_case(engine, c, plan(sm90::geometry(Direction::kForward), Direction::kForward), transposed);
  r.out = std::move(wide.out);
  r.lse = std::move(wide.lse);
  r.strayed = r.strayed || wide.strayed;
  return r;
}

}  // namespace longstride::test
