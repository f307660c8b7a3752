// The draws of dropout: the vectors of docs/dropout.md, the oracle's own, and what can be counted in seconds of how
// random they are (tools/dropout_statistics takes its time).
#include "core/dropout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "oracle/philox.h"

namespace longstride::core {
namespace {

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

TEST(Dropout, DrawsByAQuerysShareAreTheSame) {
  std::mt19937 random(4);
  for (int n = 0; n < 20000; ++n) {
    const uint32_t query = random(), key = random();
    ASSERT_EQ(dropout_draw(query, key, dropout_share(query)), dropout_draw(query, key)) << query << " " << key;
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
  EXPECT_EQ(rows, "1100100101001010\n0110001000111001\n0011001010001010\n0101001100000011\n");
  EXPECT_EQ(dropout.word(6, Side::kQuery, 0), 0x33919c42u);
  EXPECT_EQ(dropout.word(6, Side::kKey, 0), 0xc99992f3u);
  EXPECT_EQ(dropout.draw(1, 2, 0, 0), 0xc25bc412u);
  EXPECT_EQ(dropout.draw(1, 2, (int64_t{1} << 32) + 3, (int64_t{2} << 32) + 1), 0x14c26c3eu);
}

// Whether 2048 x 2048 pairs of a head are dropped, as 1 - p and -p, which have mean 0.
class Square {
 public:
  static constexpr int64_t kLen = 2048;
  Square(double p, int64_t seed, uint32_t stream, int64_t first = 0) : p_(p), cells_(kLen * kLen) {
    const Dropout dropout(p, seed, 1);
    std::vector<uint32_t> queries(kLen), keys(kLen);
    for (int64_t i = 0; i < kLen; ++i) {
      queries[i] = dropout.word(stream, Side::kQuery, first + i);
      keys[i] = dropout.word(stream, Side::kKey, first + i);
    }
    for (int64_t i = 0; i < kLen * kLen; ++i) {
      cells_[i] = static_cast<float>((dropout_draw(queries[i / kLen], keys[i % kLen]) < dropout.threshold()) - p);
    }
  }
  double at(int64_t q, int64_t k) const { return cells_[q * kLen + k]; }

  // In standard deviations: how often pairs are dropped, and how often two are together that stand (dq, dk) apart.
  double rate() const {
    double sum = 0;
    for (const float x : cells_) sum += x;
    return sum / std::sqrt(variance() * kLen * kLen);
  }
  double together(int64_t dq, int64_t dk) const {
    double sum = 0, count = 0;
    for (int64_t q = 0; q + dq < kLen; ++q)
      for (int64_t k = std::max<int64_t>(0, -dk); k + std::max<int64_t>(0, dk) < kLen; ++k, ++count)
        sum += at(q, k) * at(q + dq, k + dk);
    return sum / (variance() * std::sqrt(count));
  }
  // Of two rows, or of two columns.
  double alike(int64_t a, int64_t b, bool rows) const {
    double sum = 0;
    for (int64_t i = 0; i < kLen; ++i) sum += rows ? at(a, i) * at(b, i) : at(i, a) * at(i, b);
    return sum / (variance() * std::sqrt(static_cast<double>(kLen)));
  }
  // Of the four corners of rectangles, which a sum of a row's and a column's word would tie together.
  double corners() const {
    double sum = 0, count = 0;
    for (int64_t q = 0; q + 1 < kLen; q += 2)
      for (int64_t k = 0; k + 1 < kLen; k += 2, ++count)
        sum += at(q, k) * at(q + 1, k) * at(q, k + 1) * at(q + 1, k + 1);
    return sum / (variance() * variance() * std::sqrt(count));
  }
  // With the same places of another.
  double with(const Square& other) const {
    double sum = 0;
    for (int64_t i = 0; i < kLen * kLen; ++i) sum += static_cast<double>(cells_[i]) * other.cells_[i];
    return sum / (std::sqrt(variance() * other.variance()) * kLen);
  }

 private:
  double variance() const { return p_ * (1 - p_); }
  double p_;
  std::vector<float> cells_;
};

// Four standard deviations; what is taken out of thousands, five and a half.
constexpr double kOne = 4, kOfThousands = 5.5;

TEST(DropoutStatistics, RateNeighboursAndRectangles) {
  for (const double p : {0.1, 0.5, 0.9}) {
    const Square square(p, 7, 3);
    EXPECT_LT(std::abs(square.rate()), kOne) << p;
    EXPECT_LT(std::abs(square.corners()), kOne) << p;
    for (int64_t dq = 0; dq <= 2; ++dq)
      for (int64_t dk = -2; dk <= 2; ++dk)
        if (dq > 0 || dk > 0) {
          EXPECT_LT(std::abs(square.together(dq, dk)), kOne) << p << ": " << dq << ", " << dk;
        }
  }
}

TEST(DropoutStatistics, RowsAndColumnsHaveNothingInCommon) {
  const Square square(0.5, 11, 0);
  double squares = 0, count = 0;
  for (int64_t a = 0; a < Square::kLen; ++a) {
    for (const int64_t step : {1, 2, 64, 777}) {
      for (const bool rows : {false, true}) {
        const double z = square.alike(a, (a + step) % Square::kLen, rows);
        ASSERT_LT(std::abs(z), kOfThousands) << a << " and " << step << " on, rows: " << rows;
        squares += z * z;
        ++count;
      }
    }
  }
  EXPECT_LT(std::abs(squares / count - 1) / std::sqrt(2 / count), kOne);
}

TEST(DropoutStatistics, HeadsSeedsAndFarPositionsHaveNothingInCommon) {
  const Square square(0.5, 11, 0);
  EXPECT_LT(std::abs(square.with(Square(0.5, 11, 1))), kOne);
  EXPECT_LT(std::abs(square.with(Square(0.5, 12, 0))), kOne);
  EXPECT_LT(std::abs(square.with(Square(0.5, 11, 0, int64_t{1} << 32))), kOne);
  EXPECT_GT(square.with(Square(0.5, 11, 0)), 1000);
}

}  // namespace
}  // namespace longstride::core
