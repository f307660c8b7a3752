// Text of any bytes as JSON and on a terminal, and words nearest to a mistake.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/json.h"
#include "core/refuse.h"
#include "core/text_stream.h"

namespace longstride::core {
namespace {

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
    ASSERT_EQ(with_bytes(parse_json("text", json_text(json))), json) << testing::PrintToString(bytes);
  }
}

TEST(TextStream, PrintsWholeCharactersOnly) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(readable("plain\n\ttext"), "plain\n\ttext");
  EXPECT_EQ(readable("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x8d"), "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x8d");
  EXPECT_EQ(readable("a\xe2\x82"), "a" + bad);
  EXPECT_EQ(readable("\xe2(b"), bad + "(b");
  EXPECT_EQ(readable("\xc0\xaf"), bad + bad) << "overlong";
  EXPECT_EQ(readable("\xed\xa0\x80"), bad + bad + bad) << "a surrogate";
  EXPECT_EQ(readable("\x1b[31m"), bad + "[31m");
  EXPECT_EQ(readable("\xc2\x9b"), bad) << "a control character of two bytes";
  EXPECT_EQ(readable("\xc3\xc3\xa9"), bad + "\xc3\xa9");
  EXPECT_EQ(readable("a\r\nb"), "a\r\nb") << "the end of a line elsewhere";
  EXPECT_EQ(readable("a\rb\r"), "a\nb\n") << "alone it would set the cursor back over the line";
  EXPECT_EQ(readable("\r\r\n\xc3\r"), "\n\r\n" + bad + "\n");
  TextStream stream;
  EXPECT_EQ(stream.push(0xc3), "");
  EXPECT_EQ(stream.push(0xa9), "\xc3\xa9");
}

TEST(Nearest, FindsTypingMistakesAndNothingElse) {
  const std::vector<std::string> known = {"--layers", "--dim", "--context"};
  EXPECT_EQ(nearest("--layer", known), "--layers");
  EXPECT_EQ(nearest("--conetxt", known), "--context");
  EXPECT_EQ(nearest("--something-else", known), "");
}

}  // namespace
}  // namespace longstride::core
