// Which levels of the factors stand together: the covering array, and choices at random (cases.h).
#include <algorithm>

#include "test/engine/cases.h"
#include "test/engine/draw.h"

namespace longstride::test {
namespace {

// Greedy all-pairs: each choice starts from a pair that is still missing, then takes factor by factor the level that
// adds most missing pairs.
std::vector<Choice> cover_pairs(const std::vector<int>& levels) {
  const int factors = static_cast<int>(levels.size());
  const int width = *std::max_element(levels.begin(), levels.end());
  const auto at = [&](int f, int x, int g, int y) { return ((f * width + x) * factors + g) * width + y; };
  std::vector<bool> missing(factors * width * factors * width, false);
  for (int f = 0; f < factors; ++f) {
    for (int g = 0; g < factors; ++g) {
      if (f == g) continue;
      for (int x = 0; x < levels[f]; ++x) {
        for (int y = 0; y < levels[g]; ++y) missing[at(f, x, g, y)] = true;
      }
    }
  }
  std::vector<Choice> choices;
  for (int f = 0; f < factors; ++f) {
    for (int g = f + 1; g < factors; ++g) {
      for (int x = 0; x < levels[f]; ++x) {
        for (int y = 0; y < levels[g]; ++y) {
          if (!missing[at(f, x, g, y)]) continue;
          Choice choice(factors, -1);
          choice[f] = x;
          choice[g] = y;
          for (int n = 0; n < factors; ++n) {
            if (choice[n] >= 0) continue;
            int best_gain = -1;
            for (int i = 0; i < levels[n]; ++i) {
              // Ties go to a level that turns with the choice's number, so that levels are used evenly.
              const int level = (i + static_cast<int>(choices.size())) % levels[n];
              int gain = 0;
              for (int m = 0; m < factors; ++m) gain += choice[m] >= 0 && missing[at(n, level, m, choice[m])];
              if (gain > best_gain) {
                best_gain = gain;
                choice[n] = level;
              }
            }
          }
          for (int n = 0; n < factors; ++n) {
            for (int m = 0; m < factors; ++m) {
              if (n != m) missing[at(n, choice[n], m, choice[m])] = false;
            }
          }
          choices.push_back(std::move(choice));
        }
      }
    }
  }
  return choices;
}

}  // namespace

const std::vector<int>& levels_of_factors() {
  static const std::vector<int> levels = {4, 3, 2, 2, 3, 2, 2, 6, 7, 2, 3, 3, 4, 6, 8, 4, 4, 4, 3};
  return levels;
}

const std::vector<Choice>& pairwise_choices() {
  static const std::vector<Choice> choices = cover_pairs(levels_of_factors());
  return choices;
}

Choice random_choice(uint64_t seed) {
  Draw draw(seed ^ 0xC0FFEEull);
  Choice choice;
  for (int f = 0; f < kAlibi; ++f) choice.push_back(static_cast<int>(draw.below(levels_of_factors()[f])));
  if (draw.below(2)) choice[kBlocks] = 0;
  if (draw.below(2)) choice[kWindow] = 0;
  // Half of the random cases draw what the tables fix.
  if (draw.below(2)) choice[kGroups] = 6;
  if (draw.below(2)) choice[kLength] = 7;
  choice.push_back(draw.below(2) ? static_cast<int>(draw.below(levels_of_factors()[kAlibi])) : 0);
  return choice;
}

}  // namespace longstride::test
