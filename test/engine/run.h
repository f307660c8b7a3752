// Runs a torch-free engine on a Case: lays the tensors out in memory as the case says, NaN wherever no value stands,
// fills the outputs with NaN, and reads the results back into dense doubles. Called by the engine tests.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "engine/contract.h"
#include "test/engine/cases.h"

namespace longstride::test {

struct Engine {
  std::string name;
  std::function<void(const engine::ForwardProblem&, const PlanView&, const engine::Workspace&)> forward;
  std::function<void(const engine::BackwardProblem&, const PlanView&, const engine::Workspace&)> backward;
};
inline void PrintTo(const Engine& engine, std::ostream* out) { *out << engine.name; }  // the names of tests

struct Results {
  std::vector<double> out;  // [batch, len_q, heads, dim]
  std::vector<double> lse;  // [batch, heads, len_q]
  std::vector<double> dq;
  std::vector<double> dk;
  std::vector<double> dv;
  std::optional<std::vector<double>> gates;  // of gate_cells(case); nothing: they were not asked for
  bool strayed = false;                      // something was written outside the rows of an output
  bool operator==(const Results&) const = default;
};

// A geometry whose plans have every long tile cut into parts: nothing costs but pairs.
inline Geometry eager(Geometry g, int32_t workers) {
  g.workers = workers;
  g.merge_columns = g.part_columns = g.run_columns = g.tile_columns = 0;
  return g;
}

// Element `element` of an array of `dtype`; what is written is rounded to it.
double read_element(const void* array, int64_t element, core::DType dtype);
void write_element(void* array, int64_t element, core::DType dtype, double value);

// The blocks whose gates are asked for: those of the case's first explicit list, {batch row, KV head, query block, key
// block} in the order of engine::Gates. Empty if there is no list.
std::vector<std::array<int64_t, 4>> gate_cells(const Case& c);

// A [batch, len, heads, dim] tensor of some dtype in memory, in the case's layout; the gaps hold NaN.
class TensorBuffer {
 public:
  TensorBuffer(core::DType dtype, int64_t batch, int64_t len, int64_t heads, int64_t dim, int layout);
  TensorBuffer(core::DType dtype, int64_t batch, int64_t len, int64_t heads, int64_t dim, int layout,
               const std::vector<double>& values);
  engine::ConstTensorRef read() const;
  engine::TensorRef write();
  std::vector<double> values() const;
  bool gaps_untouched() const;

 private:
  size_t index(int64_t b, int64_t i, int64_t h) const;
  double at(size_t element) const;
  void set(size_t element, double value);
  core::DType dtype_;
  int64_t batch_, len_, heads_, dim_;
  int64_t batch_stride_, len_stride_, head_stride_;
  std::vector<unsigned char> bytes_;
};

// Compiles both plans with the case's geometry (or those given) and runs forward, then backward on the engine's own out
// and lse.
Results run_case(const Engine& engine, const Case& c, const engine::Workspace& workspace = {});
Results run_case(const Engine& engine, const Case& c, const Plan& forward, const Plan& transposed,
                 const engine::Workspace& workspace = {});

// "" or what differs from the oracle, with the case's words.
std::string against_oracle(const Engine& engine, const Case& c, const Results& results);

}  // namespace longstride::test
