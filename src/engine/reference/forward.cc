// The reference forward: one softmax per row over the pairs that the plan lists, in double.
#include <cmath>
#include <limits>
#include <vector>

#include "core/philox.h"
#include "engine/merge.h"
#include "engine/reference/elements.h"
#include "engine/reference/reference.h"
#include "engine/reference/walk.h"

namespace longstride::engine::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

// Attention of one tile row over its own pairs and phantoms.
template <typename Element>
class RowSoftmax {
 public:
  RowSoftmax(const Problem& p, const PlanView& plan, int64_t b, int64_t h)
      : p_(p), plan_(plan), b_(b), h_(h), kv_head_(h / (p.heads / p.kv_heads)), out_(p.dim) {
    if (p.dropout_p > 0) dropout_ = core::Dropout(p.dropout_p, *p.dropout_seed, p.heads);
  }

  // Fills out() and lse().
  void run(const TileRow& at) {
    const Element* query = row<Element>(p_.q, b_, at.position - p_.query_start, h_);
    keys_.clear();
    const auto phantoms = static_cast<double>(phantoms_of(plan_, at));
    double top = phantoms > 0 ? 0.0 : kNothing;
    for_each_pair(plan_, at, [&](int64_t position, int32_t weight) {
      const double score = p_.scale * dot(query, row<Element>(p_.k, b_, position, kv_head_), p_.dim);
      if (score > top || std::isnan(score)) top = score;
      keys_.push_back({position, static_cast<double>(weight), score});
    });
    std::fill(out_.begin(), out_.end(), 0.0);
    lse_ = kNothing;
    if (keys_.empty() && phantoms == 0) return;
    double sum = phantoms > 0 ? phantoms * std::exp(-top) : 0.0;
    for (Key& key : keys_) {
      const double share = key.weight * std::exp(key.score - top);
      sum += share;
      const double kept =
          !dropout_.active() || dropout_.keeps(b_, h_, at.position, key.position) ? share * dropout_.gain() : 0.0;
      const Element* value = row<Element>(p_.v, b_, key.position, kv_head_);
      for (int64_t d = 0; d < p_.dim; ++d) out_[d] += kept * load(value[d]);
    }
    for (double& x : out_) x /= sum;
    lse_ = top + std::log(sum);
  }

  double* out() { return out_.data(); }
  double& lse() { return lse_; }

 private:
  struct Key {
    int64_t position;
    double weight;
    double score;
  };
  const Problem& p_;
  const PlanView& plan_;
  const int64_t b_;
  const int64_t h_;
  const int64_t kv_head_;
  core::Dropout dropout_;
  std::vector<Key> keys_;
  std::vector<double> out_;
  double lse_ = kNothing;
};

template <typename Element>
void forward_head(const Problem& p, const PlanView& plan, int64_t b, int64_t h, int32_t class_id) {
  const int64_t slots = plan.classes[class_id].partial_rows;
  std::vector<double> slot_out(slots * p.dim);  // [slots, dim]
  std::vector<double> slot_lse(slots);
  auto* lse = static_cast<LseOf<Element>*>(p.lse) + (b * p.heads + h) * p.len_q;
  RowSoftmax<Element> softmax(p, plan, b, h);
  for_each_row(plan, class_id, [&](const TileRow& at) {
    softmax.run(at);
    if (at.level->partial) {
      std::copy_n(softmax.out(), p.dim, &slot_out[at.slot * p.dim]);
      slot_lse[at.slot] = softmax.lse();
      return;
    }
    for_each_slot(plan, at, [&](int64_t slot) {
      merge_into(softmax.out(), &softmax.lse(), &slot_out[slot * p.dim], slot_lse[slot], p.dim);
    });
    const int64_t i = at.position - p.query_start;
    Element* out = row<Element>(p.out, b, i, h);
    for (int64_t d = 0; d < p.dim; ++d) store(softmax.out()[d] * p.out_scale, &out[d]);
    store(softmax.lse(), &lse[i]);
  });
}

}  // namespace

void forward(const Problem& p, const PlanView& plan, const Workspace& workspace, Stream) {
  check(p, plan, Direction::kForward);
  const int64_t group = p.heads / p.kv_heads;
  with_element(p.dtype, [&]<typename Element>() {
    for_each_kv_head(p, workspace, [&](int64_t b, int64_t j) {
      for (int64_t h = j * group; h < (j + 1) * group; ++h) {
        forward_head<Element>(p, plan, b, h, plan.class_of[b * p.kv_heads + j]);
      }
    });
  });
}

}  // namespace longstride::engine::reference
