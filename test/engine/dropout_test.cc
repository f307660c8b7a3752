// Dropout on the torch-free engines where the heads are a share of all, as those of ranks that divide them: a pair is
// dropped by the number that its head has among all. The other cases of engines have all heads.
#include <gtest/gtest.h>

#include <cstdlib>

#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

std::vector<Engine> engines_for(core::DType dtype) {
  if (dtype == core::DType::kFloat64) return {reference_engine()};
  return {reference_engine(), cpu_engine()};
}

TEST(DropoutOfAShareOfTheHeads, AgreesWithTheOracle) {
  int64_t checked = 0, failures = 0;
  for_each_case(1000, Poison::kUnread, [&](Case c) {
    if (c.options.dropout_p == 0 || failures >= 5) return;
    share_heads(c.options);
    ++checked;
    for (const Engine& engine : engines_for(c.dtype)) {
      const std::string fault = against_oracle(engine, c, run_case(engine, c, threads(1 + c.seed % 2)));
      EXPECT_EQ("", fault);
      failures += !fault.empty();
    }
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  EXPECT_GE(checked, share(400));
}

// The heads of one call in two, as two ranks have them: what each computes has the bits of the whole.
TEST(DropoutOfAShareOfTheHeads, SharesAreTheWholeBitForBit) {
  for (const core::DType dtype : {core::DType::kFloat64, core::DType::kFloat32, core::DType::kBFloat16}) {
    Choice choice(kFactors, 0);
    choice[kDType] = static_cast<int>(dtype);
    choice[kDropoutP] = 1;
    const auto of_heads = [&](int64_t heads, int64_t first) {
      Case c = make_case(choice, 5, Poison::kNone, [&](core::DType&, oracle::Options& o) {
        o.batch = 2;
        o.len_q = o.len_k = 50;
        o.heads = o.kv_heads = heads;
        o.all_heads = 4;
        o.first_head = first;
        o.segments = {50};
        o.rates = {1};
      });
      // Values by position and dim alone, so that heads differ in what is dropped.
      for (auto* x : {&c.q, &c.k, &c.v, &c.d_out}) {
        const int64_t dim = c.options.dim;
        for (size_t n = 0; n < x->size(); ++n) {
          const int64_t row = static_cast<int64_t>(n) / (heads * dim), d = static_cast<int64_t>(n) % dim;
          (*x)[n] = rounded(0.125 * static_cast<double>((row * 7 + d * 3) % 13 - 6), dtype);
        }
      }
      return c;
    };
    for (const Engine& engine : engines_for(dtype)) {
      const Case all = of_heads(4, 0);
      const int64_t dim = all.options.dim;
      const Results whole = run_case(engine, all);
      for (const int64_t first : {0, 2}) {
        const Results part = run_case(engine, of_heads(2, first));
        int64_t differ = 0, as_the_first = 0;
        for (int64_t row = 0; row < 2 * 50; ++row) {
          for (int64_t h = 0; h < 2; ++h) {
            for (int64_t d = 0; d < dim; ++d) {
              const int64_t its = (row * 2 + h) * dim + d, at = (row * 4 + first + h) * dim + d;
              differ += part.out[its] != whole.out[at] || part.dq[its] != whole.dq[at] ||
                        part.dk[its] != whole.dk[at] || part.dv[its] != whole.dv[at];
              as_the_first += part.out[its] == whole.out[(row * 4 + h) * dim + d];
            }
          }
        }
        EXPECT_EQ(differ, 0) << engine.name << " " << core::name(dtype) << " from head " << first;
        if (first > 0) {
          EXPECT_LT(as_the_first, 50 * dim) << engine.name << ": heads draw alike";
        }
      }
    }
  }
}

}  // namespace
}  // namespace longstride::test
