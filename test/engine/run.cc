// Lays cases out in memory, runs engines on them and holds the results against the oracle.
#include "test/engine/run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "core/half.h"
#include "test/engine/compare.h"
#include "test/engine/peer.h"

namespace longstride::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

core::DType lse_dtype(core::DType dtype) {
  return dtype == core::DType::kFloat64 ? core::DType::kFloat64 : core::DType::kFloat32;
}

std::vector<double> read_all(const std::vector<unsigned char>& bytes, size_t count, core::DType dtype) {
  std::vector<double> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = read_element(bytes.data(), static_cast<int64_t>(i), dtype);
  return values;
}

std::vector<unsigned char> write_all(const std::vector<double>& values, core::DType dtype) {
  std::vector<unsigned char> bytes(std::max<size_t>(1, values.size()) * core::size_bytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) write_element(bytes.data(), static_cast<int64_t>(i), dtype, values[i]);
  return bytes;
}

}  // namespace

double read_element(const void* array, int64_t element, core::DType dtype) {
  const char* from = static_cast<const char*>(array) + element * static_cast<int64_t>(core::size_bytes(dtype));
  switch (dtype) {
    case core::DType::kFloat64:
      return *reinterpret_cast<const double*>(from);
    case core::DType::kFloat32:
      return *reinterpret_cast<const float*>(from);
    case core::DType::kBFloat16:
      return core::to_float(*reinterpret_cast<const core::BFloat16*>(from));
    case core::DType::kFloat16:
      return core::to_float(*reinterpret_cast<const core::Float16*>(from));
  }
  return kNan;
}

void write_element(void* array, int64_t element, core::DType dtype, double value) {
  char* to = static_cast<char*>(array) + element * static_cast<int64_t>(core::size_bytes(dtype));
  switch (dtype) {
    case core::DType::kFloat64:
      *reinterpret_cast<double*>(to) = value;
      return;
    case core::DType::kFloat32:
      *reinterpret_cast<float*>(to) = static_cast<float>(value);
      return;
    case core::DType::kBFloat16:
      *reinterpret_cast<core::BFloat16*>(to) = core::to_bfloat16(static_cast<float>(value));
      return;
    case core::DType::kFloat16:
      *reinterpret_cast<core::Float16*>(to) = core::to_float16(static_cast<float>(value));
      return;
  }
}

TensorBuffer::TensorBuffer(core::DType dtype, int64_t batch, int64_t len, int64_t heads, int64_t dim, int layout)
    : dtype_(dtype), batch_(batch), len_(len), heads_(heads), dim_(dim) {
  if (layout == 0) {  // contiguous
    head_stride_ = dim;
    len_stride_ = heads * dim;
    batch_stride_ = len * heads * dim;
  } else if (layout == 1) {  // a gap after every row, another after every position
    head_stride_ = dim + 3;
    len_stride_ = heads * head_stride_ + 5;
    batch_stride_ = len * len_stride_ + 7;
  } else if (layout == 3) {  // as 1, rows at multiples of 8 elements
    head_stride_ = (dim + 7) / 8 * 8 + 8;
    len_stride_ = heads * head_stride_ + 16;
    batch_stride_ = len * len_stride_ + 8;
  } else if (layout == 4) {  // as 2, likewise
    len_stride_ = (dim + 7) / 8 * 8;
    head_stride_ = len * len_stride_ + 8;
    batch_stride_ = heads * head_stride_;
  } else {  // [batch, heads, len, dim] with gaps
    len_stride_ = dim + 1;
    head_stride_ = len * len_stride_ + 2;
    batch_stride_ = heads * head_stride_;
  }
  bytes_.resize((batch * batch_stride_ + 16) * core::size_bytes(dtype));
  for (size_t i = 0; i < bytes_.size() / core::size_bytes(dtype); ++i) set(i, kNan);
}

TensorBuffer::TensorBuffer(core::DType dtype, int64_t batch, int64_t len, int64_t heads, int64_t dim, int layout,
                           const std::vector<double>& values)
    : TensorBuffer(dtype, batch, len, heads, dim, layout) {
  size_t n = 0;
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t i = 0; i < len_; ++i) {
      for (int64_t h = 0; h < heads_; ++h) {
        for (int64_t d = 0; d < dim_; ++d) set(index(b, i, h) + d, values[n++]);
      }
    }
  }
}

size_t TensorBuffer::index(int64_t b, int64_t i, int64_t h) const {
  return static_cast<size_t>(b * batch_stride_ + i * len_stride_ + h * head_stride_);
}
double TensorBuffer::at(size_t element) const {
  return read_element(bytes_.data(), static_cast<int64_t>(element), dtype_);
}
void TensorBuffer::set(size_t element, double value) {
  write_element(bytes_.data(), static_cast<int64_t>(element), dtype_, value);
}

engine::ConstTensorRef TensorBuffer::read() const { return {bytes_.data(), batch_stride_, len_stride_, head_stride_}; }
engine::TensorRef TensorBuffer::write() { return {bytes_.data(), batch_stride_, len_stride_, head_stride_}; }

std::vector<double> TensorBuffer::values() const {
  std::vector<double> values;
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t i = 0; i < len_; ++i) {
      for (int64_t h = 0; h < heads_; ++h) {
        for (int64_t d = 0; d < dim_; ++d) values.push_back(at(index(b, i, h) + d));
      }
    }
  }
  return values;
}

bool TensorBuffer::gaps_untouched() const {
  std::vector<bool> row(bytes_.size() / core::size_bytes(dtype_), false);
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t i = 0; i < len_; ++i) {
      for (int64_t h = 0; h < heads_; ++h) {
        for (int64_t d = 0; d < dim_; ++d) row[index(b, i, h) + d] = true;
      }
    }
  }
  for (size_t i = 0; i < row.size(); ++i) {
    if (!row[i] && !std::isnan(at(i))) return false;
  }
  return true;
}

namespace {

const oracle::BlockRule* first_list(const Case& c) {
  for (const oracle::BlockRule& rule : c.options.blocks) {
    if (rule.kind == oracle::BlockKind::kList) return &rule;
  }
  return nullptr;
}

// What engine::Gates borrows.
struct GateArrays {
  GateArrays(const Case& c, int64_t size) : begin(c.options.batch * c.options.kv_heads + 1, 0) {
    const oracle::Options& o = c.options;
    for (const auto& [b, j, query_block, key_block] : gate_cells(c)) {
      const int64_t len = o.lengths.empty() ? o.len_k : o.lengths[b];
      const int64_t last = std::min({(query_block + 1) * size, len, o.query_start + o.len_q});
      const int64_t key = key_block * size, keys = std::min({size, len - key, o.causal ? last - key : size});
      const int64_t first = std::max({query_block * size, o.query_start, o.causal ? key : 0});
      ranges.push_back({std::min(first, last), last, key, key + std::max<int64_t>(keys, 0)});
      ++begin[b * o.kv_heads + j + 1];
    }
    for (size_t n = 1; n < begin.size(); ++n) begin[n] += begin[n - 1];
    gates = {.begin = begin.data(), .ranges = ranges.data(), .causal = o.causal};
  }
  engine::Gates gates;
  std::vector<int64_t> begin;
  std::vector<engine::GateRange> ranges;
};

}  // namespace

std::vector<std::array<int64_t, 4>> gate_cells(const Case& c) {
  const oracle::Options& o = c.options;
  std::set<std::array<int64_t, 4>> cells;  // batch row, KV head, key block, query block
  if (const oracle::BlockRule* list = first_list(c)) {
    for (const auto& [row, head, i, key] : list->list) {
      for (int64_t b = 0; b < o.batch; ++b) {
        for (int64_t j = 0; j < o.kv_heads; ++j) {
          if ((row == -1 || row == b) && (head == -1 || head == j)) cells.insert({b, j, key, i});
        }
      }
    }
  }
  std::vector<std::array<int64_t, 4>> ordered;
  for (const auto& [b, j, key, i] : cells) ordered.push_back({b, j, i, key});
  return ordered;
}

Results run_case(const Engine& engine, const Case& c, const engine::Workspace& workspace) {
  return run_case(engine, c, compile(c.pattern(), c.extent(), c.geometry, Direction::kForward),
                  compile(c.pattern(), c.extent(), c.geometry, Direction::kTransposed), workspace);
}

Results run_case(const Engine& engine, const Case& c, const Plan& forward, const Plan& transposed,
                 const engine::Workspace& workspace) {
  const oracle::Options& o = c.options;
  const int layout = c.choice[kLayout];
  const auto query_like = [&](auto&&... values) {
    return TensorBuffer(c.dtype, o.batch, o.len_q, o.heads, o.dim, layout, values...);
  };
  const auto key_like = [&](auto&&... values) {
    return TensorBuffer(c.dtype, o.batch, o.len_k, o.kv_heads, o.dim, layout, values...);
  };
  const TensorBuffer q = query_like(c.q), k = key_like(c.k), v = key_like(c.v), d_out = query_like(c.d_out);
  TensorBuffer out = query_like(), dq = query_like(), dk = key_like(), dv = key_like();
  const core::DType lse_type = lse_dtype(c.dtype);
  const size_t lse_count = static_cast<size_t>(o.batch * o.heads * o.len_q);
  std::vector<unsigned char> lse = write_all(std::vector<double>(lse_count, kNan), lse_type);
  const std::vector<unsigned char> d_lse = write_all(c.d_lse, lse_type);
  const auto seed = static_cast<int64_t>(o.dropout_seed);

  engine::ForwardProblem p;
  p.dtype = c.dtype;
  p.batch = o.batch;
  p.heads = o.heads;
  p.kv_heads = o.kv_heads;
  p.len_q = o.len_q;
  p.len_k = o.len_k;
  p.dim = o.dim;
  p.query_start = o.query_start;
  p.scale = c.scale();
  p.out_scale = c.pattern().out_scale();
  p.dropout_p = o.dropout_p;
  p.dropout_seed = o.dropout_p > 0 ? &seed : nullptr;
  p.all_heads = o.all_heads;
  p.first_head = o.first_head;
  const std::vector<float> slopes(o.alibi_slopes.begin(), o.alibi_slopes.end());
  p.alibi = !slopes.empty();
  p.alibi_slopes = p.alibi ? slopes.data() : nullptr;
  p.deterministic = true;
  p.q = q.read();
  p.k = k.read();
  p.v = v.read();
  p.out = out.write();
  p.lse = lse.data();
  engine.forward(p, forward.view(), workspace);

  Results results;
  results.out = out.values();
  results.lse = read_all(lse, lse_count, lse_type);
  engine::BackwardProblem g{p};
  g.out = out.read();
  g.lse = lse.data();
  g.d_out = d_out.read();
  g.d_lse = c.has_d_lse ? d_lse.data() : nullptr;
  g.dq = dq.write();
  g.dk = dk.write();
  g.dv = dv.write();
  const oracle::BlockRule* list = first_list(c);
  GateArrays of_gates(c, list ? list->block_size : 1);
  std::vector<unsigned char> gates = write_all(std::vector<double>(of_gates.ranges.size(), kNan), lse_type);
  of_gates.gates.grad = gates.data();
  if (list) g.gates = &of_gates.gates;
  engine.backward(g, transposed.view(), workspace);
  results.gates = read_all(gates, of_gates.ranges.size(), lse_type);
  results.dq = dq.values();
  results.dk = dk.values();
  results.dv = dv.values();
  results.strayed = !(out.gaps_untouched() && dq.gaps_untouched() && dk.gaps_untouched() && dv.gaps_untouched());
  return results;
}

std::string against_oracle(const Engine& engine, const Case& c, const Results& results) {
  const oracle::Forward f = c.forward();
  const oracle::Backward g = c.backward();
  const Peer peer = peer_results(c);
  const auto greatest = [](const std::vector<double>& a, const std::vector<double>& b) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      if (std::isfinite(a[i]) && std::isfinite(b[i])) most = std::max(most, std::abs(a[i] - b[i]));
    }
    return most;
  };
  const auto compare = [&](const char* name, const std::vector<double>& actual, const std::vector<double>& expected,
                           std::initializer_list<const std::vector<double>*> plain, double terms, core::DType dtype) {
    // Few elements, or elements whose terms cancel, may be met by the plain formula exactly, by luck: 12 roundings of
    // the accumulator of the terms behind them are granted in any case. Of 4,700 cases on the cpu engine the worst one
    // needed 6.7 (float32), of 2,200 on the reference engine 8.5 (float64).
    const double accumulator = 12 * (dtype == core::DType::kFloat64 ? 0x1p-53 : 0x1p-24);
    double granted = accumulator * std::max(terms, 1.0);
    for (const std::vector<double>* one : plain) granted = std::max(granted, greatest(*one, expected));
    return difference(name, actual, expected, roundoff(dtype), granted);
  };
  const TermSizes& size = peer.sizes;
  std::string wrong = compare("out", results.out, f.out, {&peer.forward.out}, size.out, c.dtype);
  if (wrong.empty()) wrong = compare("lse", results.lse, f.lse, {&peer.forward.lse}, size.lse, lse_dtype(c.dtype));
  if (wrong.empty())
    wrong = compare("dq", results.dq, g.dq, {&peer.backward.dq, &peer.fused.dq, &peer.least.dq}, size.dq, c.dtype);
  if (wrong.empty())
    wrong = compare("dk", results.dk, g.dk, {&peer.backward.dk, &peer.fused.dk, &peer.least.dk}, size.dk, c.dtype);
  if (wrong.empty())
    wrong = compare("dv", results.dv, g.dv, {&peer.backward.dv, &peer.fused.dv, &peer.least.dv}, size.dv, c.dtype);
  std::vector<double> gates;
  double terms = 0;
  for (const oracle::GateGradient& gate : oracle::gate_gradients(
           c.options, c.q, c.k, c.v, c.d_out, c.d_lse, first_list(c) ? first_list(c)->block_size : 1, gate_cells(c))) {
    gates.push_back(gate.value);
    terms = std::max(terms, gate.terms);
  }
  if (wrong.empty() && results.gates)
    // Made of scores' gradients that may be rounded to the dtype of q, of a delta from an out that was, and of shares
    // that are as exact as lse is.
    wrong = difference(
        "gates", *results.gates, gates, roundoff(lse_dtype(c.dtype)),
        std::max(roundoff(c.dtype), 12 * roundoff(lse_dtype(c.dtype)) +
                                        std::expm1(2 * roundoff(lse_dtype(c.dtype)) * std::min(size.lse, 1e9))) *
            std::max(terms, 1.0));
  if (wrong.empty() && results.strayed) wrong = "memory between the rows of an output was written";
  return wrong.empty() ? "" : engine.name + ": " + wrong + "\n  " + c.words();
}

}  // namespace longstride::test
