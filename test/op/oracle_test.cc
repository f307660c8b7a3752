// The operator through torch against the dense float64 oracle: every option, every dtype, both directions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "test/engine/compare.h"
#include "test/engine/peer.h"
#include "test/engine/run.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

double largest_error(const std::vector<double>& peer, const std::vector<double>& truth) {
  double largest = 0;
  for (size_t i = 0; i < truth.size(); ++i)
    if (std::isfinite(truth[i]) && std::isfinite(peer[i])) largest = std::max(largest, std::abs(peer[i] - truth[i]));
  return largest;
}

// "" or what is wrong. out and lse: |op - oracle| <= 2 max|torch - oracle| + 2 u max(|oracle|, 1) with torch's own
// dense formula, or the same in plain loops where torch comes nearer by luck. The gradients too by the yardstick of the
// engine tests, which allows for what cancels in them: torch keeps no rounded out between forward and backward, a fused
// backward does.
std::string check(const Case& c) {
  const OpResults op = run_op(c);
  const OpForward peer = run_peer(c);
  const oracle::Forward plain = peer_results(c).forward;
  const oracle::Forward truth = c.forward();
  const core::DType lse_dtype = c.dtype == core::DType::kFloat64 ? core::DType::kFloat64 : core::DType::kFloat32;
  std::string wrong = difference("out", op.out, truth.out, roundoff(c.dtype),
                                 std::max(largest_error(peer.out, truth.out), largest_error(plain.out, truth.out)));
  if (wrong.empty())
    wrong = difference("lse", op.lse, truth.lse, roundoff(lse_dtype),
                       std::max(largest_error(peer.lse, truth.lse), largest_error(plain.lse, truth.lse)));
  if (!wrong.empty()) return wrong + "\n" + c.words();
  const char* engine = c.dtype == core::DType::kFloat64 ? "reference" : "cpu";
  wrong = against_oracle({engine, {}, {}}, c, {op.out, op.lse, op.dq, op.dk, op.dv, {}});
  if (!wrong.empty()) return wrong;
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
  const OpResults op = run_op(c);
  const OpForward peer = run_peer(c);
  for (size_t i = 0; i < truth.out.size(); i += 97) {
    std::vector<double> wrong = op.out;
    wrong[i] += 1e-4;
    EXPECT_NE(difference("out", wrong, truth.out, roundoff(c.dtype), largest_error(peer.out, truth.out)), "");
  }
}

}  // namespace
}  // namespace longstride::test
