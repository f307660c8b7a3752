// The small torch-free parts of the program: schedule, settings, text on a terminal, charts, words nearest to a
// mistake.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "chart.h"
#include "json_text.h"
#include "longstride/error.h"
#include "nearest.h"
#include "schedule.h"
#include "text_stream.h"
#include "train_settings.h"

namespace longstride::cli {
namespace {

using testing::HasSubstr;

TEST(Schedule, ClimbsThenFallsAlongACosine) {
  const Schedule schedule{1.0, 0.1, 0.05};
  EXPECT_GT(learning_rate(schedule, 0.0), 0.0);
  EXPECT_LT(learning_rate(schedule, 0.0), 0.03);
  EXPECT_NEAR(learning_rate(schedule, 0.05), 0.51, 1e-9);
  EXPECT_NEAR(learning_rate(schedule, 0.1), 1.0, 1e-9);
  EXPECT_NEAR(learning_rate(schedule, 0.55), 0.525, 1e-9);
  EXPECT_NEAR(learning_rate(schedule, 1.0), 0.05, 1e-9);
  EXPECT_NEAR(learning_rate({1.0, 0.0, 0.0}, 0.0), 1.0, 1e-9);
}

TEST(Schedule, ProgressIsTheShareOfTheBudget) {
  EXPECT_DOUBLE_EQ(progress({.steps = 8, .minutes = {}}, 2, 1e9), 0.25);
  EXPECT_DOUBLE_EQ(progress({.steps = {}, .minutes = 2.0}, 1000, 30.0), 0.25);
  EXPECT_DOUBLE_EQ(progress({.steps = 8, .minutes = {}}, 9, 0.0), 1.0);
}

TEST(Settings, GoToJsonAndBack) {
  TrainSettings settings;
  settings.segments = {7, 9};
  settings.lr = 0.1234567890123456789;
  settings.seed = 18446744073709551615ull;
  EXPECT_EQ(to_json(settings_from_json(nlohmann::json::parse(to_json(settings).dump()))), to_json(settings));
  EXPECT_THROW(settings_from_json({{"dmi", 3}}), Error);
  EXPECT_THROW(settings_from_json({{"dim", "3"}}), Error);
  EXPECT_THROW(settings_from_json({{"dim", 3.5}}), Error);
  EXPECT_THROW(settings_from_json({{"segments", {1, "a"}}}), Error);
  EXPECT_THROW(preset("absent"), Error);
  TrainSettings demo = settings_from_json(preset("demo"));
  demo.data = {"x"};
  EXPECT_NO_THROW(demo.validate());
  EXPECT_GE(demo.context, 16384);
}

std::string printed(const std::string& bytes) { return readable(bytes); }

TEST(JsonText, HoldsAnyBytesAndGivesThemBack) {
  EXPECT_EQ(utf8_of("plain \xc3\xa9"), "plain \xc3\xa9");
  EXPECT_EQ(utf8_of("\xff\x80"), "\xee\xbf\xbf\xee\xbe\x80") << "U+EFFF U+EF80";
  EXPECT_EQ(utf8_of("\xc3"), "\xee\xbf\x83") << "a character cut off";
  EXPECT_EQ(bytes_of(utf8_of("\xee\xbf\xbf")), "\xee\xbf\xbf") << "what stands for a byte is no exception";
  // Every mixture of whole characters, halves of them and those that stand for bytes.
  std::mt19937 chance(7);
  const std::vector<std::string> parts = {
      "\xff",         "\xee\xbe\x80",      "\xee\xbf\xbf", "\xee", "\xbe", "\x80", "a", "\xc3\xa9", "\xf0\x9f\x90\x8d",
      "\xed\xa0\x80", std::string(1, '\0')};
  for (int i = 0; i < 3000; ++i) {
    std::string bytes;
    for (size_t n = chance() % 6; n > 0; --n) bytes += parts[chance() % parts.size()];
    const nlohmann::json json = {{bytes, {bytes, 1, nullptr, {{"key", bytes}}}}};
    ASSERT_EQ(with_bytes(nlohmann::json::parse(json_text(json))), json) << testing::PrintToString(bytes);
  }
}

TEST(TextStream, PrintsWholeCharactersOnly) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(printed("plain\n\ttext"), "plain\n\ttext");
  EXPECT_EQ(printed("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x8d"), "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x8d");
  EXPECT_EQ(printed("a\xe2\x82"), "a" + bad);
  EXPECT_EQ(printed("\xe2(b"), bad + "(b");
  EXPECT_EQ(printed("\xc0\xaf"), bad + bad) << "overlong";
  EXPECT_EQ(printed("\xed\xa0\x80"), bad + bad + bad) << "a surrogate";
  EXPECT_EQ(printed("\x1b[31m"), bad + "[31m");
  EXPECT_EQ(printed("\xc2\x9b"), bad) << "a control character of two bytes";
  EXPECT_EQ(printed("\xc3\xc3\xa9"), bad + "\xc3\xa9");
  EXPECT_EQ(printed("a\r\nb"), "a\r\nb") << "the end of a line elsewhere";
  EXPECT_EQ(printed("a\rb\r"), "a\nb\n") << "alone it would set the cursor back over the line";
  EXPECT_EQ(printed("\r\r\n\xc3\r"), "\n\r\n" + bad + "\n");
  TextStream stream;
  EXPECT_EQ(stream.push(0xc3), "");
  EXPECT_EQ(stream.push(0xa9), "\xc3\xa9");
}

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

TEST(Nearest, FindsTypingMistakesAndNothingElse) {
  const std::vector<std::string> known = {"--layers", "--dim", "--context"};
  EXPECT_EQ(nearest_word("--layer", known), "--layers");
  EXPECT_EQ(nearest_word("--conetxt", known), "--context");
  EXPECT_EQ(nearest_word("--something-else", known), "");
}

}  // namespace
}  // namespace longstride::cli
