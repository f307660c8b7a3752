// Reach against a closure by three loops over the oracle's pairs, and by hand where the answer is known.
#include "longstride/pattern/reach.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "longstride/error.h"
#include "longstride/pattern/json.h"
#include "oracle/attention.h"

namespace longstride {
namespace {

using ::testing::HasSubstr;

using Matrix = std::vector<std::vector<bool>>;

Matrix product(const Matrix& a, const Matrix& b) {
  const size_t n = a.size();
  Matrix c(n, std::vector<bool>(n, false));
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < n; ++k) {
      for (size_t j = 0; j < n && a[i][k]; ++j) c[i][j] = c[i][j] || b[k][j];
    }
  }
  return c;
}

double share(const Matrix& a, bool causal) {
  double count = 0;
  for (const auto& row : a) count += static_cast<double>(std::count(row.begin(), row.end(), true));
  const auto n = static_cast<double>(a.size());
  return count / (causal ? n * (n + 1) / 2 : n * n);
}

// The same by the oracle's pairs and powers of a matrix.
void expect_brute_force(const Pattern& pattern, const oracle::Options& options) {
  const Reach ours = reach(pattern, options.len_k, options.kv_heads);
  const auto n = static_cast<size_t>(options.len_k);
  Matrix step(n, std::vector<bool>(n, false));
  double density = 0;
  for (int64_t j = 0; j < options.kv_heads; ++j) {
    const oracle::Sight sight(options, 0, j);
    Matrix seen(n, std::vector<bool>(n, false));
    for (size_t q = 0; q < n; ++q) {
      for (size_t k = 0; k < n; ++k) {
        seen[q][k] = sight.multiplicity(static_cast<int64_t>(q), static_cast<int64_t>(k)) > 0;
        step[q][k] = step[q][k] || seen[q][k] || q == k;
      }
    }
    density += share(seen, options.causal) / static_cast<double>(options.kv_heads);
  }
  EXPECT_NEAR(ours.density, density, 1e-12);
  ASSERT_FALSE(ours.reached.empty());
  Matrix power = step;
  for (size_t layer = 0; layer < ours.reached.size(); ++layer) {
    EXPECT_NEAR(ours.reached[layer], share(power, options.causal), 1e-12) << "layer " << layer + 1;
    if (layer > 0) {
      EXPECT_GT(ours.reached[layer], ours.reached[layer - 1]);
    }
    power = product(step, power);
  }
  // No further layer adds to the last one.
  EXPECT_NEAR(ours.reached.back(), share(power, options.causal), 1e-12);
  EXPECT_EQ(ours.all, ours.reached.back() == 1.0);
}

TEST(Reach, DilatedGroupsEqualTheClosure) {
  std::mt19937 chance(7);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(chance);
  };
  for (int n = 0; n < 120; ++n) {
    SCOPED_TRACE(n);
    oracle::Options options;
    options.len_q = options.len_k = draw(1, 70);
    options.kv_heads = options.heads = draw(1, 5);
    options.causal = draw(0, 1) == 1;
    for (int64_t g = draw(1, 3); g > 0; --g) {
      options.segments.push_back(draw(1, 40));
      options.rates.push_back(draw(1, 6));
    }
    DilatedOptions ours;
    ours.causal = options.causal;
    options.head_partition = options.kv_heads >= options.groups() && draw(0, 1) == 1;
    if (options.head_partition) ours.mixing = Mixing::kHeadPartition;
    options.rule = static_cast<oracle::OffsetRule>(draw(0, 2));
    ours.head_offset = static_cast<HeadOffset>(options.rule);
    expect_brute_force(Pattern::dilated(options.segments, options.rates, ours), options);
  }
}

TEST(Reach, BlockPatternsEqualTheClosure) {
  for (const bool causal : {false, true}) {
    for (const int64_t len : {1, 7, 64, 71, 150}) {
      SCOPED_TRACE(testing::Message() << "causal " << causal << ", len " << len);
      oracle::Options options;
      options.len_q = options.len_k = len;
      options.kv_heads = options.heads = 3;
      options.causal = causal;
      oracle::BlockRule window;
      window.kind = oracle::BlockKind::kLocalWindow;
      window.block_size = 8;
      window.window = 16;
      options.blocks = {window};
      const BlockPattern local(8, LocalWindow{.window = 16});
      expect_brute_force(Pattern::block_sparse({local}, causal), options);
      options.segments = {64};
      options.rates = {5};
      expect_brute_force(Pattern::dilated({64}, {5}, {.causal = causal}).with_blocks({local}), options);
    }
  }
}

// Half a window of one block on each side: after n layers a token has moved n blocks.
TEST(Reach, OfAWindowIsItsBlocks) {
  const BlockPattern local(16, LocalWindow{.window = 32});
  const Reach far = reach(Pattern::block_sparse({local}, true), 16 * 10, 2);
  EXPECT_TRUE(far.all);
  EXPECT_EQ(far.reached.size(), 9u);
  EXPECT_EQ(reach(Pattern::block_sparse({local}, false), 16 * 10, 2).reached.size(), 9u);
}

TEST(Reach, OfAllIsOneLayerAndOfPartsNever) {
  const Reach dense = reach(Pattern::dilated({100}, {1}, {.causal = true}), 100, 1);
  EXPECT_TRUE(dense.all);
  EXPECT_EQ(dense.density, 1);
  EXPECT_EQ(dense.reached, std::vector<double>{1});
  // Segments alone never meet.
  const Reach apart = reach(Pattern::dilated({25}, {1}), 100, 1);
  EXPECT_FALSE(apart.all);
  EXPECT_EQ(apart.reached, std::vector<double>{0.25});
  // Heads that see different residues meet in the residual stream of one layer, but a residue is never left.
  const Reach residues = reach(Pattern::dilated({100}, {4}), 100, 4);
  EXPECT_FALSE(residues.all);
  EXPECT_NEAR(residues.density, 1.0 / 16, 1e-12);
  EXPECT_EQ(residues.reached, std::vector<double>{0.25});
}

TEST(Reach, RefusesWhatIsOutOfRange) {
  const Pattern pattern = Pattern::dilated({8}, {1});
  const auto refusal = [&](int64_t len, int64_t kv_heads) {
    try {
      reach(pattern, len, kv_heads);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(refusal(0, 1), HasSubstr("len must be in [1, 32768], got 0"));
  EXPECT_THAT(refusal(32769, 1), HasSubstr("got 32769"));
  EXPECT_THAT(refusal(8, 0), HasSubstr("kv_heads must be positive, got 0"));
}

}  // namespace
}  // namespace longstride
