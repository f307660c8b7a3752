// The words that dropout draws, for tests of randomness: tools/dropout_statistics runs them.
// usage: dropout_words rows|columns|diagonals [STRIDE]   words without end, 4 bytes each, to standard output
//        dropout_words counts [LEN]                      rates and correlations over 4 heads of LEN x LEN pairs
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/dropout.h"

namespace {

using longstride::core::Dropout;
using longstride::core::dropout_draw;
using longstride::core::Side;

constexpr int64_t kSeed = 42;

struct Words {
  Words(uint32_t stream, int64_t len, int64_t stride) : queries(len), keys(len) {
    const Dropout dropout(0.5, kSeed, 1);
    for (int64_t i = 0; i < len; ++i) {
      queries[i] = dropout.word(stream, Side::kQuery, i * stride);
      keys[i] = dropout.word(stream, Side::kKey, i * stride);
    }
  }
  std::vector<uint32_t> queries, keys;
};

// Squares of 8,192 positions a side, head after head, until nobody reads any more.
int write(const std::string& order, int64_t stride) {
  constexpr int64_t kLen = 8192;
  std::vector<uint32_t> line(kLen);
  for (uint32_t stream = 0;; ++stream) {
    const Words words(stream, kLen, stride);
    for (int64_t i = 0; i < kLen; ++i) {
      for (int64_t j = 0; j < kLen; ++j) {
        const int64_t q = order == "rows" ? i : j, k = order == "rows" ? j : order == "columns" ? i : (i + j) % kLen;
        line[j] = dropout_draw(words.queries[q], words.keys[k]);
      }
      if (std::fwrite(line.data(), sizeof(uint32_t), line.size(), stdout) != line.size()) return 0;
    }
  }
}

// How far a sum over `count` pairs of something with mean 0 and variance 1 is from 0, in standard deviations.
double sigmas(double sum, double count) { return sum / std::sqrt(count); }

// The greatest of 24: pairs beside one another, up to two rows and two columns away.
void count(int64_t len) {
  constexpr uint32_t kHeads = 4;
  for (const double p : {0.1, 0.5}) {
    const uint32_t threshold = Dropout(p, kSeed, 1).threshold();
    const double pairs = static_cast<double>(len) * static_cast<double>(len) * kHeads;
    const double spread = std::sqrt(p * (1 - p));
    double dropped = 0;
    std::array<double, 15> together{};
    for (uint32_t stream = 0; stream < kHeads; ++stream) {
      const Words words(stream, len, 1);
      // A window of three rows, of which the first meets itself and the others: two rows up is two down of the other.
      std::array<std::vector<float>, 3> rows;
      for (auto& row : rows) row.assign(len + 4, 0.0f);
      for (int64_t q = 0; q < len; ++q) {
        std::vector<float>& row = rows[q % 3];
        int64_t in_row = 0;
        for (int64_t k = 0; k < len; ++k) {
          const bool drop = dropout_draw(words.queries[q], words.keys[k]) < threshold;
          in_row += drop;
          row[k + 2] = static_cast<float>((drop - p) / spread);
        }
        dropped += static_cast<double>(in_row);
        if (q < 2) continue;
        const std::vector<float>& middle = rows[(q - 2) % 3];
        for (int dq = 0; dq <= 2; ++dq) {
          const std::vector<float>& other = rows[(q - 2 + dq) % 3];
          for (int dk = -2; dk <= 2; ++dk) {
            double total = 0;
            for (int64_t from = 2; from < len - 2; from += 512) {
              std::array<float, 16> sums{};
              const int64_t end = std::min<int64_t>(512, len - 2 - from) / 16 * 16;
              for (int64_t k = 0; k < end; k += 16)
                for (int i = 0; i < 16; ++i) sums[i] += middle[from + 2 + k + i] * other[from + 2 + k + i + dk];
              for (const float sum : sums) total += sum;
            }
            together[dq * 5 + dk + 2] += total;
          }
        }
      }
    }
    double most = 0;
    for (int i = 3; i < 15; ++i) most = std::max(most, std::abs(sigmas(together[i], pairs)));
    std::printf("p %.1f, %.3g pairs: rate %+.2f sigma, its 24 neighbours at most %.2f sigma\n", p, pairs,
                sigmas((dropped - p * pairs) / spread, pairs), most);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int64_t number = argc > 2 ? std::atoll(argv[2]) : 0;
  if (what == "counts") {
    count(number > 0 ? number : 32768);
    return 0;
  }
  if (what == "rows" || what == "columns" || what == "diagonals") return write(what, number > 0 ? number : 1);
  std::fputs("usage: dropout_words rows|columns|diagonals [STRIDE], or dropout_words counts [LEN]\n", stderr);
  return 2;
}
