// bfloat16 and float16: every bit pattern there and back, rounding at ties, and the edges.
#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace longstride::core {
namespace {

TEST(Half, EveryFloat16ComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = to_float(Float16{static_cast<uint16_t>(bits)});
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(to_float(to_float16(x)))) << bits;
    } else {
      ASSERT_EQ(to_float16(x).bits, bits);
    }
  }
}

TEST(Half, EveryBFloat16ComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = to_float(BFloat16{static_cast<uint16_t>(bits)});
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(to_float(to_bfloat16(x)))) << bits;
    } else {
      ASSERT_EQ(to_bfloat16(x).bits, bits);
    }
  }
}

// Between two neighbours: nearer wins, the middle goes to the even one.
TEST(Half, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = to_float(Float16{static_cast<uint16_t>(bits)});
    const float high = to_float(Float16{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    ASSERT_EQ(to_float16(middle).bits, bits + bits % 2);
    ASSERT_EQ(to_float16(std::nextafter(middle, 0.0f)).bits, bits);
    ASSERT_EQ(to_float16(std::nextafter(middle, 1e9f)).bits, bits + 1);
    ASSERT_EQ(to_float16(-middle).bits, (bits + bits % 2) | 0x8000u);
  }
  for (uint32_t bits = 1; bits < 0x7F7F; ++bits) {
    const float low = to_float(BFloat16{static_cast<uint16_t>(bits)});
    const float high = to_float(BFloat16{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    ASSERT_EQ(to_bfloat16(middle).bits, bits + bits % 2);
    ASSERT_EQ(to_bfloat16(std::nextafter(middle, 0.0f)).bits, bits);
    ASSERT_EQ(to_bfloat16(std::nextafter(middle, std::numeric_limits<float>::max())).bits, bits + 1);
  }
}

TEST(Half, Edges) {
  EXPECT_EQ(to_float16(65519.0f).bits, 0x7BFF);
  EXPECT_EQ(to_float16(65520.0f).bits, 0x7C00);
  EXPECT_EQ(to_float16(-1e30f).bits, 0xFC00);
  EXPECT_EQ(to_float16(std::numeric_limits<float>::infinity()).bits, 0x7C00);
  EXPECT_EQ(to_float16(0x1p-24f).bits, 1);
  EXPECT_EQ(to_float16(0x1p-26f).bits, 0);
  EXPECT_EQ(to_float16(-0.0f).bits, 0x8000);
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_EQ(to_bfloat16(-0.0f).bits, 0x8000);
}

}  // namespace
}  // namespace longstride::core
