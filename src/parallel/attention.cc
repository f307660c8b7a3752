// Cuts a shard's problem into those of its pieces and of its gathered rows.
#include "parallel/attention.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "core/refuse.h"
#include "parallel/compile.h"
#include "parallel/rows.h"
#include "parallel/sums.h"

namespace longstride::parallel {
namespace {

using engine::BackwardProblem;
using engine::ForwardProblem;
using engine::Problem;
using engine::Workspace;

int64_t lse_bytes(const Problem& p) { return p.dtype == core::DType::kFloat64 ? 8 : 4; }
int64_t element_bytes(const Problem& p) { return static_cast<int64_t>(core::size_bytes(p.dtype)); }

void check(const Rank& rank, const RankPlans& plans, const Problem& p, Direction direction) {
  if (p.len_q != rank.rows() || p.len_k != rank.rows() || p.query_start != 0) {
    core::refuse("problem", fmt::format("must be of the {} rows of rank {}'s shard", rank.rows(), rank.rank),
                 fmt::format("len_q {}, len_k {}, query_start {}", p.len_q, p.len_k, p.query_start));
  }
  if (p.drops())
    core::refuse("dropout_p", "must be 0 where the sequence lies in shards", fmt::format("{}", p.dropout_p));
  if (p.alibi) core::refuse("alibi_slopes", "must be unset where the sequence lies in shards", "slopes");
  const bool parts = !rank.gathered.empty() || !rank.lists.sends.empty();
  if (parts && p.dtype != core::DType::kFloat32 && p.dtype != core::DType::kFloat64) {
    core::refuse("dtype", "must be float32 or float64 where keys are exchanged", core::name(p.dtype),
                 "convert the shard to float32, and held results back");
  }
  if (plans.pieces.size() != rank.pieces.size() || plans.gathered->direction != direction) {
    core::refuse("plans", "must be compiled for this rank and direction", "others");
  }
}

// Scratch memory from the workspace.
class Scratch {
 public:
  Scratch(const Workspace& w, int64_t bytes) : free_(w.allocate ? w.free : [](void* memory) { std::free(memory); }) {
    constexpr size_t kAlignment = 64;
    const size_t size = (static_cast<size_t>(bytes) + kAlignment) / kAlignment * kAlignment;
    memory_ = w.allocate ? w.allocate(size) : std::aligned_alloc(kAlignment, size);
    if (!memory_) throw std::bad_alloc();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free_(memory_); }
  void* data() const { return memory_; }

 private:
  std::function<void(void*)> free_;
  void* memory_ = nullptr;
};

Moving moving(const Rank& rank, const Problem& p, const Workspace& w) {
  return {rank.call, rank.gathered, {.dim = p.dim, .dtype = p.dtype}, w.parallel_for};
}
Moving moving_lse(const Rank& rank, const Problem& p, const Workspace& w) {
  const core::DType dtype = lse_bytes(p) == 8 ? core::DType::kFloat64 : core::DType::kFloat32;
  return {rank.call, rank.gathered, {.dim = 1, .dtype = dtype}, w.parallel_for};
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
  PieceLse(const Problem& p, const Piece& piece)
      : lines_(p.batch * p.heads),
        all_(p.len_q),
        row_(piece.row),
        rows_(piece.end - piece.begin),
        bytes_(lse_bytes(p)) {}
  int64_t bytes() const { return lines_ * rows_ * bytes_; }
  bool whole() const { return rows_ == all_; }
  void take(const void* shard, void* piece) const {
    for (int64_t n = 0; n < lines_; ++n) {
      std::memcpy(at(piece, n * rows_), at(shard, n * all_ + row_), static_cast<size_t>(rows_ * bytes_));
    }
  }
  void give(const void* piece, void* shard) const {
    for (int64_t n = 0; n < lines_; ++n) {
      std::memcpy(at(shard, n * all_ + row_), at(piece, n * rows_), static_cast<size_t>(rows_ * bytes_));
    }
  }

 private:
  const char* at(const void* from, int64_t n) const { return static_cast<const char*>(from) + n * bytes_; }
  char* at(void* from, int64_t n) const { return static_cast<char*>(from) + n * bytes_; }
  int64_t lines_, all_, row_, rows_, bytes_;
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

// Keys, or what lies beside them, of the buffer.
template <class Ref, class Void>
Ref buffer_rows(const Rank& rank, const Problem& p, Void* buffer, bool values) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t place = rank.gathered.keys * 2 * p.dim;
  return {static_cast<Byte*>(buffer) + (values ? p.dim * element_bytes(p) : 0), p.kv_heads * place, 2 * p.dim, place};
}

// The problem of gathered queries, which `q` holds.
void gather_into(const Rank& rank, const void* q, const void* keys, Problem& p) {
  p.q = gathered_rows(rank, p, q);
  p.k = buffer_rows<engine::ConstTensorRef>(rank, p, keys, false);
  p.v = buffer_rows<engine::ConstTensorRef>(rank, p, keys, true);
  p.len_q = rank.gathered.queries;
  p.len_k = rank.gathered.keys;
}

}  // namespace

Rank::Rank(ShardedCall given, int64_t number)
    : call(std::move(given)),
      rank(number),
      lists(parallel::lists(call, rank)),
      pieces(joined_pieces(call.shards, rank)),
      gathered(gather(call, rank, lists.needs)) {}

int64_t Rank::bytes() const {
  const auto of = []<class T>(const std::vector<T>& list) { return static_cast<int64_t>(list.size() * sizeof(T)); };
  int64_t bytes = sizeof(Rank) + of(lists.received_begin) + of(call.classes.class_of) + of(call.extent.cu_seqlens) +
                  of(call.extent.lengths);
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

void forward_pieces(const Rank& rank, const RankPlans& plans, const ForwardProblem& shard, const Workspace& w,
                    const ForwardEngine& run) {
  check(rank, plans, shard, Direction::kForward);
  for (size_t n = 0; n < rank.pieces.size(); ++n) {
    const Piece& piece = rank.pieces[n];
    ForwardProblem p = shard;
    cut_to(piece, p);
    p.out = from_row(p.out, piece.row, element_bytes(p));
    const PieceLse lse(shard, piece);
    if (lse.whole()) {
      run(p, plans.pieces[n]);
      continue;
    }
    const Scratch held(w, lse.bytes());
    p.lse = held.data();
    run(p, plans.pieces[n]);
    lse.give(p.lse, shard.lse);
  }
}

void forward_gathered(const Rank& rank, const RankPlans& plans, const ForwardProblem& shard, void* keys,
                      const Workspace& w, const ForwardEngine& run) {
  check(rank, plans, shard, Direction::kForward);
  if (rank.gathered.empty()) return;
  const Moving m = moving(rank, shard, w);
  gather_keys(m, shard.k, shard.v, keys);
  const int64_t elements = gathered_elements(rank, shard), rows = elements / shard.dim;
  const Scratch q(w, elements * element_bytes(shard)), out(w, elements * element_bytes(shard));
  const Scratch lse(w, rows * lse_bytes(shard));
  gather_queries(m, shard.heads, shard.q, q.data());
  ForwardProblem p = shard;
  gather_into(rank, q.data(), keys, p);
  p.out = gathered_rows(rank, p, out.data());
  p.lse = lse.data();
  run(p, plans.gathered);
  merge(m, shard.heads, out.data(), lse.data(), shard.out, shard.lse, shard.len_q);
}

void backward_gathered(const Rank& rank, const RankPlans& plans, const BackwardProblem& shard, const void* keys,
                       void* d_queries, void* d_keys, const Workspace& w, const BackwardEngine& run) {
  check(rank, plans, shard, Direction::kTransposed);
  if (shard.gates) core::refuse("gates", "must be none where the sequence lies in shards", "some");
  if (rank.gathered.empty()) return;
  const Moving m = moving(rank, shard, w), m_lse = moving_lse(rank, shard, w);
  const int64_t elements = gathered_elements(rank, shard), rows = elements / shard.dim;
  const int64_t bytes = elements * element_bytes(shard);
  const Scratch q(w, bytes), out(w, bytes), d_out(w, bytes);
  const Scratch lse(w, rows * lse_bytes(shard)), d_lse(w, shard.d_lse ? rows * lse_bytes(shard) : 0);
  gather_queries(m, shard.heads, shard.q, q.data());
  gather_queries(m, shard.heads, shard.out, out.data());
  gather_queries(m, shard.heads, shard.d_out, d_out.data());
  const auto gather_lse = [&](const void* from, const Scratch& to) {
    gather_queries(m_lse, shard.heads, {from, shard.heads * shard.len_q, 1, shard.len_q}, to.data());
  };
  gather_lse(shard.lse, lse);
  if (shard.d_lse) gather_lse(shard.d_lse, d_lse);
  BackwardProblem p = shard;
  gather_into(rank, q.data(), keys, p);
  p.out = gathered_rows(rank, p, static_cast<const void*>(out.data()));
  p.d_out = gathered_rows(rank, p, static_cast<const void*>(d_out.data()));
  p.lse = lse.data();
  p.d_lse = shard.d_lse ? d_lse.data() : nullptr;
  p.dq = gathered_rows(rank, p, d_queries);
  p.dk = buffer_rows<engine::TensorRef>(rank, p, d_keys, false);
  p.dv = buffer_rows<engine::TensorRef>(rank, p, d_keys, true);
  run(p, plans.gathered);
  add_twice_gathered(m, d_keys);
}

void backward_pieces(const Rank& rank, const RankPlans& plans, const BackwardProblem& shard, const Workspace& w,
                     const BackwardEngine& run) {
  check(rank, plans, shard, Direction::kTransposed);
  for (size_t n = 0; n < rank.pieces.size(); ++n) {
    const Piece& piece = rank.pieces[n];
    BackwardProblem p = shard;
    cut_to(piece, p);
    for (engine::ConstTensorRef* t : {&p.out, &p.d_out}) *t = from_row(*t, piece.row, element_bytes(p));
    for (engine::TensorRef* t : {&p.dq, &p.dk, &p.dv}) *t = from_row(*t, piece.row, element_bytes(p));
    const PieceLse lse(shard, piece);
    if (lse.whole()) {
      run(p, plans.pieces[n]);
      continue;
    }
    const Scratch held(w, lse.bytes()), d_lse(w, lse.bytes());
    lse.take(shard.lse, held.data());
    p.lse = held.data();
    if (shard.d_lse) {
      lse.take(shard.d_lse, d_lse.data());
      p.d_lse = d_lse.data();
    }
    run(p, plans.pieces[n]);
  }
}

void add_gathered(const Rank& rank, const BackwardProblem& shard, const void* d_queries, const void* d_keys,
                  const Workspace& w) {
  if (rank.gathered.empty()) return;
  const Moving m = moving(rank, shard, w);
  add_queries(m, shard.heads, d_queries, shard.dq);
  add_own_keys(m, d_keys, shard.dk, shard.dv);
}

}  // namespace longstride::parallel
