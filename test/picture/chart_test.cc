// Charts: what is drawn, and what cannot be.
#include "picture/chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "longstride/error.h"

namespace longstride::picture {
namespace {

using testing::HasSubstr;

TEST(Chart, DrawsPointsTicksAndLegend) {
  Chart chart{"a < b", "", "context", "bits", {{"one", {1024, 4096}, {2.0, 1.5}}, {"two", {1024, 4096}, {3.0, NAN}}},
              true};
  const std::string svg = chart_picture(chart).svg();
  EXPECT_THAT(svg, HasSubstr("a &lt; b"));
  EXPECT_THAT(svg, HasSubstr(">1k<"));
  EXPECT_THAT(svg, HasSubstr(">4k<"));
  EXPECT_THAT(svg, HasSubstr(">two<"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Chart, OnePointHasAnAxisAndNoPointIsRefused) {
  EXPECT_NO_THROW(chart_picture({"t", "", "x", "y", {{"", {5}, {5}}}}));
  EXPECT_NO_THROW(chart_picture({"t", "", "x", "y", {{"", {5}, {5}}}, true, true}));
  EXPECT_THROW(chart_picture({"t", "", "x", "y", {{"", {1}, {NAN}}}}), Error);
  EXPECT_THROW(chart_picture({"t", "", "x", "y", {{"", {1}, {-1}}}, false, true}), Error);
}

}  // namespace
}  // namespace longstride::picture
