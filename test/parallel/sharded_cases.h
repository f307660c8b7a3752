// The cases of the engines and the values of every rule of blocks, each on shards drawn for it: what the tests of the
// planner of ranks hold against the definition.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "longstride/pattern/json.h"
#include "test/engine/cases.h"
#include "test/parallel/held.h"
#include "test/pattern/every_rule.h"

namespace longstride::test {

// Expects "" of check(pattern, extent, held) for the pairwise grid and for share(random_count) random cases, all of
// them with as many queries as keys.
template <class Check>
void for_each_sharded_case(int64_t random_count, const Check& check) {
  int failures = 0;
  const auto square = [](core::DType&, oracle::Options& o) {
    o.query_start = 0;
    o.len_q = o.len_k;
  };
  for_each_case(
      random_count, Poison::kNone,
      [&](const Case& c) {
        if (failures >= 5) return;
        Draw draw(c.seed);
        const Held held = draw_shards(c.extent().len_k, draw);
        const std::string wrong = check(c.pattern(), c.extent(), held);
        failures += !wrong.empty();
        EXPECT_EQ("", wrong) << held.words << ": " << c.words();
      },
      square);
}

// The same for every rule, alone, causal and not: one that is added is among them.
template <class Check>
void for_each_sharded_rule(const Check& check) {
  const Extent e = {.batch = 2, .heads = 3, .kv_heads = 3, .len_q = 96, .len_k = 96};
  Draw draw(3);
  for (const BlockPattern& one : values_of_every_rule()) {
    for (const bool causal : {false, true}) {
      const Pattern pattern = Pattern::block_sparse({one}, causal);
      const Held held = draw_shards(e.len_k, draw);
      EXPECT_EQ("", check(pattern, e, held)) << to_json(pattern) << " " << held.words;
    }
  }
}

}  // namespace longstride::test
