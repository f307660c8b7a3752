// The changes, each a function of the text and the generator: see mutate.h.
#include "fuzz/mutate.h"

#include <algorithm>
#include <cctype>
#include <iterator>

namespace longstride::fuzz {
namespace {

// Values at the edges of the types, and of every kind that JSON has.
constexpr const char* kValues[] = {"0",
                                   "-0",
                                   "-1",
                                   "1",
                                   "2",
                                   "64",
                                   "65",
                                   "16.9",
                                   "0.5",
                                   "1e-5",
                                   "1e999",
                                   "-1e999",
                                   "1e308",
                                   "1e-400",
                                   "2147483647",
                                   "2147483648",
                                   "-2147483649",
                                   "4294967296",
                                   "1152921504606846976",
                                   "1152921504606846977",
                                   "9223372036854775807",
                                   "9223372036854775808",
                                   "-9223372036854775808",
                                   "-9223372036854775809",
                                   "18446744073709551615",
                                   "18446744073709551616",
                                   "99999999999999999999999999",
                                   "true",
                                   "false",
                                   "null",
                                   "NaN",
                                   "\"\"",
                                   "\"x\"",
                                   "\"\\ud800\"",
                                   "\"\\u0000\"",
                                   "\"\xff\"",
                                   "[]",
                                   "{}",
                                   "[0,9223372036854775807,9223372036854775807]",
                                   "[[]]",
                                   "{\"\":0}",
                                   "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"};

size_t below(size_t limit, Generator& generator) { return limit == 0 ? 0 : generator() % limit; }

struct Span {
  size_t begin = 0;
  size_t bytes = 0;
};

// Short ones more often.
Span any_span(const std::string& text, Generator& generator) {
  const size_t begin = below(text.size() + 1, generator);
  const size_t most = size_t{1} << below(10, generator);
  return {begin, std::min(text.size() - begin, below(most + 1, generator))};
}

// A number, word or string that begins at or after a random place; empty if there is none.
Span any_value(const std::string& text, Generator& generator) {
  const auto is_part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-'; };
  size_t begin = below(text.size() + 1, generator);
  while (begin < text.size() && !is_part(text[begin]) && text[begin] != '"') ++begin;
  size_t end = begin;
  if (end < text.size() && text[end] == '"') {
    end = text.find('"', end + 1);
    end = end == text.npos ? text.size() : end + 1;
  } else {
    while (end < text.size() && is_part(text[end])) ++end;
  }
  return {begin, end - begin};
}

void flip_bit(std::string& text, Generator& generator) {
  if (!text.empty()) text[below(text.size(), generator)] ^= static_cast<char>(1 << below(8, generator));
}

void set_byte(std::string& text, Generator& generator) {
  if (!text.empty()) text[below(text.size(), generator)] = static_cast<char>(generator());
}

void insert_bytes(std::string& text, Generator& generator) {
  std::string bytes(1 + below(8, generator), '\0');
  for (char& c : bytes) c = static_cast<char>(generator());
  text.insert(below(text.size() + 1, generator), bytes);
}

void erase_span(std::string& text, Generator& generator) {
  const Span span = any_span(text, generator);
  text.erase(span.begin, span.bytes);
}

void repeat_span(std::string& text, Generator& generator) {
  const Span span = any_span(text, generator);
  const std::string copy = text.substr(span.begin, span.bytes);
  const size_t times = size_t{1} << below(7, generator);
  std::string repeated;
  for (size_t i = 0; i < times; ++i) repeated += copy;
  text.insert(span.begin, repeated);
}

void cut(std::string& text, Generator& generator) { text.resize(below(text.size() + 1, generator)); }

void replace_value(std::string& text, Generator& generator) {
  const Span span = any_value(text, generator);
  text.replace(span.begin, span.bytes, kValues[below(std::size(kValues), generator)]);
}

void exchange_values(std::string& text, Generator& generator) {
  const Span from = any_value(text, generator), to = any_value(text, generator);
  text.replace(to.begin, to.bytes, text.substr(from.begin, from.bytes));
}

// {"a": 1, ...} with "a" given again, as another value.
void repeat_member(std::string& text, Generator& generator) {
  const Span key = any_value(text, generator);
  if (key.bytes == 0 || text[key.begin] != '"') return;
  text.insert(key.begin, text.substr(key.begin, key.bytes) + ":" + kValues[below(std::size(kValues), generator)] + ",");
}

void nest(std::string& text, Generator& generator) {
  constexpr size_t kLevels[] = {1, 2, 8, 55, 60, 63, 64, 65, 1000, 70'000};
  const size_t levels = kLevels[below(std::size(kLevels), generator)];
  const Span span = any_value(text, generator);
  std::string before, after;
  const bool list = generator() % 2 == 0;
  for (size_t i = 0; i < levels; ++i) before += list ? "[" : "{\"a\":";
  after.assign(levels, list ? ']' : '}');
  text = text.substr(0, span.begin) + before + text.substr(span.begin, span.bytes) + after +
         text.substr(span.begin + span.bytes);
}

using Change = void (*)(std::string&, Generator&);
// Those that keep text JSON more often than those that do not, or little beyond the parser would be reached.
constexpr Change kChanges[] = {flip_bit,      set_byte,      insert_bytes,  erase_span,     repeat_span,
                               cut,           replace_value, replace_value, replace_value,  exchange_values,
                               repeat_member, replace_value, replace_value, exchange_values};

}  // namespace

std::string mutated(const std::vector<std::string>& seeds, Generator& generator) {
  constexpr size_t kMostBytes = 1 << 18;
  std::string text = seeds[below(seeds.size(), generator)];
  // Mostly one: of several, one that the parser refuses hides the others.
  constexpr size_t kChangesOfCase[] = {1, 1, 1, 1, 2, 2, 3, 8};
  for (size_t changes = kChangesOfCase[below(std::size(kChangesOfCase), generator)]; changes > 0; --changes) {
    const size_t kind = below(64, generator);
    if (kind == 0) {
      nest(text, generator);
    } else if (kind <= 3) {
      const std::string& other = seeds[below(seeds.size(), generator)];
      const Span to = any_span(text, generator), from = any_span(other, generator);
      text.replace(to.begin, to.bytes, other.substr(from.begin, from.bytes));
    } else {
      kChanges[below(std::size(kChanges), generator)](text, generator);
    }
    if (text.size() > kMostBytes) text.resize(kMostBytes);
  }
  return text;
}

}  // namespace longstride::fuzz
