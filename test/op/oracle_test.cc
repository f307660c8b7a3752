// The operator through torch against the dense float64 oracle: every option, every dtype, both directions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "test/engine/compare.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

double largest_error(const std::vector<double>& peer, const std::vector<double>& truth) {
  double largest = 0;
  for (size_t i = 0; i < truth.size(); ++i)
    if (std::isfinite(truth[i]) && std::isfinite(peer[i])) largest = std::max(largest, std::abs(peer[i] - truth[i]));
  return largest;
}

// "" or what is wrong: |op - oracle| <= 2 max|torch - oracle| + 2 u max(|oracle|, 1).
std::string check(const Case& c) {
  const OpResults op = run_op(c), peer = run_peer(c);
  const oracle::Forward forward = c.forward();
  const oracle::Backward backward = c.backward();
  const double unit = roundoff(c.dtype);
  const double lse_unit = roundoff(c.dtype == core::DType::kFloat64 ? core::DType::kFloat64 : core::DType::kFloat32);
  struct Line {
    const char* name;
    const std::vector<double>&op, &peer, &truth;
    double unit;
  };
  for (const Line& line :
       {Line{"out", op.out, peer.out, forward.out, unit}, Line{"lse", op.lse, peer.lse, forward.lse, lse_unit},
        Line{"dq", op.dq, peer.dq, backward.dq, unit}, Line{"dk", op.dk, peer.dk, backward.dk, unit},
        Line{"dv", op.dv, peer.dv, backward.dv, unit}}) {
    const std::string wrong =
        difference(line.name, line.op, line.truth, line.unit, largest_error(line.peer, line.truth));
    if (!wrong.empty()) return wrong + "\n" + c.words();
  }
  const char* engine = c.dtype == core::DType::kFloat64 ? "reference" : "cpu";
  const bool ran = c.options.batch * c.options.len_q > 0;
  if (ran && last_engine() != engine) return "ran on '" + last_engine() + "', expected " + engine + "\n" + c.words();
  return "";
}

TEST(Oracle, PairwiseGridAndRandomCases) {
  for_each_case(300, Poison::kUnread, [](const Case& c) { EXPECT_EQ(check(c), ""); });
}

// The comparison above can fail: a result off by more than rounding is seen in each output.
TEST(Oracle, SeesAWrongResult) {
  Choice choice(kFactors, 0);
  choice[kDType] = 1;
  const Case c = make_case(choice, 7);
  const oracle::Forward truth = c.forward();
  const OpResults op = run_op(c), peer = run_peer(c);
  for (size_t i = 0; i < truth.out.size(); i += 97) {
    std::vector<double> wrong = op.out;
    wrong[i] += 1e-4;
    EXPECT_NE(difference("out", wrong, truth.out, roundoff(c.dtype), largest_error(peer.out, truth.out)), "");
  }
}

}  // namespace
}  // namespace longstride::test
