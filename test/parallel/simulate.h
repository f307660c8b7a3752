// All ranks of a case one after another in one process: each has its shard's tensors in memory and nothing else, rows
// go between them as bytes of messages. Called by the tests of a rank's attention.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parallel/attention.h"
#include "parallel/host_moves.h"
#include "test/engine/run.h"
#include "test/parallel/held.h"

namespace longstride::test {

using Bytes = std::vector<unsigned char>;

// What a message has on the way, cut out of what `from` sends to all and put where `to` receives it from all.
inline std::vector<Bytes> all_to_all(const std::vector<Bytes>& sent, const std::vector<parallel::RankLists>& lists,
                                     int64_t row_bytes, bool back) {
  std::vector<Bytes> received(lists.size());
  for (size_t to = 0; to < lists.size(); ++to) {
    for (const parallel::Message& m : back ? lists[to].sends : lists[to].receives) {
      const int64_t from = back ? m.to : m.from;
      int64_t begin = 0;
      for (const parallel::Message& one : back ? lists[from].receives : lists[from].sends) {
        if ((back ? one.from : one.to) == static_cast<int64_t>(to)) break;
        begin += one.rows();
      }
      const auto at = sent[from].begin() + begin * row_bytes;
      received[to].insert(received[to].end(), at, at + m.rows() * row_bytes);
    }
  }
  return received;
}

// What a rank computes of one exchange: all at once, or of one step of a ring.
struct SimulatedPart {
  SimulatedPart(const Case& c, parallel::Rank its)
      : rank(std::move(its)),
        forward(parallel::compile(rank, c.geometry, Direction::kForward)),
        transposed(parallel::compile(rank, c.geometry, Direction::kTransposed)) {}
  parallel::Rank rank;
  parallel::RankPlans forward, transposed;
  Bytes keys, d_queries, d_keys;
};

// The exchanges that a rank takes part in, one after another.
inline std::vector<int64_t> exchanges_of(const parallel::ShardedCall& call, bool ring) {
  if (!ring) return {parallel::Rank::kAllSteps};
  return parallel::Rank(call, 0, 0).steps;
}

class SimulatedRank {
 public:
  SimulatedRank(const Engine& engine, const Case& c, const Held& held, int64_t rank, const engine::Workspace& w,
                bool ring, parallel::HeadShare share)
      : engine_(engine),
        c_(c),
        share_(share),
        w_(w),
        positions_(held.positions[rank]),
        q_(tensor(c.options.heads, &c.q)),
        k_(tensor(c.options.kv_heads, &c.k)),
        v_(tensor(c.options.kv_heads, &c.v)),
        d_out_(tensor(c.options.heads, &c.d_out)),
        out_(tensor(c.options.heads, nullptr)),
        dq_(tensor(c.options.heads, nullptr)),
        dk_(tensor(c.options.kv_heads, nullptr)),
        dv_(tensor(c.options.kv_heads, nullptr)) {
    const oracle::Options& o = c.options;
    const parallel::ShardedCall call(c.pattern(), c.extent(), held.shards, share);
    for (const int64_t step : exchanges_of(call, ring)) parts_.emplace_back(c, parallel::Rank(call, rank, step));
    lse_ = unset(o.batch * heads() * rows());
    for (int64_t line = 0; c.has_d_lse && line < o.batch * heads(); ++line) {
      for (const int64_t position : positions_) d_lse_.push_back(c.d_lse[of_all(line) * o.len_k + position]);
    }
    d_lse_bytes_ = unset(static_cast<int64_t>(d_lse_.size()));
    for (size_t i = 0; i < d_lse_.size(); ++i)
      write_element(d_lse_bytes_.data(), static_cast<int64_t>(i), c.dtype, d_lse_[i]);
  }

  size_t exchanges() const { return parts_.size(); }
  const parallel::RankLists& lists(size_t n) const { return parts_[n].rank.lists; }
  int64_t row_bytes() const { return 2 * c_.options.dim * static_cast<int64_t>(core::size_bytes(c_.dtype)); }

  Bytes pack(size_t n) {
    Bytes sent = unset(2 * c_.options.dim * parallel::rows_in(lists(n).sends));
    moves(parts_[n]).pack(k_.read(), v_.read(), sent.data());
    return sent;
  }

  void forward(size_t n, const Bytes& received) {
    SimulatedPart& part = parts_[n];
    const auto run = [&](const engine::ForwardProblem& p, const parallel::PlanPointer& plan) {
      engine_.forward(p, plan->view(), w_);
    };
    engine::ForwardProblem p{problem()};
    p.out = out_.write();
    p.lse = lse_.data();
    const parallel::HostMoves moves = this->moves(part);
    if (n == 0) parallel::forward_pieces(part.rank, part.forward, p, moves, run);
    part.keys = unset(part.rank.places() * part.rank.gathered.keys * 2 * c_.options.dim);
    moves.unpack(received.data(), part.keys.data());
    parallel::forward_gathered(part.rank, part.forward, p, part.keys.data(), moves, run);
  }

  // Returns what goes back to those that sent keys.
  Bytes backward_gathered(size_t n) {
    SimulatedPart& part = parts_[n];
    const parallel::HostMoves moves = this->moves(part);
    part.d_queries = unset(c_.options.batch * heads() * part.rank.gathered.queries * c_.options.dim);
    part.d_keys = unset(part.rank.places() * part.rank.gathered.keys * 2 * c_.options.dim);
    parallel::backward_gathered(part.rank, {part.transposed}, gradient(), part.keys.data(), part.d_queries.data(),
                                part.d_keys.data(), moves, backward_engine());
    Bytes sent = unset(2 * c_.options.dim * parallel::rows_in(lists(n).receives));
    moves.pack_gradients(part.d_keys.data(), sent.data());
    return sent;
  }

  void backward_pieces(size_t n, const Bytes& returned) {
    const engine::BackwardProblem p = gradient();
    const SimulatedPart& part = parts_[n];
    const parallel::HostMoves moves = this->moves(part);
    if (n == 0) parallel::backward_pieces(part.rank, {part.transposed}, p, moves, backward_engine());
    parallel::add_gathered(part.rank, p, part.d_queries.data(), part.d_keys.data(), moves);
    moves.add_returned(returned.data(), p.dk, p.dv);
  }

  void give(Results& to) const {
    const oracle::Options& o = c_.options;
    give_rows(out_, o.heads, to.out);
    give_rows(dq_, o.heads, to.dq);
    give_rows(dk_, o.kv_heads, to.dk);
    give_rows(dv_, o.kv_heads, to.dv);
    for (int64_t line = 0; line < o.batch * heads(); ++line) {
      for (int64_t i = 0; i < rows(); ++i)
        to.lse[of_all(line) * o.len_k + positions_[i]] = read_element(lse_.data(), line * rows() + i, c_.dtype);
    }
    to.strayed =
        to.strayed || !(out_.gaps_untouched() && dq_.gaps_untouched() && dk_.gaps_untouched() && dv_.gaps_untouched());
  }

 private:
  int64_t rows() const { return static_cast<int64_t>(positions_.size()); }
  int64_t heads() const { return c_.options.heads / share_.of; }
  int64_t kv_heads() const { return c_.options.kv_heads / share_.of; }
  // Of a (batch row, head) of the share its number among those of all heads.
  int64_t of_all(int64_t line) const {
    return line / heads() * c_.options.heads + share_.at * heads() + line % heads();
  }

  // Elements that are NaN.
  Bytes unset(int64_t elements) const {
    Bytes bytes(static_cast<size_t>(std::max<int64_t>(1, elements)) * core::size_bytes(c_.dtype));
    for (int64_t i = 0; i < elements; ++i)
      write_element(bytes.data(), i, c_.dtype, std::numeric_limits<double>::quiet_NaN());
    return bytes;
  }

  // The shard's rows of a dense tensor of the whole sequence; null: NaN.
  TensorBuffer tensor(int64_t of_all, const std::vector<double>* whole) const {
    const oracle::Options& o = c_.options;
    const int64_t heads = of_all / share_.of;
    const int layout = c_.choice[kLayout];
    if (!whole) return {c_.dtype, o.batch, rows(), heads, o.dim, layout};
    std::vector<double> its;
    for (int64_t b = 0; b < o.batch; ++b) {
      for (const int64_t position : positions_) {
        const auto row = whole->begin() + ((b * o.len_k + position) * of_all + share_.at * heads) * o.dim;
        its.insert(its.end(), row, row + heads * o.dim);
      }
    }
    return {c_.dtype, o.batch, rows(), heads, o.dim, layout, its};
  }

  void give_rows(const TensorBuffer& from, int64_t of_all, std::vector<double>& to) const {
    const oracle::Options& o = c_.options;
    const int64_t heads = of_all / share_.of;
    const std::vector<double> its = from.values();
    auto row = its.begin();
    for (int64_t b = 0; b < o.batch; ++b) {
      for (const int64_t position : positions_) {
        std::copy_n(row, heads * o.dim, to.begin() + ((b * o.len_k + position) * of_all + share_.at * heads) * o.dim);
        row += heads * o.dim;
      }
    }
  }

  engine::Problem problem() const {
    const oracle::Options& o = c_.options;
    engine::Problem p;
    p.dtype = c_.dtype;
    p.batch = o.batch;
    p.heads = heads();
    p.kv_heads = kv_heads();
    p.len_q = p.len_k = rows();
    p.dim = o.dim;
    p.scale = c_.scale();
    p.out_scale = c_.pattern().out_scale();
    p.deterministic = true;
    p.q = q_.read();
    p.k = k_.read();
    p.v = v_.read();
    return p;
  }
  engine::BackwardProblem gradient() {
    engine::BackwardProblem p{problem()};
    p.out = out_.read();
    p.lse = lse_.data();
    p.d_out = d_out_.read();
    p.d_lse = c_.has_d_lse ? d_lse_bytes_.data() : nullptr;
    p.dq = dq_.write();
    p.dk = dk_.write();
    p.dv = dv_.write();
    return p;
  }
  parallel::HostMoves moves(const SimulatedPart& part) const { return {part.rank, problem(), w_}; }
  parallel::BackwardEngine backward_engine() const {
    return [this](const engine::BackwardProblem& p, const parallel::PlanPointer& plan, const parallel::PlanPointer&) {
      engine_.backward(p, plan->view(), w_);
    };
  }

  const Engine& engine_;
  const Case& c_;
  const parallel::HeadShare share_;
  const engine::Workspace w_;
  const std::vector<int64_t> positions_;
  std::vector<SimulatedPart> parts_;
  TensorBuffer q_, k_, v_, d_out_, out_, dq_, dk_, dv_;
  Bytes lse_, d_lse_bytes_;
  std::vector<double> d_lse_;
};

// The results of one share of the heads go where they belong.
inline void run_share(const Engine& engine, const Case& c, const Held& held, const engine::Workspace& w, bool ring,
                      parallel::HeadShare share, Results& results) {
  std::vector<std::unique_ptr<SimulatedRank>> ranks;
  for (size_t rank = 0; rank < held.positions.size(); ++rank)
    ranks.push_back(std::make_unique<SimulatedRank>(engine, c, held, static_cast<int64_t>(rank), w, ring, share));
  const size_t exchanges = ranks[0]->exchanges();
  std::vector<std::vector<parallel::RankLists>> lists(exchanges);
  for (size_t n = 0; n < exchanges; ++n) {
    for (const auto& rank : ranks) lists[n].push_back(rank->lists(n));
  }
  for (size_t n = 0; n < exchanges; ++n) {
    std::vector<Bytes> sent;
    for (const auto& rank : ranks) sent.push_back(rank->pack(n));
    const std::vector<Bytes> received = all_to_all(sent, lists[n], ranks[0]->row_bytes(), false);
    for (size_t rank = 0; rank < ranks.size(); ++rank) ranks[rank]->forward(n, received[rank]);
  }
  for (size_t n = 0; n < exchanges; ++n) {
    std::vector<Bytes> returned;
    for (const auto& rank : ranks) returned.push_back(rank->backward_gathered(n));
    const std::vector<Bytes> home = all_to_all(returned, lists[n], ranks[0]->row_bytes(), true);
    for (size_t rank = 0; rank < ranks.size(); ++rank) ranks[rank]->backward_pieces(n, home[rank]);
  }
  for (const auto& rank : ranks) rank->give(results);
}

// Runs a case of float32 or float64 without dropout on the ranks that hold it: by one exchange, or round the ring; and
// of all heads at once, or of each of so many shares by itself.
inline Results run_ranks(const Engine& engine, const Case& c, const Held& held, const engine::Workspace& w = {},
                         bool ring = false, int64_t shares = 1) {
  const oracle::Options& o = c.options;
  Results results;
  results.out.resize(c.q.size());
  results.dq.resize(c.q.size());
  results.dk.resize(c.k.size());
  results.dv.resize(c.v.size());
  results.lse.resize(o.batch * o.heads * o.len_k);
  for (int64_t at = 0; at < shares; ++at) run_share(engine, c, held, w, ring, {shares, at}, results);
  return results;
}

}  // namespace longstride::test
