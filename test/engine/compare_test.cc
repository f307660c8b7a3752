// The comparator must see what it is there for: each of these would be a bug that passes.
#include "test/engine/compare.h"

#include <gtest/gtest.h>

#include <limits>

namespace longstride::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Compare, EqualIsEqual) {
  EXPECT_EQ("", difference("x", {0, 1, -2, kNan, -kInfinity}, {0, 1, -2, kNan, -kInfinity}, 0x1p-24));
  EXPECT_EQ("", difference("x", {}, {}, 0x1p-24));
}

TEST(Compare, SizeMustAgree) { EXPECT_NE("", difference("x", {1}, {1, 2}, 1)); }

TEST(Compare, NanMustStandWhereExpectedAndNowhereElse) {
  EXPECT_NE("", difference("x", {kNan}, {1}, 1, 1e9));
  EXPECT_NE("", difference("x", {1}, {kNan}, 1, 1e9));
  EXPECT_NE("", difference("x", {kInfinity}, {kNan}, 1, 1e9));
}

TEST(Compare, InfinitiesMustBeTheSame) {
  EXPECT_NE("", difference("x", {kInfinity}, {1}, 1, 1e9));
  EXPECT_NE("", difference("x", {1}, {-kInfinity}, 1, 1e9));
  EXPECT_NE("", difference("x", {-1e30}, {-kInfinity}, 1, 1e9));
  EXPECT_NE("", difference("x", {kInfinity}, {-kInfinity}, 1, 1e9));
}

TEST(Compare, BoundIsTwoPeerErrorsAndTwoUnits) {
  EXPECT_EQ("", difference("x", {1.0 + 0.9}, {1}, 0.1, 0.4));
  EXPECT_NE("", difference("x", {1.0 + 1.1}, {1}, 0.1, 0.4));
  EXPECT_EQ("", difference("x", {10 + 1.9}, {10}, 0.1, 0));  // units grow with the value
  EXPECT_NE("", difference("x", {10 + 2.1}, {10}, 0.1, 0));
  EXPECT_EQ("", difference("x", {0.1}, {0}, 0.06, 0));  // and do not shrink below 1
  EXPECT_NE("", difference("x", {0.1}, {0}, 0.04, 0));
}

TEST(Compare, NamesTheWorstElement) {
  EXPECT_NE(std::string::npos, difference("dq", {0, 0.5, 0.9, 0}, {0, 0, 0, 0}, 1e-3).find("dq[2]"));
}

}  // namespace
}  // namespace longstride::test
