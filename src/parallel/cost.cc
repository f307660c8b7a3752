// The cost model. Local sources run while rows travel; those that need rows wait for them.
#include "parallel/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/refuse.h"

namespace longstride::parallel {
namespace {

void check(const RowShape& shape, const Hardware& hardware) {
  if (shape.dim < 1) core::refuse("dim", "must be positive", shape.dim);
  for_each_figure(hardware, [](const char* name, const Figure& figure) {
    if (!(figure.value > 0) || !std::isfinite(figure.value)) {
      core::refuse(fmt::format("hardware.{}", name), "must be positive and finite", figure.value);
    }
  });
}

// One direction. Backward has 2.5 times the products and the bytes of forward: five products of tiles in place of two.
class Model {
 public:
  Model(const ExchangePlan& plan, const ShardedCall& call, const Survey& all, const RowShape& shape,
        const Hardware& hardware, bool backward)
      : plan_(plan), call_(call), all_(all), shape_(shape), hardware_(hardware), backward_(backward) {
    if (plan.kind == Exchange::kLadder) shared_ = shared_groups(call);
  }

  Predicted of(int64_t rank) const {
    const RankLoad& load =
        plan_.kind == Exchange::kHeads ? all_.joined.at(plan_.heads)[rank / plan_.heads] : all_.ranks[rank];
    double local = 0, waiting = 0, computed = 0, merged = 0;
    const std::vector<Volume> moved = volumes(plan_, call_, all_, rank, shape_);
    for (int64_t s = 0; s < call_.sources(); ++s) {
      if (s == call_.groups() && call_.pattern.blocks().empty()) continue;
      const SourceLoad& source = load.sources[s];
      const double t = seconds(source) / static_cast<double>(plan_.heads);  // heads: a share of what u ranks have
      (source.alone == 0 ? local : waiting) += t + hardware_.launches.value * hardware_.launch_s.value;
      if (source.alone == 0) continue;
      computed += t;
      merged += merge_seconds(source);
    }
    if (plan_.kind == Exchange::kRing && load.rows > 0) return round(load, moved, local, waiting, computed, merged);
    const double exchange = exchange_seconds(load, moved);
    const double turning = plan_.kind == Exchange::kHeads ? turning_seconds(moved) : 0;  // nothing runs meanwhile
    const double exposed = turning + std::max(0.0, exchange - local);
    return {local + waiting + exposed, turning + exchange, exposed};
  }

 private:
  // One step a peer. What needs rows is computed in as many parts as there are steps, and one of the rank's own keys,
  // which hides the first step together with what needs none.
  Predicted round(const RankLoad& load, const std::vector<Volume>& moved, double local, double waiting, double computed,
                  double merged) const {
    const auto steps = static_cast<double>(load.peers);
    const int64_t ranks = widest(load);
    const double step = latency(ranks) + bytes(total(moved)) / steps / bandwidth(ranks), part = computed / (steps + 1);
    const double exposed = std::max(0.0, step - local - part) + (steps - 1) * std::max(0.0, step - part);
    return {local + waiting + steps * merged + exposed, steps * step, exposed};
  }

  static int64_t widest(const RankLoad& load) {
    int64_t ranks = 1;
    for (const SourceLoad& source : load.sources) ranks = std::max(ranks, source.ranks);
    return ranks;
  }

  double query_heads() const {
    return static_cast<double>(call_.extent.heads) / static_cast<double>(call_.extent.kv_heads);
  }

  // Computing a source, in all its (batch row, KV head).
  double seconds(const SourceLoad& source) const {
    const double times = backward_ ? 2.5 : 1, dim = static_cast<double>(shape_.dim), group = query_heads();
    const double flops = times * 4 * dim * group * source.pairs;
    // q, k, v and out of a query, and its partial result in float32, written and read.
    const double row = 2 * (group + 1) * dim * static_cast<double>(shape_.element_bytes()) + 8 * group * dim;
    const double rate = backward_ ? hardware_.backward_flops.value : hardware_.forward_flops.value;
    return std::max(flops / rate, times * row * source.queries / hardware_.memory_bytes.value);
  }

  // One more launch a step, and a pass that merges out and lse in float32.
  double merge_seconds(const SourceLoad& source) const {
    return 2 * hardware_.launch_s.value +
           12 * source.queries * query_heads() * static_cast<double>(shape_.dim) / hardware_.memory_bytes.value;
  }

  bool near(int64_t ranks) const { return static_cast<double>(ranks) <= hardware_.ranks_per_node.value; }
  double latency(int64_t ranks) const {
    return near(ranks) ? hardware_.near_latency_s.value : hardware_.far_latency_s.value;
  }
  double bandwidth(int64_t ranks) const { return near(ranks) ? hardware_.near_bytes.value : hardware_.far_bytes.value; }
  double bytes(const Volume& v) const { return static_cast<double>(backward_ ? v.backward_bytes : v.forward_bytes); }

  double exchange_seconds(const RankLoad& load, const std::vector<Volume>& moved) const {
    switch (plan_.kind) {
      case Exchange::kNone:
      case Exchange::kRing:
        return 0;
      case Exchange::kDirect:
      case Exchange::kHeads: {
        if (load.rows == 0) return 0;
        const int64_t ranks = widest(load) * plan_.heads;
        return latency(ranks) + hardware_.message_s.value * static_cast<double>(load.peers) +
               (bytes(total(moved)) - bytes(moved.back())) / bandwidth(ranks);
      }
      case Exchange::kLadder:
        return ladder_seconds();
    }
    return 0;
  }

  // Step by step with the rank that is 1, 2, 4, ... away: all that the half on its side holds of the group at hand.
  double ladder_seconds() const {
    const int64_t row_bytes = backward_ ? shape_.backward_bytes() : shape_.forward_bytes();
    const double places = static_cast<double>(call_.extent.batch * call_.extent.kv_heads);
    double seconds = 0;
    int64_t half = 1;
    for (const SharedGroup& one : shared_) {
      for (; half < one.ranks; half *= 2) {
        seconds += latency(2 * half) + places * static_cast<double>(half * one.rows * row_bytes) / bandwidth(2 * half);
      }
    }
    return seconds;
  }

  // Two messages one way and one the other, to each of the ranks that divide the heads and sit side by side.
  double turning_seconds(const std::vector<Volume>& moved) const {
    const int64_t u = plan_.heads;
    return 3 * (latency(u) + hardware_.message_s.value * static_cast<double>(u - 1)) +
           bytes(moved.back()) / bandwidth(u);
  }

  const ExchangePlan& plan_;
  const ShardedCall& call_;
  const Survey& all_;
  const RowShape& shape_;
  const Hardware& hardware_;
  const bool backward_;
  std::vector<SharedGroup> shared_;
};

Predicted slowest(const Model& model, const Survey& all) {
  Predicted worst;
  for (size_t rank = 0; rank < all.ranks.size(); ++rank) {
    const Predicted predicted = model.of(static_cast<int64_t>(rank));
    if (predicted.total_s > worst.total_s) worst = predicted;
  }
  return worst;
}

}  // namespace

Hardware h200() {
  Hardware measured;
  measured.forward_flops = {750e12, true};
  measured.backward_flops = {634e12, true};
  measured.near_bytes = {312e9, true};
  measured.near_latency_s = {32e-6, true};
  return measured;
}

Prediction predict(const ExchangePlan& plan, const ShardedCall& call, const Survey& all, const RowShape& shape,
                   const Hardware& hardware) {
  check(shape, hardware);
  return {slowest(Model(plan, call, all, shape, hardware, false), all),
          slowest(Model(plan, call, all, shape, hardware, true), all)};
}

Choice choose(const ShardedCall& call, const Survey& all, const RowShape& shape, const Hardware& hardware,
              const std::string& exchange) {
  Choice choice;
  std::vector<std::string> names;
  for (const ExchangePlan& plan : feasible_plans(call, all)) {
    choice.feasible.emplace_back(plan, predict(plan, call, all, shape, hardware));
    names.push_back(name(plan));
  }
  auto taken = std::min_element(choice.feasible.begin(), choice.feasible.end(),
                                [](const auto& a, const auto& b) { return a.second.total_s() < b.second.total_s(); });
  if (exchange != "auto") {
    const ExchangePlan asked = exchange_from_name(exchange);
    const std::string because = infeasible_because(asked, call, all);
    if (!because.empty()) {
      core::refuse("exchange", fmt::format("must be one of [{}] here", fmt::join(names, ", ")), name(asked), because);
    }
    taken = std::find_if(choice.feasible.begin(), choice.feasible.end(),
                         [&](const auto& one) { return one.first == asked; });
  }
  choice.plan = taken->first;
  choice.prediction = taken->second;
  return choice;
}

}  // namespace longstride::parallel
