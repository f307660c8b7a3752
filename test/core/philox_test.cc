// The generator against Random123's published vectors, the dropout decision against the oracle's own and against the
// vector of docs/dropout.md.
#include "core/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "oracle/philox.h"

namespace longstride::core {
namespace {

static_assert(philox4x32_10({0, 0, 0, 0}, {0, 0}) == PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

TEST(Philox, AllOnes) {
  constexpr uint32_t f = 0xffffffff;
  EXPECT_EQ(philox4x32_10({f, f, f, f}, {f, f}), (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Dropout, CounterHasEveryBitOfThePair) {
  const int64_t q = (int64_t{0x1234} << 32) | 0x9abcdef0;
  const int64_t k = (int64_t{0x5678} << 32) | 0x0fedcba9;
  EXPECT_EQ(Dropout::counter(7, 3, 5, q, k), (PhiloxCounter{0x9abcdef0, 0x0fedcba9, 0x12345678, 3 * 7 + 5}));
}

TEST(Dropout, SeedIsTheKeyLowWordFirst) {
  EXPECT_EQ(Dropout(0.5, -2, 1).key(), (PhiloxKey{0xfffffffe, 0xffffffff}));
  EXPECT_EQ(Dropout(0.5, (int64_t{9} << 32) | 4, 1).key(), (PhiloxKey{4, 9}));
}

TEST(Dropout, ThresholdIsTheFloor) {
  EXPECT_EQ(Dropout(0.5, 0, 1).threshold(), 0x80000000u);
  EXPECT_EQ(Dropout(0.1, 0, 1).threshold(), 429496729u);
  EXPECT_EQ(Dropout(std::nextafter(1.0, 0.0), 0, 1).threshold(), 0xffffffffu);
  EXPECT_EQ(Dropout(0.0, 0, 1).threshold(), 0u);
  EXPECT_FALSE(Dropout(0.0, 0, 1).active());
  EXPECT_FALSE(Dropout().active());
  EXPECT_DOUBLE_EQ(Dropout(0.25, 0, 1).gain(), 4.0 / 3.0);
}

TEST(Dropout, AgreesWithTheOracle) {
  std::mt19937_64 random(3);
  for (int n = 0; n < 20000; ++n) {
    const double p = static_cast<double>(random() % 1000) / 1000.0;
    const uint64_t seed = random();
    const int64_t heads = 1 + static_cast<int64_t>(random() % 64);
    const int64_t b = static_cast<int64_t>(random() % 1000), h = static_cast<int64_t>(random() % heads);
    const int shift = static_cast<int>(random() % 48) + 16;
    const int64_t q = static_cast<int64_t>(random() >> shift), k = static_cast<int64_t>(random() >> shift);
    ASSERT_EQ(Dropout(p, static_cast<int64_t>(seed), heads).keeps(b, h, q, k),
              oracle::keeps(seed, p, heads, b, h, q, k))
        << "p " << p << " seed " << seed << " b " << b << " h " << h << " q " << q << " k " << k;
  }
}

// docs/dropout.md: p = 0.5, seed = 42, heads = 4, b = 1, h = 2.
TEST(Dropout, VectorOfTheDocumentation) {
  constexpr Dropout dropout(0.5, 42, 4);
  std::string rows;
  for (int64_t q = 0; q < 4; ++q) {
    for (int64_t k = 0; k < 16; ++k) rows += dropout.keeps(1, 2, q, k) ? '1' : '0';
    rows += '\n';
  }
  EXPECT_EQ(rows, "0110101000101010\n0011000011100001\n0001011101011110\n1010110010100110\n");
  EXPECT_EQ(philox4x32_10(Dropout::counter(4, 1, 2, 0, 0), dropout.key())[0], 0x12876b33u);
  EXPECT_EQ(philox4x32_10(Dropout::counter(4, 1, 2, (int64_t{1} << 32) + 3, (int64_t{2} << 32) + 1), dropout.key())[0],
            0x8643dc1bu);
}

}  // namespace
}  // namespace longstride::core
