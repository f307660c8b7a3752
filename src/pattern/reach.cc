// Paths through a stack of layers (reach.h): rows of bits, one row a query, which are or-ed along the pattern's pairs.
#include "longstride/pattern/reach.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "core/checked.h"
#include "core/refuse.h"
#include "longstride/pattern/sight.h"

namespace longstride {
namespace {

constexpr int64_t kMostTokens = 32768;

// len x len bits, all 0 at first.
class BitRows {
 public:
  explicit BitRows(int64_t len)
      : words_(core::ceil_divide(len, 64)), bits_(static_cast<size_t>(len * words_), uint64_t{0}) {}

  void set(int64_t row, int64_t column) { word_of(row, column / 64) |= uint64_t{1} << (column % 64); }

  void set_range(int64_t row, int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t first = begin % 64, count = std::min(end - begin, 64 - first);
      word_of(row, begin / 64) |= (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << first;
      begin += count;
    }
  }

  // row |= row `from` of `other`.
  void merge(int64_t row, const BitRows& other, int64_t from) {
    for (int64_t w = 0; w < words_; ++w) word_of(row, w) |= other.bits_[from * words_ + w];
  }

  template <class Visit>
  void for_each(int64_t row, const Visit& visit) const {
    for (int64_t w = 0; w < words_; ++w) {
      for (uint64_t left = bits_[row * words_ + w]; left != 0; left &= left - 1) {
        visit(w * 64 + std::countr_zero(left));
      }
    }
  }

  int64_t count() const {
    int64_t total = 0;
    for (const uint64_t word : bits_) total += std::popcount(word);
    return total;
  }

 private:
  uint64_t& word_of(int64_t row, int64_t word) { return bits_[row * words_ + word]; }

  int64_t words_;
  std::vector<uint64_t> bits_;
};

void show(const Sight& sight, int64_t len, BitRows& seen) {
  std::vector<Progression> keys;
  for (int64_t q = 0; q < len; ++q) {
    keys.clear();
    sight.keys(q, keys);
    for (const Progression& some : keys) {
      if (some.step == 1) {
        seen.set_range(q, some.first, some.first + some.count);
      } else {
        for (int64_t n = 0; n < some.count; ++n) seen.set(q, some.first + n * some.step);
      }
    }
  }
}

}  // namespace

Reach reach(const Pattern& pattern, int64_t len, int64_t kv_heads) {
  if (len < 1 || len > kMostTokens)
    core::refuse("len", fmt::format("must be in [1, {}]", kMostTokens), len,
                 "a pattern reaches in a shorter sequence what it reaches in a longer one of more segments or blocks");
  if (kv_heads < 1) core::refuse("kv_heads", "must be positive", kv_heads);
  const double pairs = pattern.causal() ? len * (len + 1) / 2 : len * len;
  Reach result;
  // One step: what some head shows, and the token itself.
  BitRows step(len);
  const Extent extent{.heads = kv_heads, .kv_heads = kv_heads, .len_q = len, .len_k = len};
  for (int64_t head = 0; head < kv_heads; ++head) {
    BitRows seen(len);
    show(Sight(pattern, extent, 0, head), len, seen);
    result.density += seen.count() / pairs / kv_heads;
    for (int64_t q = 0; q < len; ++q) step.merge(q, seen, q);
  }
  for (int64_t q = 0; q < len; ++q) step.set(q, q);

  BitRows reached = step;
  int64_t count = reached.count();
  for (;;) {
    result.reached.push_back(count / pairs);
    result.all = count == pairs;
    if (result.all) return result;
    BitRows next(len);
    for (int64_t q = 0; q < len; ++q) step.for_each(q, [&](int64_t k) { next.merge(q, reached, k); });
    const int64_t further = next.count();
    if (further == count) return result;
    count = further;
    reached = std::move(next);
  }
}

}  // namespace longstride
