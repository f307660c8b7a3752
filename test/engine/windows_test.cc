// Sliding windows on the torch-free engines: against the oracle beside everything that a case can have, plans verified
// pair by pair; what a key moves; what decoding does not read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "longstride/plan.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

std::vector<Engine> engines_for(core::DType dtype) {
  if (dtype == core::DType::kFloat64) return {reference_engine()};
  return {reference_engine(), cpu_engine()};
}

bool has_nan(const std::vector<double>& x) {
  return std::any_of(x.begin(), x.end(), [](double value) { return std::isnan(value); });
}

// Of the seeded cases three in eight have a window: a thousand, and those of the covering array.
TEST(WindowsOfEngines, AgreeWithTheOracleBesideEverything) {
  int64_t random = 0, unread_keys = 0, by_cpu = 0, failures = 0;
  for_each_case(2800, Poison::kUnread, [&](const Case& c) {
    if (c.choice[kWindow] == 0 || failures >= 5) return;
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Plan plan = compile(c.pattern(), c.extent(), c.geometry, direction);
      const std::string fault = verify(plan.view(), c.pattern(), c.extent());
      EXPECT_EQ("", fault) << c.words();
      failures += !fault.empty();
    }
    for (const Engine& engine : engines_for(c.dtype)) {
      const std::string fault = against_oracle(engine, c, run_case(engine, c, threads(2)));
      EXPECT_EQ("", fault) << engine.name;
      failures += !fault.empty();
      by_cpu += engine.name == "cpu";
    }
    random += c.seed < 1'000'000;
    unread_keys += has_nan(c.k);
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  EXPECT_GE(random, share(1000));
  EXPECT_GE(by_cpu, share(500));
  EXPECT_GE(unread_keys, share(100));
}

// Changing k[p] and v[p] moves the queries that see p, and no bit of another.
TEST(WindowsOfEngines, AKeyMovesTheQueriesThatSeeIt) {
  int64_t moved = 0, kept = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    Choice choice = random_choice(seed);
    choice[kDType] = static_cast<int>(seed % 3);
    choice[kWindow] = 1 + static_cast<int>(seed / 3 % 3);
    choice[kBlocks] = choice[kDropoutP] = choice[kPadding] = choice[kScale] = 0;
    choice[kLength] = 6;
    Case c = make_case(choice, seed, Poison::kNone);
    const oracle::Options& o = c.options;
    const int64_t p = static_cast<int64_t>(seed * 13) % o.len_k, row = o.kv_heads * o.dim;
    for (const Engine& engine : engines_for(c.dtype)) {
      Case changed = c;
      for (int64_t i = 0; i < o.batch * row; ++i) {
        const int64_t at = (i / row * o.len_k + p) * row + i % row;
        changed.k[at] = rounded(c.k[at] + 0.5, c.dtype);
        changed.v[at] = rounded(-9.25, c.dtype);
      }
      const Results before = run_case(engine, c), after = run_case(engine, changed);
      for (int64_t b = 0; b < o.batch; ++b) {
        for (int64_t h = 0; h < o.heads; ++h) {
          const oracle::Sight sight(o, b, h / (o.heads / o.kv_heads));
          for (int64_t i = 0; i < o.len_q; ++i) {
            const int64_t at = ((b * o.len_q + i) * o.heads + h) * o.dim;
            const bool same = std::equal(&before.out[at], &before.out[at] + o.dim, &after.out[at]);
            const bool sees = sight.multiplicity(o.query_start + i, p) > 0;
            if (!sees) {
              ASSERT_TRUE(same) << engine.name << " query " << i << " key " << p << '\n' << c.words();
            }
            moved += sees && !same;
            kept += !sees;
          }
        }
      }
    }
  }
  EXPECT_GT(moved, 1000);
  EXPECT_GT(kept, 1000);
}

}  // namespace
}  // namespace longstride::test
