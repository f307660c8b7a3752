// Builds the messages of refuse.h.
#include "core/refuse.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/printable.h"

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
