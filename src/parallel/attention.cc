// Cuts a shard's problem into those of its pieces and of its gathered rows.
#include "parallel/attention.h"

#include <fmt/format.h>

#include <type_traits>
#include <utility>

#include "core/refuse.h"
#include "parallel/compile.h"

namespace longstride::parallel {
namespace {

using engine::BackwardProblem;
using engine::ForwardProblem;
using engine::Problem;
using engine::Scratch;
using engine::Workspace;

// Of lse, and of the results of what is gathered.
int64_t wide_bytes(const Problem& p) { return p.dtype == core::DType::kFloat64 ? 8 : 4; }
bool has_16_bits(const Problem& p) { return core::size_bytes(p.dtype) == 2; }
int64_t element_bytes(const Problem& p) { return static_cast<int64_t>(core::size_bytes(p.dtype)); }

bool has_parts(const Rank& rank) { return !rank.gathered.empty() || !rank.lists.sends.empty(); }
// Engines take distances, draws and ranges of gates from numbers of rows, which are those of positions in a whole
// sequence alone.
bool has_whole(const Rank& rank) {
  return !has_parts(rank) && rank.pieces.size() == 1 && rank.rows() == rank.call.extent.len_k;
}

void check_gates(const Rank& rank, const BackwardProblem& p) {
  if (p.gates && !has_whole(rank)) {
    core::refuse("gates", "must be none where a rank has no whole sequence", "some",
                 "divide the heads among all ranks: exchange \"auto\"");
  }
}

void check(const Rank& rank, const RankPlans& plans, const Problem& p, const Moves& moves, Direction direction) {
  if (p.len_q != rank.rows() || p.len_k != rank.rows() || p.query_start != 0) {
    core::refuse("problem", fmt::format("must be of the {} rows of rank {}'s shard", rank.rows(), rank.rank),
                 fmt::format("len_q {}, len_k {}, query_start {}", p.len_q, p.len_k, p.query_start));
  }
  if (p.alibi && !has_whole(rank)) {
    core::refuse("alibi_slopes", "must be unset where a rank has no whole sequence", "slopes",
                 "divide the heads among all ranks: exchange \"auto\"");
  }
  if (p.drops() && !has_whole(rank)) {
    core::refuse("dropout_p", "must be 0 where a rank has no whole sequence", p.dropout_p,
                 "divide the heads among all ranks: exchange \"auto\"");
  }
  if (has_parts(rank) && has_16_bits(p) && !moves.rounds()) {
    core::refuse("dtype", "must be float32 or float64 where keys are exchanged", core::name(p.dtype),
                 "convert the shard to float32, and held results back");
  }
  if (plans.pieces.size() != rank.pieces.size() || plans.gathered->direction != direction) {
    core::refuse("plans", "must be compiled for this rank and direction", "others");
  }
}

// A tensor from a row on.
template <class Ref>
Ref from_row(Ref t, int64_t row, int64_t bytes) {
  if (t.data) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(t.data)>>, const char, char>;
    t.data = static_cast<Byte*>(t.data) + row * t.len_stride * bytes;
  }
  return t;
}

void cut_to(const Piece& piece, Problem& p) {
  p.len_q = p.len_k = piece.end - piece.begin;
  for (engine::ConstTensorRef* t : {&p.q, &p.k, &p.v}) *t = from_row(*t, piece.row, element_bytes(p));
}

// Copies rows [row, row + rows) of [batch, heads, all] to or from the [batch, heads, rows] of a piece.
class PieceLse {
 public:
  PieceLse(const Problem& p, const Piece& piece, const Moves& moves)
      : moves_(moves),
        lines_(p.batch * p.heads),
        all_(p.len_q * wide_bytes(p)),
        row_(piece.row * wide_bytes(p)),
        rows_((piece.end - piece.begin) * wide_bytes(p)) {}
  int64_t bytes() const { return lines_ * rows_; }
  bool whole() const { return rows_ == all_; }
  void take(const void* shard, void* piece) const {
    moves_.copy_lines(static_cast<const char*>(shard) + row_, all_, piece, rows_, rows_, lines_);
  }
  void give(const void* piece, void* shard) const {
    moves_.copy_lines(piece, rows_, static_cast<char*>(shard) + row_, all_, rows_, lines_);
  }

 private:
  const Moves& moves_;
  int64_t lines_, all_, row_, rows_;  // the last three in bytes
};

// The gathered queries, or what is like them, in memory: [batch, heads, queries, dim].
engine::TensorRef gathered_rows(const Rank& rank, const Problem& p, void* data) {
  const int64_t head = rank.gathered.queries * p.dim;
  return {data, p.heads * head, p.dim, head};
}
engine::ConstTensorRef gathered_rows(const Rank& rank, const Problem& p, const void* data) {
  const int64_t head = rank.gathered.queries * p.dim;
  return {data, p.heads * head, p.dim, head};
}
int64_t gathered_elements(const Rank& rank, const Problem& p) {
  return p.batch * p.heads * rank.gathered.queries * p.dim;
}

// Keys, or what lies beside them, of the buffer, whose elements have so many bytes.
template <class Ref, class Void>
Ref buffer_rows(const Rank& rank, const Problem& p, Void* buffer, bool values, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t place = rank.gathered.keys * 2 * p.dim;
  return {static_cast<Byte*>(buffer) + (values ? p.dim * bytes : 0), p.kv_heads * place, 2 * p.dim, place};
}

// The problem of gathered queries, which `q` holds.
void gather_into(const Rank& rank, const void* q, const void* keys, Problem& p) {
  p.q = gathered_rows(rank, p, q);
  p.k = buffer_rows<engine::ConstTensorRef>(rank, p, keys, false, element_bytes(p));
  p.v = buffer_rows<engine::ConstTensorRef>(rank, p, keys, true, element_bytes(p));
  p.len_q = rank.gathered.queries;
  p.len_k = rank.gathered.keys;
  p.float32_results = has_16_bits(p);
}

}  // namespace

Rank::Rank(ShardedCall given, int64_t number, int64_t its_step)
    : call(std::move(given)),
      rank(number),
      step(its_step),
      lists(step == kAllSteps ? parallel::lists(call, rank) : lists_of_step(call, rank, step)),
      pieces(step > 0 ? std::vector<Piece>() : joined_pieces(call.shards, rank)),
      gathered(step > 0 ? gather_received(call, rank, lists.needs) : gather(call, rank, lists.needs)) {
  if (step != 0) return;
  steps = parallel::steps(call);
  steps.insert(steps.begin(), 0);
}

int64_t Rank::bytes() const {
  const auto of = []<class T>(const std::vector<T>& list) { return static_cast<int64_t>(list.size() * sizeof(T)); };
  int64_t bytes = sizeof(Rank) + of(steps) + of(lists.received_begin) + of(call.classes.class_of) +
                  of(call.extent.cu_seqlens) + of(call.extent.lengths);
  for (const std::vector<Message>* messages : {&lists.receives, &lists.sends}) {
    bytes += of(*messages);
    for (const Message& m : *messages) bytes += of(m.part_begin) + of(m.parts) + of(m.place_begin);
  }
  for (const Need& need : lists.needs) bytes += of(need.rows) + of(need.alone);
  for (const GatheredClass& one : gathered.classes) {
    bytes += of(one.queries) + of(one.own) + of(one.received) + of(one.rectangles);
  }
  for (const plan::ClassSpec& spec : call.classes.specs) {
    bytes += of(spec.samplings) + of(*spec.documents);
    for (const auto& cells : spec.cells) bytes += cells ? of(*cells) : 0;
  }
  return bytes;
}

RankPlans compile(const Rank& rank, const Geometry& geometry, Direction direction) {
  const auto held = [](Plan plan) { return std::make_shared<const plan::CachedPlan>(std::move(plan)); };
  RankPlans plans{.gathered = held(compile_gathered(rank.call, rank.gathered, geometry, direction))};
  for (const Piece& piece : rank.pieces) {
    plans.pieces.push_back(held(compile_piece(rank.call, piece, geometry, direction)));
  }
  return plans;
}

int64_t RankPlans::bytes() const {
  int64_t bytes = gathered->bytes();
  for (const PlanPointer& piece : pieces) bytes += piece->bytes();
  return bytes;
}

void forward_pieces(const Rank& rank, const RankPlans& plans, const ForwardProblem& shard, const Moves& moves,
                    const ForwardEngine& run) {
  check(rank, plans, shard, moves, Direction::kForward);
  for (size_t n = 0; n < rank.pieces.size(); ++n) {
    const Piece& piece = rank.pieces[n];
    ForwardProblem p = shard;
    cut_to(piece, p);
    p.out = from_row(p.out, piece.row, element_bytes(p));
    const PieceLse lse(shard, piece, moves);
    if (lse.whole()) {
      run(p, plans.pieces[n]);
      continue;
    }
    const Scratch held(moves.workspace(), lse.bytes());
    p.lse = held.data();
    run(p, plans.pieces[n]);
    lse.give(p.lse, shard.lse);
  }
}

void forward_gathered(const Rank& rank, const RankPlans& plans, const ForwardProblem& shard, void* keys,
                      const Moves& moves, const ForwardEngine& run) {
  check(rank, plans, shard, moves, Direction::kForward);
  if (rank.gathered.empty()) return;
  const Workspace& w = moves.workspace();
  moves.gather_keys(shard.k, shard.v, keys);
  const int64_t elements = gathered_elements(rank, shard), rows = elements / shard.dim;
  const Scratch q(w, elements * element_bytes(shard)), out(w, elements * wide_bytes(shard));
  const Scratch lse(w, rows * wide_bytes(shard));
  moves.gather_queries(shard.q, q.data());
  ForwardProblem p = shard;
  gather_into(rank, q.data(), keys, p);
  p.out = gathered_rows(rank, p, out.data());
  p.lse = lse.data();
  run(p, plans.gathered);
  moves.merge(out.data(), lse.data(), shard.out, shard.lse);
}

void backward_gathered(const Rank& rank, const BackwardPlans& plans, const BackwardProblem& shard, const void* keys,
                       void* d_queries, void* d_keys, const Moves& moves, const BackwardEngine& run) {
  check(rank, plans.transposed, shard, moves, Direction::kTransposed);
  check_gates(rank, shard);
  if (rank.gathered.empty()) return;
  const Workspace& w = moves.workspace();
  const int64_t elements = gathered_elements(rank, shard), rows = elements / shard.dim;
  const int64_t bytes = elements * element_bytes(shard);
  const Scratch q(w, bytes), out(w, bytes), d_out(w, bytes);
  const Scratch lse(w, rows * wide_bytes(shard)), d_lse(w, shard.d_lse ? rows * wide_bytes(shard) : 0);
  moves.gather_queries(shard.q, q.data());
  moves.gather_queries(shard.out, out.data());
  moves.gather_queries(shard.d_out, d_out.data());
  moves.gather_lse(shard.lse, lse.data());
  if (shard.d_lse) moves.gather_lse(shard.d_lse, d_lse.data());
  BackwardProblem p = shard;
  gather_into(rank, q.data(), keys, p);
  p.out = gathered_rows(rank, p, static_cast<const void*>(out.data()));
  p.d_out = gathered_rows(rank, p, static_cast<const void*>(d_out.data()));
  p.lse = lse.data();
  p.d_lse = shard.d_lse ? d_lse.data() : nullptr;
  p.dq = gathered_rows(rank, p, d_queries);
  p.dk = buffer_rows<engine::TensorRef>(rank, p, d_keys, false, wide_bytes(p));
  p.dv = buffer_rows<engine::TensorRef>(rank, p, d_keys, true, wide_bytes(p));
  run(p, plans.transposed.gathered, plans.forward ? plans.forward->gathered : nullptr);
  moves.add_twice_gathered(d_keys);
}

void backward_pieces(const Rank& rank, const BackwardPlans& plans, const BackwardProblem& shard, const Moves& moves,
                     const BackwardEngine& run) {
  check(rank, plans.transposed, shard, moves, Direction::kTransposed);
  check_gates(rank, shard);
  const auto run_piece = [&](const BackwardProblem& p, size_t n) {
    run(p, plans.transposed.pieces[n], plans.forward ? plans.forward->pieces[n] : nullptr);
  };
  for (size_t n = 0; n < rank.pieces.size(); ++n) {
    const Piece& piece = rank.pieces[n];
    BackwardProblem p = shard;
    cut_to(piece, p);
    for (engine::ConstTensorRef* t : {&p.out, &p.d_out}) *t = from_row(*t, piece.row, element_bytes(p));
    for (engine::TensorRef* t : {&p.dq, &p.dk, &p.dv}) *t = from_row(*t, piece.row, element_bytes(p));
    const PieceLse lse(shard, piece, moves);
    if (lse.whole()) {
      run_piece(p, n);
      continue;
    }
    const Scratch held(moves.workspace(), lse.bytes()), d_lse(moves.workspace(), lse.bytes());
    lse.take(shard.lse, held.data());
    p.lse = held.data();
    if (shard.d_lse) {
      lse.take(shard.d_lse, d_lse.data());
      p.d_lse = d_lse.data();
    }
    run_piece(p, n);
  }
}

void add_gathered(const Rank& rank, const BackwardProblem& shard, const void* d_queries, const void* d_keys,
                  const Moves& moves) {
  if (rank.gathered.empty()) return;
  moves.add_queries(d_queries, shard.dq);
  moves.add_own_keys(d_keys, shard.dk, shard.dv);
}

}  // namespace longstride::parallel
