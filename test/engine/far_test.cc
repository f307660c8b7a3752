// Offsets beyond 2^31 elements, on every path of both engines that makes one: batch, row and head strides of all
// tensors in forward and backward, lse, positions far out, packed scratch. The memory is address space of which only
// the touched pages exist. An offset cut to 32 bits lands in that address space, where it reads zeros or overwrites
// what others own, so results differ.
//
// Not to be had in seconds: lse and d_lse beyond 2^31 in a backward, which goes through all rows of the call.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "test/engine/address_space.h"
#include "test/engine/cases.h"
#include "test/engine/compare.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

using core::DType;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
// Cut to 32 bits, signed or not, it is 64: near, and not where it should be.
constexpr int64_t kFar = (int64_t{1} << 32) + 64;

struct Shape {
  int64_t batch, len, heads, dim;
};

enum class Apart { kNothing, kBatch, kRows, kHeads };

// One tensor in somebody's memory.
struct Tensor {
  DType dtype;
  Shape shape;
  engine::TensorRef ref;

  int64_t element(int64_t b, int64_t i, int64_t h) const {
    return b * ref.batch_stride + i * ref.len_stride + h * ref.head_stride;
  }
  template <class Visit>
  void each(const Visit& visit) const {
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t i = 0; i < shape.len; ++i) {
        for (int64_t h = 0; h < shape.heads; ++h) {
          for (int64_t d = 0; d < shape.dim; ++d) visit(element(b, i, h) + d);
        }
      }
    }
  }
  void fill(double value) const {
    each([&](int64_t at) { write_element(ref.data, at, dtype, value); });
  }
  void draw(uint32_t seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    each([&](int64_t at) { write_element(ref.data, at, dtype, normal(random)); });
  }
  std::vector<double> values() const {
    std::vector<double> all;
    each([&](int64_t at) { all.push_back(read_element(ref.data, at, dtype)); });
    return all;
  }
  engine::ConstTensorRef read() const { return ref; }
};

DType lse_type(DType dtype) { return dtype == DType::kFloat64 ? dtype : DType::kFloat32; }
int64_t size_of(DType dtype) { return static_cast<int64_t>(core::size_bytes(dtype)); }

struct Path {
  std::string name;
  Engine engine;
  DType dtype;
  engine::Workspace workspace;
};

std::vector<Path> paths() {
  static const PairsGemm pairs;
  std::vector<Path> all;
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    all.push_back({std::string("reference ") + core::name(dtype), reference_engine(), dtype, {}});
    if (dtype == DType::kFloat64) continue;
    all.push_back({std::string("cpu ") + core::name(dtype), cpu_engine(), dtype, {}});
    all.push_back({std::string("cpu, two threads, ") + core::name(dtype), cpu_engine(), dtype, threads(2, &pairs)});
  }
  return all;
}

// Forward and backward with all tensors laid out alike; everything that was written, by name.
std::map<std::string, std::vector<double>> run(const Path& path, const Pattern& pattern, int64_t len, int64_t heads,
                                               int64_t kv_heads, Apart apart) {
  constexpr int64_t kBatch = 2, kDim = 5, kSlotBytes = int64_t{1} << 16;
  const int64_t far_elements = (apart == Apart::kRows ? len : std::max(kBatch, heads)) * kFar;
  const AddressSpace space(20 * kSlotBytes + (apart == Apart::kNothing ? 0 : far_elements * size_of(path.dtype)));
  // All tensors stand side by side in the near part of each far stride.
  int64_t slots = 0;
  const auto tensor = [&](int64_t of_heads) {
    Tensor t{path.dtype, {kBatch, len, of_heads, kDim}, {}};
    t.ref.data = space.at(slots++ * kSlotBytes);
    t.ref.head_stride = apart == Apart::kHeads ? kFar : kDim;
    const int64_t row = apart == Apart::kHeads ? kDim : of_heads * kDim;
    t.ref.len_stride = apart == Apart::kRows ? kFar : row;
    t.ref.batch_stride = apart == Apart::kBatch ? kFar : apart == Apart::kRows ? row : len * row;
    return t;
  };
  const Tensor q = tensor(heads), k = tensor(kv_heads), v = tensor(kv_heads), out = tensor(heads);
  const Tensor d_out = tensor(heads), dq = tensor(heads), dk = tensor(kv_heads), dv = tensor(kv_heads);
  q.draw(1);
  k.draw(2);
  v.draw(3);
  d_out.draw(4);
  for (const Tensor* t : {&out, &dq, &dk, &dv}) t->fill(kNan);
  const DType of_lse = lse_type(path.dtype);
  const Tensor lse{of_lse, {1, 1, 1, kBatch * heads * len}, {space.at(slots++ * kSlotBytes), 0, 0, 0}};
  const Tensor d_lse{of_lse, lse.shape, {space.at(slots++ * kSlotBytes), 0, 0, 0}};
  lse.fill(kNan);
  d_lse.draw(5);

  const Extent extent{.batch = kBatch, .heads = heads, .kv_heads = kv_heads, .len_q = len, .len_k = len};
  const Geometry geometry{.tile_rows = 4, .column_block = 4, .merge_columns = 0};
  engine::ForwardProblem p;
  p.dtype = path.dtype;
  p.batch = kBatch;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.len_q = p.len_k = len;
  p.dim = kDim;
  p.scale = 0.4;
  p.q = q.read();
  p.k = k.read();
  p.v = v.read();
  p.out = out.ref;
  p.lse = lse.ref.data;
  path.engine.forward(p, compile(pattern, extent, geometry).view(), path.workspace);
  engine::BackwardProblem g{p};
  g.out = out.read();
  g.lse = lse.ref.data;
  g.d_out = d_out.read();
  g.d_lse = d_lse.ref.data;
  g.dq = dq.ref;
  g.dk = dk.ref;
  g.dv = dv.ref;
  path.engine.backward(g, compile(pattern, extent, geometry, Direction::kTransposed).view(), path.workspace);
  return {{"out", out.values()},
          {"lse", lse.values()},
          {"dq", dq.values()},
          {"dk", dk.values()},
          {"dv", dv.values()},
          // What must not have been written.
          {"q", q.values()},
          {"k", k.values()},
          {"v", v.values()},
          {"d_out", d_out.values()}};
}

TEST(Far, StridesOfEveryTensor) {
  const Pattern levels = Pattern::dilated({4, 12}, {1, 2}, {.causal = true});
  const Pattern plain = Pattern::dilated({12}, {1});
  for (const Path& path : paths()) {
    // Several query heads and levels to a key, whose gradients are summed before they are written; and one.
    for (const bool several : {true, false}) {
      const auto with = [&](Apart apart) {
        return several ? run(path, levels, 11, 4, 2, apart) : run(path, plain, 11, 2, 2, apart);
      };
      const auto near = with(Apart::kNothing);
      for (const Apart apart : {Apart::kBatch, Apart::kRows, Apart::kHeads}) {
        for (const auto& [name, values] : with(apart)) {
          for (const double x : values) ASSERT_TRUE(std::isfinite(x)) << name << " of " << path.name;
          EXPECT_EQ(values, near.at(name)) << name << " of " << path.name << ", far apart: "
                                           << (apart == Apart::kBatch  ? "batch rows"
                                               : apart == Apart::kRows ? "rows"
                                                                       : "heads");
        }
      }
    }
  }
}

// lse is contiguous, so only more than 2^31 queries reach beyond: a plan of two tiles at both ends of them.
TEST(Far, LseOfManyQueries) {
  constexpr int64_t kLen = (int64_t{1} << 31) + 96, kDim = 2, kRows = 3;
  Plan plan;
  plan.geometry.tile_rows = kRows;
  plan.class_of = {0, 0, 0, 0};
  plan.classes = {{0, 1, 0}};
  plan.levels = {{1, 0, 1, false}};
  plan.sections = {{0, 2, 1, 0, 0}};
  plan.tiles = {Tile{.row0 = 0, .rows = kRows, .run_begin = 0, .run_count = 1},
                Tile{.row0 = kLen - kRows, .rows = kRows, .run_begin = 1, .run_count = 1}};
  longstride::Run run;  // keys 0 and 1
  run.columns = 2;
  run.row_end = kRows;
  plan.runs = {run, run};
  for (const Path& path : paths()) {
    const int64_t size = size_of(path.dtype);
    const AddressSpace lse(4 * kLen * size_of(lse_type(path.dtype))), out(4 * kLen * kDim * size), rest(1 << 16);
    engine::ForwardProblem p;
    p.dtype = path.dtype;
    p.batch = p.heads = p.kv_heads = 2;
    p.len_q = kLen;
    p.len_k = 2;
    p.dim = kDim;
    // One query and one pair of keys serve all. All scores are 0: lse = ln 2, out = the mean of v.
    p.q = {rest.at(0), 0, 0, 0};
    p.k = {rest.at(4096), 0, kDim, 0};
    p.v = {rest.at(8192), 0, kDim, 0};
    for (int64_t x = 0; x < 2 * kDim; ++x) write_element(rest.at(8192), x, path.dtype, static_cast<double>(x));
    p.out = {out.at(0), 2 * kLen * kDim, kDim, kLen * kDim};
    p.lse = lse.at(0);
    path.engine.forward(p, plan.view(), path.workspace);
    for (int64_t head = 0; head < 4; ++head) {
      for (const int64_t i : {int64_t{0}, int64_t{1}, int64_t{2}, kLen - 3, kLen - 2, kLen - 1}) {
        const double got = read_element(lse.at(0), head * kLen + i, lse_type(path.dtype));
        ASSERT_NEAR(got, std::log(2.0), 1e-6) << path.name << " head " << head << " query " << i;
        for (int64_t d = 0; d < kDim; ++d) {
          const double mean = static_cast<double>(d + d + kDim) / 2;
          ASSERT_NEAR(read_element(out.at(0), (head * kLen + i) * kDim + d, path.dtype), mean, 1e-6) << path.name;
        }
      }
      const double beside = read_element(lse.at(0), head * kLen + kRows, lse_type(path.dtype));
      EXPECT_EQ(beside, 0) << path.name << ": a row of no tile was written";
    }
  }
}

// A decoding step at a billion keys: key positions, line order and the packed copy are all beyond 2^31 elements.
TEST(Far, ADecodingStepAtABillionKeys) {
  constexpr int64_t kLen = int64_t{1} << 30, kRate = int64_t{1} << 26, kDim = 4;
  const Pattern pattern =
      Pattern::dilated({64, kLen}, {1, kRate}, {.causal = true, .offsets = std::vector<int64_t>{0, kRate - 1}});
  const Extent extent{.len_q = 1, .len_k = kLen, .query_start = kLen - 1};
  const Plan plan = compile(pattern, extent, {});
  std::map<int64_t, double> weights;  // by key position
  for (int64_t i = kLen - 64; i < kLen; ++i) weights[i] += 1;
  for (int64_t i = kRate - 1; i < kLen; i += kRate) weights[i] += 1;
  for (Path& path : paths()) {
    const int64_t bytes = kLen * kDim * size_of(path.dtype);
    const AddressSpace k(bytes), v(bytes), rest(1 << 16);
    // The packed copy of all keys and values is reserved at once; a step touches little of it.
    std::map<void*, std::unique_ptr<AddressSpace>> scratch;
    path.workspace.allocate = [&](size_t size) -> void* {
      auto space = std::make_unique<AddressSpace>(static_cast<int64_t>(size));
      void* data = space->at(0);
      scratch.emplace(data, std::move(space));
      return data;
    };
    path.workspace.free = [&](void* data) { scratch.erase(data); };
    engine::ForwardProblem p;
    p.dtype = path.dtype;
    p.batch = p.heads = p.kv_heads = p.len_q = 1;
    p.len_k = kLen;
    p.dim = kDim;
    p.query_start = kLen - 1;
    p.q = {rest.at(0), 0, kDim, 0};
    p.k = {k.at(0), 0, kDim, 0};
    p.v = {v.at(0), 0, kDim, 0};
    p.out = {rest.at(4096), 0, kDim, 0};
    p.lse = rest.at(8192);
    for (int64_t d = 0; d < kDim; ++d) write_element(rest.at(0), d, path.dtype, d == 0 ? 1 : 0);
    // Score and value of each key are its number among the seen ones, in small steps that every dtype holds.
    double sum = 0, mean = 0, number = 0;
    for (const auto& [position, weight] : weights) {
      const double score = std::fmod(number, 8) / 4, value = std::fmod(number, 16);
      write_element(k.at(0), position * kDim, path.dtype, score);
      for (int64_t d = 0; d < kDim; ++d) write_element(v.at(0), position * kDim + d, path.dtype, value);
      sum += weight * std::exp(score);
      mean += weight * std::exp(score) * value;
      ++number;
    }
    path.engine.forward(p, plan.view(), path.workspace);
    EXPECT_TRUE(scratch.empty()) << path.name;
    const double unit = roundoff(path.dtype);
    EXPECT_NEAR(read_element(rest.at(8192), 0, lse_type(path.dtype)), std::log(sum), 1e-5) << path.name;
    for (int64_t d = 0; d < kDim; ++d) {
      EXPECT_NEAR(read_element(rest.at(4096), d, path.dtype), mean / sum, 1e-5 + 4 * unit * mean / sum) << path.name;
    }
  }
}

}  // namespace
}  // namespace longstride::test
