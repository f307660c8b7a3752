// Charts: what is drawn, and what cannot be.
#include "picture/chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

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

// Numbers behind `name` in every mark of the picture that begins with `mark` and holds `part`.
std::vector<double> numbers(const std::string& svg, const std::string& mark, const std::string& part,
                            const char* name) {
  std::vector<double> found;
  for (size_t at = svg.find(mark); at != std::string::npos; at = svg.find(mark, at + 1)) {
    const std::string one = svg.substr(at, svg.find("/>", at) - at);
    if (one.find(part) == std::string::npos) continue;
    found.push_back(std::stod(one.substr(one.find(std::string(" ") + name + "=\"") + std::strlen(name) + 3)));
  }
  return found;
}

TEST(Chart, BarsReachAsFarAsTheErrors) {
  Chart chart{"t", "", "x", "y", {{"", {1, 2, 3}, {4.0, 5.0, 6.0}}}};
  const std::string blue = "#0072b2";
  EXPECT_THAT(numbers(chart_picture(chart).svg(), "<line", blue, "y1"), testing::IsEmpty());
  chart.series.front().error = {0.0, 3.0, NAN};  // the second alone has a bar, out to 2 and 8
  const std::string svg = chart_picture(chart).svg();
  const std::vector<double> dots = numbers(svg, "<circle", blue, "cy");
  ASSERT_EQ(dots.size(), 3u);
  const double unit = dots[0] - dots[1];
  const std::vector<double> begins = numbers(svg, "<line", blue, "y1"), ends = numbers(svg, "<line", blue, "y2");
  const double low = dots[1] + 3 * unit, high = dots[1] - 3 * unit;
  EXPECT_THAT(begins, testing::Pointwise(testing::DoubleNear(0.05), {low, low, high}));  // the bar and its feet
  EXPECT_THAT(ends, testing::Pointwise(testing::DoubleNear(0.05), {high, low, high}));
  chart.log_y = true;
  chart.series.front().error = {5.0, 0.0, 0.0};  // it would end below zero
  EXPECT_EQ(numbers(chart_picture(chart).svg(), "<line", blue, "y1").size(), 3u);
}

TEST(Chart, OnePointHasAnAxisAndNoPointIsRefused) {
  EXPECT_NO_THROW(chart_picture({"t", "", "x", "y", {{"", {5}, {5}}}}));
  EXPECT_NO_THROW(chart_picture({"t", "", "x", "y", {{"", {5}, {5}}}, true, true}));
  EXPECT_THROW(chart_picture({"t", "", "x", "y", {{"", {1}, {NAN}}}}), Error);
  EXPECT_THROW(chart_picture({"t", "", "x", "y", {{"", {1}, {-1}}}, false, true}), Error);
}

}  // namespace
}  // namespace longstride::picture
