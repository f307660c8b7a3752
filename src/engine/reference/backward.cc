// The reference backward: walks the transposed plan; a row is a key, its pairs are queries. With P = weight e^(s -
// lse), dv += P D gain d_out and ds = P (D gain d_out.v - delta + d_lse), where delta = d_out.out. out_scale multiplies
// d_out where it meets v, and is already in out, so delta needs no scaling.
#include <cmath>
#include <vector>

#include "engine/gates.h"
#include "engine/reference/elements.h"
#include "engine/reference/heads.h"
#include "engine/reference/reference.h"
#include "longstride/plan/walk.h"

namespace longstride::engine::reference {
namespace {

// The gradients of one KV head: sums over its query heads.
template <typename Element>
class KvHeadBackward {
 public:
  KvHeadBackward(const BackwardProblem& p, const PlanView& plan, int64_t b, int64_t j)
      : p_(p), plan_(plan), b_(b), j_(j), dk_(p.len_k * p.dim), dv_(dk_), key_dk_(p.dim), key_dv_(key_dk_) {}

  void run() {
    const int64_t group = p_.heads / p_.kv_heads;
    if (p_.gates) {
      const int64_t* const gates = p_.gates->begin + b_ * p_.kv_heads + j_;
      first_gate_ = gates[0];
      gate_sums_.assign(gates[1] - gates[0], 0.0);
    }
    for (int64_t h = j_ * group; h < (j_ + 1) * group; ++h) run_head(h, h + 1 == (j_ + 1) * group);
    for (size_t n = 0; n < gate_sums_.size(); ++n)
      store(gate_sums_[n], static_cast<LseOf<Element>*>(p_.gates->grad) + first_gate_ + n);
  }

 private:
  // Adds query head h; the last one writes dk and dv, row by row as the base level comes to it.
  void run_head(int64_t h, bool last) {
    prepare_queries(h);
    const int64_t slots = plan_.classes[class_id_].partial_rows;
    std::vector<double> slot_dk(slots * p_.dim);  // [slots, dim]
    std::vector<double> slot_dv(slots * p_.dim);
    for_each_row(plan_, plan_.classes[class_id_], [&](const PlacedRow& at) {
      run_key(h, at);
      if (at.placed.level->partial) {
        std::copy_n(key_dk_.data(), p_.dim, &slot_dk[at.slot() * p_.dim]);
        std::copy_n(key_dv_.data(), p_.dim, &slot_dv[at.slot() * p_.dim]);
        return;
      }
      double* dk = &dk_[at.position * p_.dim];
      double* dv = &dv_[at.position * p_.dim];
      add(key_dk_.data(), dk);
      add(key_dv_.data(), dv);
      for_each_slot(plan_, at, [&](int64_t slot) {
        add(&slot_dk[slot * p_.dim], dk);
        add(&slot_dv[slot * p_.dim], dv);
      });
      if (!last) return;
      for (int64_t d = 0; d < p_.dim; ++d) {
        store(dk[d], row<Element>(p_.dk, b_, at.position, j_) + d);
        store(dv[d], row<Element>(p_.dv, b_, at.position, j_) + d);
      }
    });
    for (int64_t i = 0; i < p_.len_q; ++i) {
      for (int64_t d = 0; d < p_.dim; ++d) store(dq_[i * p_.dim + d], row<Element>(p_.dq, b_, i, h) + d);
    }
  }

  void prepare_queries(int64_t h) {
    dq_.assign(p_.len_q * p_.dim, 0.0);
    offset_.resize(p_.len_q);
    lse_ = static_cast<const LseOf<Element>*>(p_.lse) + (b_ * p_.heads + h) * p_.len_q;
    const auto* d_lse = static_cast<const LseOf<Element>*>(p_.d_lse);
    for (int64_t i = 0; i < p_.len_q; ++i) {
      const Element* out = row<Element>(p_.out, b_, i, h);
      const double delta = dot(row<Element>(p_.d_out, b_, i, h), out, p_.dim);
      offset_[i] = delta - (d_lse ? load(d_lse[(b_ * p_.heads + h) * p_.len_q + i]) : 0.0);
    }
  }

  // Fills key_dk_ and key_dv_ with what the queries of one tile row give, and adds to dq_.
  void run_key(int64_t h, const PlacedRow& at) {
    const Element* key = row<Element>(p_.k, b_, at.position, j_);
    const Element* value = row<Element>(p_.v, b_, at.position, j_);
    std::fill(key_dk_.begin(), key_dk_.end(), 0.0);
    std::fill(key_dv_.begin(), key_dv_.end(), 0.0);
    for_each_pair(plan_, at, [&](int64_t position, int32_t weight) {
      const int64_t i = position - p_.query_start;
      const Element* query = row<Element>(p_.q, b_, i, h);
      const Element* d_out = row<Element>(p_.d_out, b_, i, h);
      // Rounded as lse is, so that a query with one key has probability 1 whatever its score.
      const auto score = static_cast<LseOf<Element>>(score_of(p_, h, position, at.position, dot(query, key, p_.dim)));
      const double probability = weight * std::exp(load(score) - load(lse_[i]));
      const bool kept = !dropout_.active() || dropout_.keeps(b_, h, position, at.position);
      const double gain = kept ? dropout_.gain() * p_.out_scale : 0.0;
      const double d_gated = probability * (gain * dot(d_out, value, p_.dim) - offset_[i]);
      const double d_score = d_gated * p_.scale;
      if (p_.gates && at.placed.level->of_base()) add_gate(position, at.position, d_gated / weight);
      for (int64_t d = 0; d < p_.dim; ++d) {
        key_dv_[d] += probability * gain * load(d_out[d]);
        key_dk_[d] += d_score * load(query[d]);
        dq_[i * p_.dim + d] += d_score * load(key[d]);
      }
    });
  }

  void add_gate(int64_t query, int64_t key, double term) {
    for_each_gate(*p_.gates, b_ * p_.kv_heads + j_, key, key + 1, query, query + 1,
                  [&](int64_t gate, auto...) { gate_sums_[gate - first_gate_] += term; });
  }

  void add(const double* from, double* to) const {
    for (int64_t d = 0; d < p_.dim; ++d) to[d] += from[d];
  }

  const BackwardProblem& p_;
  const PlanView& plan_;
  const int64_t b_;
  const int64_t j_;
  const int32_t class_id_ = plan_.class_of[b_ * p_.kv_heads + j_];
  const core::Dropout dropout_ = engine::dropout_of(p_);
  std::vector<double> dk_;  // [len_k, dim]
  std::vector<double> dv_;
  std::vector<double> dq_;  // [len_q, dim], of one query head
  std::vector<double> key_dk_;
  std::vector<double> key_dv_;
  std::vector<double> offset_;  // delta - d_lse of each query
  int64_t first_gate_ = 0;      // of the KV head
  std::vector<double> gate_sums_;
  const LseOf<Element>* lse_ = nullptr;
};

}  // namespace

void backward(const BackwardProblem& p, const PlanView& plan, const Workspace& workspace, Stream) {
  check(p, plan, Direction::kTransposed);
  with_element(p.dtype, [&]<typename Element>() {
    for_each_kv_head(p, workspace, [&](int64_t b, int64_t j) { KvHeadBackward<Element>(p, plan, b, j).run(); });
  });
}

}  // namespace longstride::engine::reference
