// Computes the yardstick of peer.h. Only pairs that are seen are touched, so that poison stays where it is.
#include "test/engine/peer.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace longstride::test {
namespace {

// What is rounded to the case's dtype: every tensor, all but dP, or no more than out and the results.
enum class Rounded { kAll, kFused, kLeast };

template <typename Sum>
class PlainHead {
 public:
  PlainHead(const Case& c, Rounded what, Peer& peer) : c_(c), what_(what), o_(c.options), peer_(peer) {
    dk_.resize(c.k.size());
    dv_.resize(c.v.size());
    dk_terms_.resize(c.k.size());
    dv_terms_.resize(c.v.size());
  }

  void run(const oracle::Sight& sight, int64_t b, int64_t h) {
    const int64_t j = o_.kv_head(h);
    const auto scale = static_cast<Sum>(o_.scale_used());
    const auto out_scale = static_cast<Sum>(o_.average ? 1.0 / static_cast<double>(o_.groups()) : 1.0);
    for (int64_t i = 0; i < o_.len_q; ++i) {
      const int64_t query = ((b * o_.len_q + i) * o_.heads + h) * o_.dim;
      const int64_t stat = (b * o_.heads + h) * o_.len_q + i;
      std::vector<int64_t> keys;  // offsets of their rows
      std::vector<Sum> scores, gains, weights;
      const auto phantoms = static_cast<Sum>(sight.phantoms(o_.query_start + i));
      Sum top = phantoms > 0 ? Sum{0} : -std::numeric_limits<Sum>::infinity();
      for (int64_t p = 0; p < o_.len_k; ++p) {
        const int64_t m = sight.multiplicity(o_.query_start + i, p);
        if (m == 0) continue;
        keys.push_back(((b * o_.len_k + p) * o_.kv_heads + j) * o_.dim);
        const double bias =
            o_.alibi_slopes.empty() ? 0.0 : o_.alibi_slopes[h] * std::abs(static_cast<double>(o_.query_start + i - p));
        scores.push_back(scale * dot(c_.q, query, c_.k, keys.back()) - static_cast<Sum>(bias));
        raise(peer_.sizes.lse, std::abs(o_.scale_used()) * terms(c_.q, query, c_.k, keys.back()) + std::abs(bias));
        weights.push_back(static_cast<Sum>(m));
        const bool kept = o_.dropout_p == 0 || o_.keeps(b, h, o_.query_start + i, p);
        gains.push_back(kept ? static_cast<Sum>(1.0 / (1.0 - o_.dropout_p)) : Sum{0});
        top = std::max(top, scores.back());
      }
      if (keys.empty() && phantoms == 0) continue;
      Sum sum = phantoms > 0 ? phantoms * std::exp(-top) : Sum{0};
      for (size_t n = 0; n < keys.size(); ++n) sum += weights[n] * std::exp(scores[n] - top);
      const Sum lse = top + std::log(sum);
      peer_.forward.lse[stat] = lse;
      std::vector<Sum> shares;
      std::vector<Sum> out(o_.dim);
      std::vector<double> out_terms(o_.dim), dq_terms(o_.dim);
      for (size_t n = 0; n < keys.size(); ++n) {
        shares.push_back(within(weights[n] * std::exp(scores[n] - top) / sum));
        for (int64_t d = 0; d < o_.dim; ++d) {
          out[d] += within(shares[n] * gains[n]) * static_cast<Sum>(c_.v[keys[n] + d]);
          out_terms[d] += std::abs(static_cast<double>(shares[n] * gains[n]) * c_.v[keys[n] + d]);
        }
      }
      Sum delta = 0;
      double delta_terms = 0;
      for (int64_t d = 0; d < o_.dim; ++d) {
        peer_.forward.out[query + d] = round(out_scale * within(out[d]));
        delta += static_cast<Sum>(peer_.forward.out[query + d]) * static_cast<Sum>(c_.d_out[query + d]);
        delta_terms += out_terms[d] * std::abs(c_.d_out[query + d]);
        raise(peer_.sizes.out, out_terms[d]);
      }
      const Sum d_lse = c_.has_d_lse ? static_cast<Sum>(c_.d_lse[stat]) : Sum{0};
      std::vector<Sum> dq(o_.dim);
      // torch keeps lse for the backward and takes the shares from it again.
      for (size_t n = 0; n < keys.size(); ++n) shares[n] = within(weights[n] * std::exp(scores[n] - lse));
      for (size_t n = 0; n < keys.size(); ++n) {
        const Sum d_share = out_scale * gains[n] * dot(c_.d_out, query, c_.v, keys[n]);
        const Sum gain = what_ == Rounded::kAll ? round(d_share) : d_share;
        const Sum d_score = within(shares[n] * (gain - delta + d_lse));
        const double gain_terms = static_cast<double>(gains[n]) * terms(c_.d_out, query, c_.v, keys[n]);
        const double d_score_terms = static_cast<double>(shares[n]) * std::abs(o_.scale_used()) *
                                     (gain_terms + delta_terms + std::abs(static_cast<double>(d_lse)));
        for (int64_t d = 0; d < o_.dim; ++d) {
          dq[d] += scale * d_score * static_cast<Sum>(c_.k[keys[n] + d]);
          dk_[keys[n] + d] += scale * d_score * static_cast<Sum>(c_.q[query + d]);
          dv_[keys[n] + d] += out_scale * within(shares[n] * gains[n]) * static_cast<Sum>(c_.d_out[query + d]);
          dq_terms[d] += d_score_terms * std::abs(c_.k[keys[n] + d]);
          dk_terms_[keys[n] + d] += d_score_terms * std::abs(c_.q[query + d]);
          dv_terms_[keys[n] + d] += static_cast<double>(shares[n] * gains[n]) * std::abs(c_.d_out[query + d]);
        }
      }
      for (int64_t d = 0; d < o_.dim; ++d) {
        peer_.backward.dq[query + d] = round(dq[d]);
        raise(peer_.sizes.dq, dq_terms[d]);
      }
    }
  }

  void finish() {
    for (size_t n = 0; n < dk_.size(); ++n) {
      peer_.backward.dk[n] = round(dk_[n]);
      peer_.backward.dv[n] = round(dv_[n]);
      raise(peer_.sizes.dk, dk_terms_[n]);
      raise(peer_.sizes.dv, dv_terms_[n]);
    }
  }

 private:
  Sum round(Sum x) const { return static_cast<Sum>(rounded(static_cast<double>(x), c_.dtype)); }
  Sum within(Sum x) const { return what_ == Rounded::kLeast ? x : round(x); }
  Sum dot(const std::vector<double>& a, int64_t at_a, const std::vector<double>& b, int64_t at_b) const {
    Sum sum = 0;
    for (int64_t d = 0; d < o_.dim; ++d) sum += static_cast<Sum>(a[at_a + d]) * static_cast<Sum>(b[at_b + d]);
    return sum;
  }

  // Of a product, the sum of the absolute terms.
  double terms(const std::vector<double>& a, int64_t at_a, const std::vector<double>& b, int64_t at_b) const {
    double sum = 0;
    for (int64_t d = 0; d < o_.dim; ++d) sum += std::abs(a[at_a + d] * b[at_b + d]);
    return sum;
  }
  static void raise(double& size, double to) { size = std::max(size, to); }

  const Case& c_;
  const Rounded what_;
  const oracle::Options& o_;
  Peer& peer_;
  std::vector<Sum> dk_;
  std::vector<Sum> dv_;
  std::vector<double> dk_terms_;
  std::vector<double> dv_terms_;
};

template <typename Sum>
void compute(const Case& c, Rounded what, Peer& peer) {
  PlainHead<Sum> head(c, what, peer);
  for (int64_t b = 0; b < c.options.batch; ++b) {
    for (int64_t h = 0; h < c.options.heads; ++h) {
      head.run(oracle::Sight(c.options, b, c.options.kv_head(h)), b, h);
    }
  }
  head.finish();
}

Peer plain_results(const Case& c, Rounded what) {
  Peer peer;
  peer.forward.out.assign(c.q.size(), 0.0);
  peer.forward.lse.assign(c.options.batch * c.options.heads * c.options.len_q,
                          -std::numeric_limits<double>::infinity());
  peer.backward.dq.assign(c.q.size(), 0.0);
  peer.backward.dk.assign(c.k.size(), 0.0);
  peer.backward.dv.assign(c.v.size(), 0.0);
  if (c.dtype == core::DType::kFloat64) {
    compute<double>(c, what, peer);
  } else {
    compute<float>(c, what, peer);
  }
  return peer;
}

}  // namespace

Peer peer_results(const Case& c) {
  Peer peer = plain_results(c, Rounded::kAll);
  const bool narrow = c.dtype == core::DType::kBFloat16 || c.dtype == core::DType::kFloat16;
  peer.fused = narrow ? plain_results(c, Rounded::kFused).backward : peer.backward;
  peer.least = narrow ? plain_results(c, Rounded::kLeast).backward : peer.backward;
  return peer;
}

}  // namespace longstride::test
