// Direct, ring and heads, each in the order of its steps.
#include "op/autograd/exchanges.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <numeric>

#include "op/autograd/pieces.h"

namespace longstride::op::autograd {
namespace {

using at::Tensor;
using torch::autograd::variable_list;
using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using MaybeTensor = std::optional<Tensor>;

Tensor no_rows(const Tensor& q) { return at::empty({0, 2 * q.size(3)}, q.options()); }

// ---- all rows at once ----

Attended direct(const Tensor& q, const Tensor& k, const Tensor& v, const ShardedCall& call, Turn& turn) {
  Turn::Rows posted;
  if (call.travels) posted = turn.post(call.run<Tensor>("longstride::cp_pack", q, k, v), call.sent, call.received);
  const Tensor wq = call.wide(q), wk = call.wide(k), wv = call.wide(v);
  auto [out, lse] = call.run<Two>("longstride::cp_forward_pieces", wq, wk, wv);
  const Tensor received = call.travels ? posted.wait() : no_rows(q);
  const Tensor keys =
      call.run<Tensor>("longstride::cp_forward_gathered", received.to(wq.scalar_type()), out, lse, wq, wk, wv);
  out = out.to(q.scalar_type());
  return {out, lse, {q, k, v, out, lse, keys}};
}

variable_list direct_backward(const Tensor& d_out, const MaybeTensor& d_lse, const variable_list& saved,
                              const ShardedCall& call, Turn& turn) {
  const at::ScalarType dtype = saved[0].scalar_type();
  const Tensor q = call.wide(saved[0]), k = call.wide(saved[1]), v = call.wide(saved[2]);
  const Tensor out = call.wide(saved[3]), &lse = saved[4], wide = call.wide(d_out);
  auto [d_queries, d_keys, message] =
      call.run<Three>("longstride::cp_backward_gathered", wide, d_lse, out, lse, saved[5], q, k, v);
  Turn::Rows posted;
  if (call.travels) posted = turn.post(message, call.received, call.sent);
  auto [dq, dk, dv, d_gates] =
      call.run<Four>("longstride::cp_backward_pieces", wide, d_lse, out, lse, d_queries, d_keys, q, k, v);
  if (call.travels) call.run<void>("longstride::cp_add_returned", posted.wait(), dk, dv, q, k, v);
  return {dq.to(dtype), dk.to(dtype), dv.to(dtype), call.call.gates ? d_gates : Tensor()};
}

// ---- round a ring ----

// The same call as far as the ranks that lie so far apart go.
ShardedCall of_step(const ShardedCall& call, int64_t step) {
  const auto ranks = static_cast<int64_t>(call.sent.size()), rank = static_cast<int64_t>(call.group->getRank());
  const auto only = [](const std::vector<int64_t>& counts, int64_t kept) {
    std::vector<int64_t> only_kept(counts.size());
    only_kept[static_cast<size_t>(kept)] = counts[static_cast<size_t>(kept)];
    return only_kept;
  };
  ShardedCall step_call = call;
  step_call.step = step;
  step_call.sent = only(call.sent, (rank + step) % ranks);
  step_call.received = only(call.received, (rank + ranks - step) % ranks);
  return step_call;
}

// Visits every step with its call and the rows that came for it, which were posted one step ahead.
template <class Visit>
void for_each_step(const Tensor& q, const Tensor& k, const Tensor& v, const ShardedCall& call, Turn& turn,
                   const Visit& visit) {
  std::vector<ShardedCall> steps;
  for (const int64_t step : call.steps) steps.push_back(of_step(call, step));
  const auto post = [&](const ShardedCall& step_call) {
    return turn.post(step_call.run<Tensor>("longstride::cp_pack", q, k, v), step_call.sent, step_call.received);
  };
  Turn::Rows posted;
  if (steps.size() > 1) posted = post(steps[1]);
  visit(steps[0], no_rows(q));
  for (size_t n = 1; n < steps.size(); ++n) {
    const Tensor received = posted.wait();
    posted = n + 1 < steps.size() ? post(steps[n + 1]) : Turn::Rows();
    visit(steps[n], received);
  }
}

Attended ring(const Tensor& q, const Tensor& k, const Tensor& v, const ShardedCall& call, Turn& turn) {
  const Tensor wq = call.wide(q), wk = call.wide(k), wv = call.wide(v);
  Tensor out, lse;
  for_each_step(q, k, v, call, turn, [&](const ShardedCall& step_call, const Tensor& received) {
    if (step_call.step == 0) std::tie(out, lse) = step_call.run<Two>("longstride::cp_forward_pieces", wq, wk, wv);
    step_call.run<Tensor>("longstride::cp_forward_gathered", received.to(wq.scalar_type()), out, lse, wq, wk, wv);
  });
  out = out.to(q.scalar_type());
  return {out, lse, {q, k, v, out, lse}};
}

variable_list ring_backward(const Tensor& d_out, const MaybeTensor& d_lse, const variable_list& saved,
                            const ShardedCall& call, Turn& turn) {
  const at::ScalarType dtype = saved[0].scalar_type();
  const Tensor q = call.wide(saved[0]), k = call.wide(saved[1]), v = call.wide(saved[2]);
  const Tensor out = call.wide(saved[3]), &lse = saved[4], wide = call.wide(d_out);
  Tensor dq, dk, dv;
  std::optional<ShardedCall> returning;
  Turn::Rows returned;
  const auto add_returned = [&] {
    if (returning) returning->run<void>("longstride::cp_add_returned", returned.wait(), dk, dv, q, k, v);
  };
  for_each_step(saved[0], saved[1], saved[2], call, turn, [&](const ShardedCall& step_call, const Tensor& received) {
    const Tensor keys = step_call.run<Tensor>("longstride::cp_keys", received.to(q.scalar_type()), q, k, v);
    auto [d_queries, d_keys, message] =
        step_call.run<Three>("longstride::cp_backward_gathered", wide, d_lse, out, lse, keys, q, k, v);
    if (step_call.step == 0) {
      std::tie(dq, dk, dv, std::ignore) =
          step_call.run<Four>("longstride::cp_backward_pieces", wide, d_lse, out, lse, d_queries, d_keys, q, k, v);
      return;
    }
    step_call.run<void>("longstride::cp_add_gathered", d_queries, d_keys, dq, dk, dv, q, k, v);
    add_returned();
    returned = turn.post(message, step_call.received, step_call.sent);
    returning = step_call;
  });
  add_returned();
  return {dq.to(dtype), dk.to(dtype), dv.to(dtype), Tensor()};
}

// ---- by heads ----

// Between [batch, rows of the shard, heads, dim] and [batch, rows of u shards, heads / u, dim].
class Turning {
 public:
  Turning(const ShardedCall& call, Turn& turn) : turn_(turn), u_(call.heads_among) {
    const Tensor& cuts = call.boundaries;
    const Sharding sharding{{cuts.const_data_ptr<int64_t>(), cuts.const_data_ptr<int64_t>() + cuts.numel()},
                            call.layout};
    const Pieces pieces(sharding, turn.ranks(), 0);
    own_ = pieces.rows(turn.rank());
    each_.assign(static_cast<size_t>(turn.ranks()), 0);
    all_ = each_;
    std::vector<std::pair<int64_t, Tensor>> where;  // begins of pieces, and where their rows stand rank by rank
    const int64_t first = turn.rank() / u_ * u_;
    for (int64_t rank = first, at = 0; rank < first + u_; ++rank) {
      each_[static_cast<size_t>(rank)] = own_;
      all_[static_cast<size_t>(rank)] = pieces.rows(rank);
      for (const auto& [begin, end] : pieces.of[static_cast<size_t>(rank)]) {
        where.emplace_back(begin, at::arange(at, at + end - begin));
        at += end - begin;
      }
    }
    const auto begins = [](const auto& a, const auto& b) { return a.first < b.first; };
    if (std::ranges::is_sorted(where, begins)) return;
    std::ranges::sort(where, begins);
    variable_list rows;
    for (const auto& [begin, piece_rows] : where) rows.push_back(piece_rows);
    order_ = at::cat(rows);
  }

  variable_list to_heads(const variable_list& tensors) const {
    variable_list rows;
    for (const Tensor& t : tensors)
      rows.push_back(t.unflatten(2, {u_, t.size(2) / u_}).permute({2, 1, 0, 3, 4}).flatten(2).flatten(0, 1));
    Tensor came = travel(at::cat(rows, 1), each_, all_);
    if (order_.defined()) came = came.index_select(0, order_.to(came.device()));
    variable_list turned;
    int64_t column = 0;
    for (size_t n = 0; n < tensors.size(); ++n) {
      const Tensor& t = tensors[n];
      turned.push_back(
          came.narrow(1, column, rows[n].size(1)).unflatten(1, {t.size(0), t.size(2) / u_, t.size(3)}).transpose(0, 1));
      column += rows[n].size(1);
    }
    return turned;
  }

  variable_list to_rows(const variable_list& tensors) const {
    variable_list parts;
    for (const Tensor& t : tensors) parts.push_back(t.transpose(0, 1).flatten(1));
    Tensor rows = at::cat(parts, 1);
    if (order_.defined()) rows = at::empty_like(rows).index_copy_(0, order_.to(rows.device()), rows);
    const Tensor came = travel(rows, all_, each_).unflatten(0, {u_, own_});
    variable_list turned;
    int64_t column = 0;
    for (const Tensor& t : tensors) {
      const int64_t width = t.size(0) * t.size(2) * t.size(3);
      turned.push_back(came.narrow(2, column, width)
                           .unflatten(2, {t.size(0), t.size(2), t.size(3)})
                           .permute({2, 1, 0, 3, 4})
                           .flatten(2, 3));
      column += width;
    }
    return turned;
  }

  // lse is [batch, heads, rows].
  Tensor lse_to_heads(const Tensor& lse) const { return of_rows(to_heads({as_rows(lse)})[0]); }
  Tensor lse_to_rows(const Tensor& lse) const { return of_rows(to_rows({as_rows(lse)})[0]); }

 private:
  static Tensor as_rows(const Tensor& lse) { return lse.transpose(1, 2).unsqueeze(3); }
  static Tensor of_rows(const Tensor& rows) { return rows.squeeze(3).transpose(1, 2).contiguous(); }

  Tensor travel(const Tensor& rows, const std::vector<int64_t>& sent, const std::vector<int64_t>& received) const {
    if (rows.size(1) == 0)  // no batch
      return at::empty({std::accumulate(received.begin(), received.end(), int64_t{0}), 0}, rows.options());
    return turn_.post(rows, sent, received).wait();
  }

  Turn& turn_;
  int64_t u_, own_ = 0;
  std::vector<int64_t> each_, all_;  // of each rank: this one's rows, or its own, if it divides the heads with this one
  Tensor order_;                     // defined if rows of ranks are not in the order of their positions
};

// The direct exchange among the ranks of the same heads.
ShardedCall of_heads(const Tensor& q, const Tensor& k, const Tensor& v, const ShardedCall& call) {
  ShardedCall share_call = call;
  share_call.share_of = std::exchange(share_call.heads_among, 1);
  const auto [rows, joined] = share_call.run<std::tuple<Tensor, bool>>("longstride::cp_counts", q, k, v);
  share_call.joined = joined;
  std::ranges::fill(share_call.sent, 0);
  std::ranges::fill(share_call.received, 0);
  for (int64_t n = 0; n < rows.size(1); ++n) {
    const auto rank = static_cast<size_t>(n * share_call.share_of + call.group->getRank() % share_call.share_of);
    share_call.sent[rank] = rows.const_data_ptr<int64_t>()[n];
    share_call.received[rank] = rows.const_data_ptr<int64_t>()[rows.size(1) + n];
  }
  share_call.travels = share_call.share_of < call.group->getSize();
  return share_call;
}

// The first rank's seed of dropout for all: whatever the others were given or have drawn, all drop the same pairs.
class Seed {
 public:
  Seed(const ShardedCall& call, Turn& turn) {
    if (call.call.dropout_p == 0) return;
    const int64_t ranks = turn.ranks(), to_each = turn.rank() == 0 ? 1 : 0;
    std::vector<int64_t> received(static_cast<size_t>(ranks));
    received[0] = 1;
    posted_ = turn.post(call.call.dropout_seed->reshape({1, 1}).repeat({to_each * ranks, 1}),
                        std::vector<int64_t>(static_cast<size_t>(ranks), to_each), received);
  }
  // Undefined without dropout.
  Tensor wait() { return posted_ ? posted_->wait() : Tensor(); }

 private:
  std::optional<Turn::Rows> posted_;
};

ShardedCall with_seed(ShardedCall call, const Tensor& seed) {
  if (seed.defined()) call.call.dropout_seed = seed;
  return call;
}

Attended heads(const Tensor& q, const Tensor& k, const Tensor& v, const ShardedCall& call, Turn& turn) {
  const Turning turning(call, turn);
  Seed posted(call, turn);
  const variable_list own = turning.to_heads({q, k, v});
  const Tensor seed = posted.wait();
  const ShardedCall share_call = of_heads(own[0], own[1], own[2], with_seed(call, seed));
  Attended of_share = direct(own[0], own[1], own[2], share_call, turn);
  of_share.saved.push_back(seed);
  return {turning.to_rows({of_share.out})[0], turning.lse_to_rows(of_share.lse), of_share.saved};
}

variable_list heads_backward(const Tensor& d_out, const MaybeTensor& d_lse, const variable_list& saved,
                             const ShardedCall& call, Turn& turn) {
  const Turning turning(call, turn);
  // Another rank may have a gradient of lse.
  const Tensor given = d_lse ? *d_lse : at::zeros({d_out.size(0), d_out.size(2), d_out.size(1)}, saved[4].options());
  const Tensor share_d_out = turning.to_heads({d_out})[0], share_d_lse = turning.lse_to_heads(given);
  const ShardedCall share_call = of_heads(saved[0], saved[1], saved[2], with_seed(call, saved.back()));
  variable_list found = direct_backward(share_d_out, share_d_lse, saved, share_call, turn);
  const Tensor d_gates = found.back();
  found.pop_back();
  found = turning.to_rows(found);
  found.push_back(d_gates);
  return found;
}

}  // namespace

Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const ShardedCall& call, Turn& turn) {
  if (call.heads_among > 1) return heads(q, k, v, call, turn);
  return call.steps.empty() ? direct(q, k, v, call, turn) : ring(q, k, v, call, turn);
}

variable_list attend_backward(const Tensor& d_out, const MaybeTensor& d_lse, const variable_list& saved,
                              const ShardedCall& call, Turn& turn) {
  if (call.heads_among > 1) return heads_backward(d_out, d_lse, saved, call, turn);
  return call.steps.empty() ? direct_backward(d_out, d_lse, saved, call, turn)
                            : ring_backward(d_out, d_lse, saved, call, turn);
}

}  // namespace longstride::op::autograd
