// The reference forward: one softmax per row over the pairs that the plan lists, in double.
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "engine/reference/elements.h"
#include "engine/reference/heads.h"
#include "engine/reference/reference.h"
#include "longstride/plan/walk.h"

namespace longstride::engine::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

// Attention over some keys: the greatest score, and the sum of e^(score - top) alone and times values. Parts of a row
// are joined so, not by their lse: that is rounded, which at large scores would be seen in the parts' shares.
struct Part {
  double top = kNothing;
  double sum = 0;
  std::vector<double> values;  // [dim]

  bool nothing() const { return top == kNothing && sum == 0; }

  // Who saw nothing is not read; a share that underflows is still multiplied, so that NaN stays NaN.
  void join(const Part& other) {
    if (other.nothing()) return;
    if (nothing()) {
      *this = other;
      return;
    }
    const double high = other.top > top || std::isnan(other.top) ? other.top : top;
    const double own_share = std::exp(top - high);
    const double share = std::exp(other.top - high);
    for (size_t d = 0; d < values.size(); ++d) values[d] = values[d] * own_share + other.values[d] * share;
    sum = sum * own_share + other.sum * share;
    top = high;
  }
};

// Attention of one tile row over its own pairs and phantoms.
template <typename Element>
class RowSoftmax {
 public:
  RowSoftmax(const Problem& p, const PlanView& plan, int64_t b, int64_t h)
      : p_(p), plan_(plan), b_(b), h_(h), kv_head_(h / (p.heads / p.kv_heads)) {}

  Part run(const PlacedRow& at) {
    const Element* query = row<Element>(p_.q, b_, at.position - p_.query_start, h_);
    keys_.clear();
    const auto phantoms = static_cast<double>(phantom_count(plan_, at));
    Part part;
    part.values.resize(p_.dim);
    double& top = part.top;
    if (phantoms > 0) top = 0;
    for_each_pair(plan_, at, [&](int64_t position, int32_t weight) {
      const double product = dot(query, row<Element>(p_.k, b_, position, kv_head_), p_.dim);
      const double score = score_of(p_, h_, at.position, position, product);
      if (score > top || std::isnan(score)) top = score;
      keys_.push_back({position, static_cast<double>(weight), score});
    });
    if (keys_.empty() && phantoms == 0) return part;
    if (phantoms > 0) part.sum = phantoms * std::exp(-top);
    for (Key& key : keys_) {
      const double share = key.weight * std::exp(key.score - top);
      part.sum += share;
      const double kept =
          !dropout_.active() || dropout_.keeps(b_, h_, at.position, key.position) ? share * dropout_.gain() : 0.0;
      const Element* value = row<Element>(p_.v, b_, key.position, kv_head_);
      for (int64_t d = 0; d < p_.dim; ++d) part.values[d] += kept * load(value[d]);
    }
    return part;
  }

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
  const core::Dropout dropout_ = engine::dropout_of(p_);
  std::vector<Key> keys_;
};

template <typename Element>
void forward_head(const ForwardProblem& p, const PlanView& plan, int64_t b, int64_t h, int32_t class_id) {
  const int64_t slots = plan.classes[class_id].partial_rows;
  std::vector<Part> kept(slots);
  auto* lse = static_cast<LseOf<Element>*>(p.lse) + (b * p.heads + h) * p.len_q;
  RowSoftmax<Element> softmax(p, plan, b, h);
  for_each_row(plan, plan.classes[class_id], [&](const PlacedRow& at) {
    Part part = softmax.run(at);
    if (at.placed.level->partial) {
      kept[at.slot()] = std::move(part);
      return;
    }
    for_each_slot(plan, at, [&](int64_t slot) { part.join(kept[slot]); });
    const int64_t i = at.position - p.query_start;
    Element* out = row<Element>(p.out, b, i, h);
    for (int64_t d = 0; d < p.dim; ++d) store(part.nothing() ? 0.0 : part.values[d] / part.sum * p.out_scale, &out[d]);
    // The greatest score is rounded by itself, as the backward rounds a score, so that they cancel.
    const auto top = static_cast<LseOf<Element>>(part.top);
    store(part.nothing() ? kNothing : load(top) + std::log(part.sum), &lse[i]);
  });
}

}  // namespace

void forward(const ForwardProblem& p, const PlanView& plan, const Workspace& workspace, Stream) {
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
