// The reader of JSON: what it reads is what stands there, and what it refuses it names.
#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "longstride/error.h"

namespace longstride::core {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

// What parsing says; "" if it says nothing. Any other exception fails the test.
std::string refusal(const std::string& text, size_t most_bytes = kMostJsonBytes) {
  try {
    parse_json("config", text, most_bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string nested(size_t levels, const std::string& open, const std::string& close) {
  std::string text;
  for (size_t i = 0; i < levels; ++i) text += open;
  for (size_t i = 0; i < levels; ++i) text += close;
  return text;
}

TEST(Json, KeepsWhatStandsThere) {
  const std::string text =
      R"({"z":1,"a":[true,null,-7,18446744073709551615,-9223372036854775808,0.25,1e+20],"b":{"z":{"a":"é\u0000"}},"c":[]})";
  const Json json = parse_json("config", text);
  EXPECT_EQ(json.dump(), text);  // in the order of the text
  EXPECT_EQ(json, Json::parse(text));
  EXPECT_EQ(parse_json("config", " 3 "), Json(3));
  EXPECT_EQ(parse_json("config", "[[],{}]").dump(), "[[],{}]");
}

// A hundred thousand keys: neither the search for a key that was given before nor the object itself is quadratic.
TEST(Json, ReadsManyKeys) {
  std::string text = "{\"first\": 0";
  for (int i = 0; i < 100'000; ++i) text += ",\"" + std::to_string(i) + "\":" + std::to_string(i);
  EXPECT_EQ(parse_json("config", text + "}").size(), 100'001u);
  EXPECT_THAT(refusal(text + ",\"first\":1}"), HasSubstr("config: first must be given once"));
}

TEST(JsonRefuses, WhatIsNotJson) {
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\":}", "nul", "{\"a\":1,}", "'a'", "// a\n1", "NaN", "[1 2]"}) {
    EXPECT_THAT(refusal(text), AllOf(StartsWith("config must be JSON, got parse error at line 1, column"))) << text;
  }
  EXPECT_THAT(refusal("{\n\"a\": 1\n} tail"), HasSubstr("line 3"));
  EXPECT_THAT(refusal(std::string("{}\0 tail", 8)), HasSubstr("must be JSON, got a zero byte at byte 2"));
}

TEST(JsonRefuses, NestingBeforeItIsBuilt) {
  EXPECT_EQ(refusal(nested(kMostJsonDepth, "[", "]")), "");
  for (const size_t levels : {kMostJsonDepth + 1, size_t{70'000}, size_t{5'000'000}}) {
    const std::string says = "config must be nested at most 64 levels deep, got more";
    EXPECT_EQ(refusal(nested(levels, "[", "]")), says);
    EXPECT_EQ(refusal(nested(levels, "[", "")), says);
    EXPECT_EQ(refusal(nested(levels, "{\"a\":", "}")), says);
  }
}

TEST(JsonRefuses, Length) {
  EXPECT_EQ(refusal("[1,2]", 5), "");
  EXPECT_EQ(refusal("[1,2]", 4), "config must be at most 4 bytes long, got more");
}

TEST(JsonRefuses, KeysGivenTwice) {
  EXPECT_EQ(refusal(R"({"dim": 8, "dim": 8})"), "config: dim must be given once, got it twice; leave one of them out");
  EXPECT_THAT(refusal(R"({"a": [1, {"b": {"c": 1, "d": 2, "c": 3}}]})"),
              HasSubstr("config: a[1].b.c must be given once"));
  EXPECT_EQ(refusal(R"({"a": {"b": 1}, "b": {"b": 1}, "c": [{"b": 1}, {"b": 1}]})"), "");
}

TEST(JsonRefuses, NumbersThatNoTypeHolds) {
  EXPECT_EQ(refusal(R"({"a": [0, 1e999]})"), "config: a[1] must be a number below 1.8e308, got 1e999");
  EXPECT_THAT(refusal("-1e999"), HasSubstr("config must be a number below 1.8e308, got -1e999"));
  EXPECT_EQ(
      refusal(R"({"steps": 18446744073709551616})"),
      "config: steps must fit 64 bits, got 18446744073709551616; write it with a fraction or an exponent if it is "
      "no integer");
  EXPECT_THAT(refusal("[-9223372036854775809]"), HasSubstr("config: [0] must fit 64 bits, got -9223372036854775809"));
  EXPECT_EQ(refusal("[18446744073709551616.0, 1e20, 1e308, -9223372036854775808, 18446744073709551615]"), "");
}

// The message of an Error is UTF-8 whatever was read, and a few lines long.
TEST(JsonRefuses, WithWordsThatCanBePrinted) {
  EXPECT_THAT(refusal("[\"a\xff\"]"), AllOf(HasSubstr("ill-formed UTF-8"), HasSubstr("a\\xff")));
  EXPECT_THAT(refusal("[\"\xed\xa0\x80\"]"), HasSubstr("ill-formed UTF-8"));  // a surrogate
  EXPECT_THAT(refusal("[\"\\ud800\"]"), HasSubstr("surrogate"));
  EXPECT_THAT(refusal("{\"\xc3\xa9\": 1e999}"), HasSubstr("config: \xc3\xa9 must be"));
  EXPECT_LT(refusal(std::string("[\"") + std::string(1'000'000, 'x')).size(), 1000u);
  EXPECT_LT(refusal(std::string("[") + std::string(1'000'000, '9') + "]").size(), 1000u);
  EXPECT_LT(refusal(std::string("{\"") + std::string(1'000'000, 'x') + "\": 1e999}").size(), 1000u);
}

TEST(JsonFile, IsReadWithinItsBounds) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "longstride_json_test";
  std::filesystem::create_directories(folder);
  const auto says = [&](const std::filesystem::path& path, size_t most_bytes = kMostJsonBytes) -> std::string {
    try {
      read_json("--config", path, most_bytes);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const std::filesystem::path file = folder / "a.json";
  std::ofstream(file) << "{\"a\": 1" << std::string(200'000, ' ') << "}";
  EXPECT_EQ(read_json("--config", file).dump(), "{\"a\":1}");
  EXPECT_EQ(says(file, 100'000), "--config '" + file.string() + "' must be at most 100000 bytes long, got more");
  EXPECT_THAT(says("/dev/zero", 100'000), HasSubstr("must be at most 100000 bytes long"));
  EXPECT_EQ(says(folder), "--config '" + folder.string() + "' must be a file of JSON, got a folder");
  EXPECT_THAT(says(folder / "none"), HasSubstr("must be a file that can be read, got No such file or directory"));
  std::ofstream(file, std::ios::trunc) << "{";
  EXPECT_THAT(says(file), HasSubstr("a.json' must be JSON, got parse error at line 1"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace longstride::core
