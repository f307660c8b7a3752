// Builds the messages of refuse.h.
#include "core/refuse.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/text_stream.h"

namespace longstride::core {
namespace {

constexpr size_t kMostWordBytes = 64;  // longer than any name here twice over; a distance costs the product of lengths

// With the transposition of neighbours, the mistake that people make most, as one step.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(above);
    above.swap(row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

void refuse(std::string_view argument, std::string_view expected, std::string_view got, std::string_view remedy) {
  std::string message = fmt::format("{} {}, got {}", printable(argument), expected, printable(got));
  if (!remedy.empty()) message += fmt::format("; {}", remedy);
  throw Error(message);
}

void refuse(std::string_view argument, std::string_view expected, double got, std::string_view remedy) {
  refuse(argument, expected, fmt::format("{}", got), remedy);
}

std::string by_rank(const std::vector<std::string>& values) {
  std::vector<std::pair<std::string, std::vector<size_t>>> groups;
  for (size_t rank = 0; rank < values.size(); ++rank) {
    const auto at = std::ranges::find(groups, values[rank], &decltype(groups)::value_type::first);
    (at == groups.end() ? groups.emplace_back(values[rank], std::vector<size_t>()) : *at).second.push_back(rank);
  }
  std::vector<std::string> parts;
  for (const auto& [text, ranks] : groups)
    parts.push_back(fmt::format("{} on rank{} {}", text, ranks.size() > 1 ? "s" : "", fmt::join(ranks, ", ")));
  return fmt::format("{}", fmt::join(parts, " and "));
}

std::string nearest(std::string_view given, std::span<const std::string> known) {
  std::string best;
  if (given.size() > kMostWordBytes) return best;
  // Further than half the word is no likeness.
  size_t best_distance = std::max<size_t>(2, given.size() / 2) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(given, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

void refuse_unknown(std::string_view kind, std::string_view given, std::span<const std::string> known) {
  std::string message = fmt::format("unknown {} '{}'; one of [{}]", kind, printable(given), fmt::join(known, ", "));
  const std::string near = nearest(given, known);
  if (!near.empty()) message += fmt::format("; did you mean '{}'?", near);
  throw Error(message);
}

}  // namespace longstride::core
