// Dense attention in float64 straight from the definition of the patterns: the referee of every engine and plan. Called
// by tests only. It includes nothing of the library, so a mistake in a mask cannot agree with itself. Plain loops,
// O(len^2).
//
// Arrays are dense and row-major: q, out, d_out, dq [batch, len_q, heads, dim]; k, v, dk, dv [batch, len_k, kv_heads,
// dim]; lse, d_lse [batch, heads, len_q]. Values that no pair reads may be anything, NaN too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "oracle/blocks.h"
#include "oracle/philox.h"

namespace oracle {

enum class OffsetRule { kModulo, kBlock, kGroup };

struct Options {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t len_q = 0;
  int64_t len_k = 0;
  int64_t dim = 1;
  int64_t query_start = 0;
  std::vector<int64_t> segments;  // w, one per group
  std::vector<int64_t> rates;     // r, one per group
  std::vector<BlockRule> blocks;  // block patterns, whose union counts once beside the groups
  OffsetRule rule = OffsetRule::kModulo;
  std::vector<int64_t> offsets;  // groups x kv_heads in place of the rule, or empty
  bool causal = false;
  bool head_partition = false;
  bool average = false;
  bool zero_keys = false;
  std::vector<int64_t> cu_seqlens;  // or empty
  std::vector<int64_t> lengths;     // or empty
  std::optional<double> scale;
  double dropout_p = 0;
  uint64_t dropout_seed = 0;
  int64_t all_heads = 0;   // of which `heads` are a share, that dropout counts them by; 0: there are no others
  int64_t first_head = 0;  // of the share
  std::vector<double> alibi_slopes;  // one per head, or empty

  int64_t groups() const { return static_cast<int64_t>(segments.size()); }
  double scale_used() const { return scale ? *scale : 1.0 / std::sqrt(static_cast<double>(dim)); }
  int64_t kv_head(int64_t h) const { return h / (heads / kv_heads); }
  // The pair of these positions, if there is dropout.
  bool keeps(int64_t b, int64_t h, int64_t q, int64_t k) const {
    return oracle::keeps(dropout_seed, dropout_p, all_heads == 0 ? heads : all_heads, b, first_head + h, q, k);
  }
};

struct Forward {
  std::vector<double> out;
  std::vector<double> lse;
};

struct Backward {
  std::vector<double> dq;
  std::vector<double> dk;
  std::vector<double> dv;
};

// The offset of group g for KV head j, mod the rate.
inline int64_t offset(const Options& o, int64_t g, int64_t j) {
  const int64_t r = o.rates[g];
  if (!o.offsets.empty()) return o.offsets[g * o.kv_heads + j] % r;
  if (o.rule == OffsetRule::kModulo) return j % r;
  if (o.rule == OffsetRule::kGroup) return g % r;
  const int64_t heads_per_offset = (o.kv_heads + r - 1) / r;
  return (j / heads_per_offset) % r;
}

// Whether KV head j runs group g.
inline bool runs(const Options& o, int64_t g, int64_t j) {
  if (!o.head_partition) return true;
  const int64_t groups = o.groups();
  int64_t first = 0;
  for (int64_t i = 0; i <= g; ++i) {
    const int64_t size = o.kv_heads / groups + (i < o.kv_heads % groups ? 1 : 0);
    if (i == g) return first <= j && j < first + size;
    first += size;
  }
  return false;
}

struct Document {
  int64_t begin = 0;
  int64_t length = 0;
};

// The document in which position p of batch row b lies; nothing if it lies in none.
inline std::optional<Document> document(const Options& o, int64_t b, int64_t p) {
  if (!o.lengths.empty()) {
    if (p >= o.lengths[b]) return std::nullopt;
    return Document{0, o.lengths[b]};
  }
  if (o.cu_seqlens.empty()) return Document{0, o.len_k};
  for (size_t d = 0; d + 1 < o.cu_seqlens.size(); ++d) {
    if (o.cu_seqlens[d] <= p && p < o.cu_seqlens[d + 1]) {
      return Document{o.cu_seqlens[d], o.cu_seqlens[d + 1] - o.cu_seqlens[d]};
    }
  }
  return std::nullopt;
}

// For one batch row and one KV head: who sees whom, and how often.
class Sight {
 public:
  Sight(const Options& o, int64_t b, int64_t j) : o_(o), stay_(o.groups()), phantoms_(o.len_k, 0) {
    if (!o.blocks.empty()) shown_.assign(o.len_k, std::vector<bool>(o.len_k, false));
    for (const BlockRule& rule : o.blocks) {
      // Every document has a grid of its own, which begins where it begins.
      for (int64_t p = 0; p < o.len_k;) {
        const std::optional<Document> d = document(o, b, p);
        if (!d) break;
        const BlockMask mask = block_mask(rule, d->length, o.causal, j, b);
        for (int64_t x = 0; x < d->length; ++x) {
          for (int64_t y = 0; y < d->length; ++y) {
            if (mask[x / rule.block_size][y / rule.block_size]) shown_[d->begin + x][d->begin + y] = true;
          }
        }
        p = d->begin + d->length;
      }
    }
    for (int64_t g = 0; g < o.groups(); ++g) {
      stay_[g].assign(o.len_k, -1);
      if (!runs(o, g, j)) continue;
      const int64_t w = o.segments[g];
      const int64_t r = o.rates[g];
      for (int64_t p = 0; p < o.len_k; ++p) {
        const std::optional<Document> d = document(o, b, p);
        if (!d) continue;
        const int64_t in_document = p - d->begin;
        const int64_t s = in_document / w;
        const int64_t t = in_document - s * w;
        if (t % r != offset(o, g, j)) continue;
        // Two sampled positions share a document and a segment iff their segments start at the same place.
        stay_[g][p] = d->begin + s * w;
        if (!o.zero_keys || o.causal) continue;
        const int64_t w_used = std::min(w, d->length);
        int64_t real = 0;
        for (int64_t u = 0; u < w && s * w + u < d->length; ++u) real += u % r == offset(o, g, j);
        phantoms_[p] += (w_used + r - 1) / r - real;
      }
    }
  }

  // q and k are positions among the len_k, queries included.
  int64_t multiplicity(int64_t q, int64_t k) const {
    if (o_.causal && k > q) return 0;
    int64_t m = 0;
    for (const std::vector<int64_t>& stay : stay_) m += stay[q] >= 0 && stay[q] == stay[k];
    if (!shown_.empty() && shown_[q][k]) ++m;
    return m;
  }
  int64_t phantoms(int64_t q) const { return phantoms_[q]; }

 private:
  const Options& o_;
  std::vector<std::vector<int64_t>> stay_;  // [group][position]: start of the segment that samples it, or -1
  std::vector<int64_t> phantoms_;
  std::vector<std::vector<bool>> shown_;  // [q][k] by a block pattern; empty if there is none
};

namespace detail {

inline double dot(const double* a, const double* b, int64_t dim) {
  double sum = 0;
  for (int64_t i = 0; i < dim; ++i) sum += a[i] * b[i];
  return sum;
}

// One query's softmax: the keys it sees, their probabilities and whether dropout keeps them.
struct Row {
  struct Key {
    int64_t position = 0;
    double m = 0;
    double score = 0;
    double probability = 0;  // m e^score / the denominator
    double kept = 1;         // D / (1 - p)
  };
  std::vector<Key> keys;
  double lse = -std::numeric_limits<double>::infinity();
};

inline Row softmax_row(const Options& o, const Sight& sight, const double* q, const double* k, int64_t b, int64_t h,
                       int64_t i) {
  const int64_t position = o.query_start + i;
  const double* query = q + ((b * o.len_q + i) * o.heads + h) * o.dim;
  Row row;
  const double phantoms = static_cast<double>(sight.phantoms(position));
  double top = phantoms > 0 ? 0.0 : -std::numeric_limits<double>::infinity();
  for (int64_t p = 0; p < o.len_k; ++p) {
    const int64_t m = sight.multiplicity(position, p);
    if (m == 0) continue;
    const double* key = k + ((b * o.len_k + p) * o.kv_heads + o.kv_head(h)) * o.dim;
    Row::Key entry;
    entry.position = p;
    entry.m = static_cast<double>(m);
    entry.score = o.scale_used() * dot(query, key, o.dim);
    if (!o.alibi_slopes.empty()) entry.score -= o.alibi_slopes[h] * static_cast<double>(std::abs(position - p));
    if (o.dropout_p > 0) {
      entry.kept = o.keeps(b, h, position, p) ? 1.0 / (1.0 - o.dropout_p) : 0.0;
    }
    if (entry.score > top || std::isnan(entry.score)) top = entry.score;
    row.keys.push_back(entry);
  }
  if (row.keys.empty() && phantoms == 0) return row;
  double sum = phantoms > 0 ? phantoms * std::exp(-top) : 0.0;
  for (const Row::Key& key : row.keys) sum += key.m * std::exp(key.score - top);
  row.lse = top + std::log(sum);
  for (Row::Key& key : row.keys) key.probability = key.m * std::exp(key.score - top) / sum;
  return row;
}

inline double out_scale(const Options& o) { return o.average ? 1.0 / static_cast<double>(o.groups()) : 1.0; }

inline void check(const Options& o) {
  if (o.head_partition && o.kv_heads < o.groups()) throw std::invalid_argument("oracle: fewer KV heads than groups");
  if (o.heads % o.kv_heads != 0 || o.segments.size() != o.rates.size()) throw std::invalid_argument("oracle: options");
  if (!o.alibi_slopes.empty() && static_cast<int64_t>(o.alibi_slopes.size()) != o.heads) {
    throw std::invalid_argument("oracle: slopes");
  }
}

}  // namespace detail

inline Forward forward(const Options& o, const std::vector<double>& q, const std::vector<double>& k,
                       const std::vector<double>& v) {
  detail::check(o);
  Forward result;
  result.out.assign(o.batch * o.len_q * o.heads * o.dim, 0.0);
  result.lse.assign(o.batch * o.heads * o.len_q, -std::numeric_limits<double>::infinity());
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t j = 0; j < o.kv_heads; ++j) {
      const Sight sight(o, b, j);
      for (int64_t h = j * (o.heads / o.kv_heads); h < (j + 1) * (o.heads / o.kv_heads); ++h) {
        for (int64_t i = 0; i < o.len_q; ++i) {
          const detail::Row row = detail::softmax_row(o, sight, q.data(), k.data(), b, h, i);
          result.lse[(b * o.heads + h) * o.len_q + i] = row.lse;
          double* out = &result.out[((b * o.len_q + i) * o.heads + h) * o.dim];
          for (const auto& key : row.keys) {
            const double* value = &v[((b * o.len_k + key.position) * o.kv_heads + j) * o.dim];
            for (int64_t d = 0; d < o.dim; ++d) out[d] += key.probability * key.kept * value[d];
          }
          for (int64_t d = 0; d < o.dim; ++d) out[d] *= detail::out_scale(o);
        }
      }
    }
  }
  return result;
}

// The gradient of sum(d_out * out) + sum(d_lse * lse), by differentiating the formula: with p = m e^s / Z,
// d out / d s = kept p v - p sum(kept p v) and d lse / d s = p. `d_lse` may be empty.
inline Backward backward(const Options& o, const std::vector<double>& q, const std::vector<double>& k,
                         const std::vector<double>& v, const std::vector<double>& d_out,
                         const std::vector<double>& d_lse) {
  detail::check(o);
  Backward result;
  result.dq.assign(q.size(), 0.0);
  result.dk.assign(k.size(), 0.0);
  result.dv.assign(v.size(), 0.0);
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t j = 0; j < o.kv_heads; ++j) {
      const Sight sight(o, b, j);
      for (int64_t h = j * (o.heads / o.kv_heads); h < (j + 1) * (o.heads / o.kv_heads); ++h) {
        for (int64_t i = 0; i < o.len_q; ++i) {
          const detail::Row row = detail::softmax_row(o, sight, q.data(), k.data(), b, h, i);
          const int64_t at = ((b * o.len_q + i) * o.heads + h) * o.dim;
          const double row_d_lse = d_lse.empty() ? 0.0 : d_lse[(b * o.heads + h) * o.len_q + i];
          std::vector<double> gains;  // d loss / d p, through out
          double mean_gain = 0;
          for (const auto& key : row.keys) {
            const int64_t key_at = ((b * o.len_k + key.position) * o.kv_heads + j) * o.dim;
            gains.push_back(key.kept * detail::out_scale(o) * detail::dot(&d_out[at], &v[key_at], o.dim));
            mean_gain += key.probability * gains.back();
          }
          for (size_t n = 0; n < row.keys.size(); ++n) {
            const auto& key = row.keys[n];
            const int64_t key_at = ((b * o.len_k + key.position) * o.kv_heads + j) * o.dim;
            const double d_score = key.probability * (gains[n] - mean_gain + row_d_lse) * o.scale_used();
            for (int64_t d = 0; d < o.dim; ++d) {
              result.dq[at + d] += d_score * k[key_at + d];
              result.dk[key_at + d] += d_score * q[at + d];
              result.dv[key_at + d] += key.probability * key.kept * detail::out_scale(o) * d_out[at + d];
            }
          }
        }
      }
    }
  }
  return result;
}

// The gradient of sum(d_out * out) + sum(d_lse * lse) in gates of blocks: a gate multiplies e^score of the pairs of its
// block as far as the block itself shows them, and is 1. Cells are {batch row, KV head, query block, key block}, blocks
// counting from position 0.
struct GateGradient {
  double value = 0;
  double terms = 0;  // the sum of the absolute terms behind it
};
inline std::vector<GateGradient> gate_gradients(const Options& o, const std::vector<double>& q,
                                                const std::vector<double>& k, const std::vector<double>& v,
                                                const std::vector<double>& d_out, const std::vector<double>& d_lse,
                                                int64_t block_size, const std::vector<std::array<int64_t, 4>>& cells) {
  std::vector<GateGradient> gradients;
  for (const auto& [b, j, query_block, key_block] : cells) {
    GateGradient sum;
    const Sight sight(o, b, j);
    for (int64_t h = j * (o.heads / o.kv_heads); h < (j + 1) * (o.heads / o.kv_heads); ++h) {
      for (int64_t i = 0; i < o.len_q; ++i) {
        if ((o.query_start + i) / block_size != query_block) continue;
        const detail::Row row = detail::softmax_row(o, sight, q.data(), k.data(), b, h, i);
        const double* d_row = &d_out[((b * o.len_q + i) * o.heads + h) * o.dim];
        const double row_d_lse = d_lse.empty() ? 0.0 : d_lse[(b * o.heads + h) * o.len_q + i];
        const auto gain = [&](const detail::Row::Key& key) {
          const double* value = &v[((b * o.len_k + key.position) * o.kv_heads + j) * o.dim];
          return key.kept * detail::out_scale(o) * detail::dot(d_row, value, o.dim);
        };
        double mean = 0, mean_terms = 0;
        for (const auto& key : row.keys) {
          mean += key.probability * gain(key);
          mean_terms += key.probability * std::abs(gain(key));
        }
        for (const auto& key : row.keys) {
          if (key.position / block_size != key_block) continue;
          const double once = key.probability / key.m;
          sum.value += once * (gain(key) - mean + row_d_lse);
          sum.terms += once * (std::abs(gain(key)) + mean_terms + std::abs(row_d_lse));
        }
      }
    }
    gradients.push_back(sum);
  }
  return gradients;
}

}  // namespace oracle
