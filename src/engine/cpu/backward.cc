// The backward of the CPU engine over a transposed plan: key tiles keep K, V, dK and dV; queries and dO are packed once
// per query head and level in line order; dQ is summed in float32, transposed, in the same order. Five products a pair.
// Deterministic given the thread count: a head's key tiles are dealt to a fixed number of parts, each with its own dQ,
// which are added in order. Called by src/op and the tests; assumes a plan made for the problem's lengths.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "engine/cpu/backward_scratch.h"
#include "engine/cpu/chunks.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/gates.h"
#include "engine/cpu/packing.h"
#include "engine/cpu/team.h"
#include "engine/cpu/tiles.h"

namespace longstride::engine::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Backward {
 public:
  Backward(const BackwardProblem& p, const PlanView& plan, const Workspace& w)
      : p_(p), plan_(plan), products_(w, p.dtype) {
    for (const PlanClass& c : plan.classes) {
      int32_t packings = 0;  // parts of the base are one with it
      for (const Level& level : plan.levels_of(c)) {
        if (level.parts != Parts::kNone) part_rows_ = std::max(part_rows_, c.partial_rows);
        packings += level.parts != Parts::kOfBase;
      }
      several_levels_ |= packings > 1;
    }
    for (const Level& level : plan.levels) blocks_ = std::max(blocks_, LineOrder(p.len_q, level.stride).blocks());
    for (int64_t place = 0; p.gates && place < p.batch * p.kv_heads; ++place)
      most_gates_ = std::max(most_gates_, p.gates->begin[place + 1] - p.gates->begin[place]);
    several_terms_ = several_levels_ || queries_per_key_ > 1;
  }

  void run(const Workspace& w) {
    const Team team(w);
    const int64_t heads = p_.batch * p_.kv_heads;
    const bool side_by_side = backward_side_by_side(heads, team.threads());
    if (!side_by_side) parts_ = backward_parts(blocks_ * kBlock * dim_padded_ * 4, team.threads());
    const int in_flight = side_by_side ? team.threads() : 1;
    const BackwardShape shape{.cell = cell_,
                              .dim_padded = dim_padded_,
                              .tile_rows = tile_rows_,
                              .blocks = blocks_,
                              .parts = parts_,
                              .gates = most_gates_,
                              .query_sums = several_levels_ ? p_.len_q : 0,
                              .key_sums = several_terms_ ? p_.len_k : 0,
                              .part_rows = part_rows_};
    const Copies head_memory(
        w, in_flight, [&](Carver& c) { return carve_head(shape, c); }, heads_);
    const Copies thread_memory(
        w, team.threads(), [&](Carver& c) { return carve_thread(shape, c); }, threads_);
    if (side_by_side) {
      team.each(heads, [&](int64_t i, int thread) { head(i, heads_[thread], Team::alone(thread)); });
    } else {
      for (int64_t i = 0; i < heads; ++i) head(i, heads_[0], team);
    }
  }

 private:
  void head(int64_t index, const BackwardHead& h, const Team& team) const {
    const int64_t b = index / p_.kv_heads;
    const int64_t kv_head = index % p_.kv_heads;
    const PlanClass& c = plan_.classes[plan_.class_of[index]];
    if (several_terms_) {
      std::fill_n(h.dk, p_.len_k * dim_padded_, 0.0f);
      std::fill_n(h.dv, p_.len_k * dim_padded_, 0.0f);
    }
    std::fill_n(h.gate_sums, parts_ * most_gates_, 0.0);
    for (int64_t g = 0; g < queries_per_key_; ++g) {
      const int64_t query_head = kv_head * queries_per_key_ + g;
      bool first = true, goes_on = false;  // from the parts of the base level to it: queries and dQ stay
      for (const Level& level : plan_.levels_of(c)) {
        const LevelTiles tiles(plan_, level);
        const LineOrder order(p_.len_q, level.stride);
        if (!goes_on) pack(b, query_head, order, h, team);
        team.each(parts_, [&](int64_t part, int thread) {
          float* dq_t = h.dq_t + part * blocks_ * kBlock * dim_padded_;
          if (!goes_on) std::fill_n(dq_t, order.blocks() * kBlock * dim_padded_, 0.0f);
          const GateSums gates(level.of_base() ? p_.gates : nullptr, index, h.gate_sums + part * most_gates_);
          for (int64_t i = part; i < tiles.count(); i += parts_) {
            tile(tiles[i], c, order, b, kv_head, query_head, h, dq_t, gates, threads_[thread]);
          }
          products_.release();
        });
        goes_on = level.parts == Parts::kOfBase;
        if (goes_on) continue;
        fold_queries(b, query_head, order, first, !level.partial, h, team);
        first = false;
      }
    }
    if (several_terms_) write_keys(b, kv_head, h, team);
    if (p_.gates) write_gates(index, h);
  }

  void pack(int64_t b, int64_t query_head, const LineOrder& order, const BackwardHead& h, const Team& team) const {
    const HeadRows queries(p_.q, p_, b, query_head);
    const HeadRows d_out(p_.d_out, p_, b, query_head);
    const HeadRows out(p_.out, p_, b, query_head);
    const int64_t block_bytes = kBlock * dim_padded_ * products_.cell_size();
    const float* lse = static_cast<const float*>(p_.lse) + (b * p_.heads + query_head) * p_.len_q;
    const float* d_lse =
        p_.d_lse ? static_cast<const float*>(p_.d_lse) + (b * p_.heads + query_head) * p_.len_q : nullptr;
    constexpr int64_t kAtOnce = 8;  // blocks of one index: enough work to hand out
    team.each((order.blocks() + kAtOnce - 1) / kAtOnce, [&](int64_t part, int thread) {
      char* cells = threads_[thread].cells;
      for (int64_t i = part * kAtOnce; i < std::min(order.blocks(), (part + 1) * kAtOnce); ++i) {
        const char* loaded = pack_block(queries, order, i, cell_, dim_padded_, cells, h.queries + i * block_bytes);
        pack_transposed(cell_, loaded, kBlock, dim_padded_, kBlock, h.queries_t + i * block_bytes);
        h.nonfinite[i] = any_nonfinite(cell_, loaded, kBlock * dim_padded_);
        loaded = pack_block(d_out, order, i, cell_, dim_padded_, cells, h.d_out + i * block_bytes);
        pack_transposed(cell_, loaded, kBlock, dim_padded_, kBlock, h.d_out_t + i * block_bytes);
        h.nonfinite[i] |= any_nonfinite(cell_, loaded, kBlock * dim_padded_);
        std::fill_n(h.lse + i * kBlock, kBlock, kInfinity);
        std::fill_n(h.delta + i * kBlock, kBlock, 0.0f);
        h.large[i] = 0;
        order.walk(i, [&](int64_t row, int64_t position, int64_t count) {
          const int64_t column = i * kBlock + row;
          dot_rows(p_.dtype, out.row(position), out.stride * order.stride(), count, p_.dim, cell_, dim_padded_,
                   at_cell(loaded, row * dim_padded_, cell_), h.delta + column);
          for (int64_t n = 0; n < count; ++n) {
            const int64_t x = position + n * order.stride();
            const bool dead = lse[x] == -kInfinity;
            h.lse[column + n] = dead ? kInfinity : lse[x];
            h.large[i] |= !dead && !(std::abs(lse[x]) <= kLooseLse);
            if (d_lse) h.delta[column + n] -= d_lse[x];
          }
        });
      }
    });
  }

  void tile(const PlacedTile& at, const PlanClass& c, const LineOrder& order, int64_t b, int64_t kv_head,
            int64_t query_head, const BackwardHead& h, float* dq_t, const GateSums& gates,
            const BackwardThread& t) const {
    const Level& level = *at.level;
    const int64_t rows = at.tile->rows;
    const int64_t row0 = at.tile->row0 + at.shift;
    const int64_t padded_rows = (rows + kRowQuantum - 1) / kRowQuantum * kRowQuantum;
    std::fill_n(t.dk, padded_rows * dim_padded_, 0.0f);
    std::fill_n(t.dv, padded_rows * dim_padded_, 0.0f);
    if (at.tile->run_count > 0) {
      const HeadRows keys(p_.k, p_, b, kv_head);
      const HeadRows values(p_.v, p_, b, kv_head);
      gather(keys, row0, level.stride, rows, padded_rows, t.keys);
      gather(values, row0, level.stride, rows, padded_rows, t.values);
      transpose_cells(cell_, t.keys, padded_rows, dim_padded_, tile_rows_, t.keys_t);
      const bool keys_nonfinite = any_nonfinite(cell_, t.keys, rows * dim_padded_);

      Chunk chunk;
      chunk.scale = static_cast<float>(p_.scale);
      chunk.scale_log2 = chunk.scale * std::numbers::log2e_v<float>;
      chunk.ld = kBlock;
      chunk.stride = level.stride;
      chunk.slope = p_.alibi ? p_.alibi_slopes[query_head] : 0.0f;
      if (dropout_.active()) chunk.drop = DropoutChunk(dropout_, dropout_.stream(b, query_head));
      for (const Run& run : plan_.runs_of(*at.tile)) {
        chunk.weight_log2 = std::log2(static_cast<float>(run.weight));
        for (int32_t k = 0; k < run.residues; ++k) {
          const int64_t column0 = run.column0 + k * run.residue_step + at.shift;
          const int64_t begin = order.column(column0 - p_.query_start);
          for_each_piece(run, begin, Direction::kTransposed, [&](const Piece& piece) {
            // Column 0 of the piece is column i of the run.
            const int64_t i = piece.block * kBlock + piece.begin - begin;
            chunk.column0 = column0 + i * level.stride;
            run_piece(piece, row0, keys_nonfinite, h, dq_t, gates, t, chunk);
          });
        }
      }
    }
    finish_tile(at, c, b, kv_head, h, t);
  }

  void gather(const HeadRows& from, int64_t row0, int64_t stride, int64_t rows, int64_t padded_rows, char* to) const {
    gather_rows(p_.dtype, from.row(row0), from.stride * stride, rows, p_.dim, false, cell_, dim_padded_, to);
    std::fill(at_cell(to, rows * dim_padded_, cell_), at_cell(to, padded_rows * dim_padded_, cell_), 0);
  }

  void run_piece(const Piece& piece, int64_t row0, bool keys_nonfinite, const BackwardHead& h, float* dq_t,
                 const GateSums& gates, const BackwardThread& t, Chunk& chunk) const {
    const int64_t block_cells = kBlock * dim_padded_;
    const int64_t pair = cell_ == Cell::kNarrow ? 2 : 1;
    const int64_t in_transposed = piece.block * block_cells + piece.begin * pair;
    const int64_t in_rows = piece.block * block_cells + piece.begin * dim_padded_;
    const char* queries = at_cell(h.queries, in_rows, cell_);
    const char* d_out = at_cell(h.d_out, in_rows, cell_);
    if (h.nonfinite[piece.block] && (piece.first > 0 || piece.last < piece.columns)) {
      copy_live_rows(cell_, at_cell(h.queries, piece.block * block_cells, cell_), dim_padded_, piece.begin,
                     piece.columns, piece.first, piece.last, t.live_queries);
      copy_live_rows(cell_, at_cell(h.d_out, piece.block * block_cells, cell_), dim_padded_, piece.begin, piece.columns,
                     piece.first, piece.last, t.live_d_out);
      queries = t.live_queries;
      d_out = t.live_d_out;
    }
    const int64_t column = piece.block * kBlock + piece.begin;
    const GradientColumns columns{h.lse + column, h.delta + column,
                                  !h.large[piece.block] && std::isfinite(chunk.scale_log2) && chunk.slope == 0, gain_};
    float* dq_piece = dq_t + piece.block * block_cells + piece.begin;
    for (int band = piece.row_begin / kBandRows * kBandRows; band < piece.row_end; band += kBandRows) {
      const int low = std::max(piece.row_begin, band);
      const int high = std::min(piece.row_end, band + kBandRows);
      const int top = low / kRowQuantum * kRowQuantum;
      chunk.rows = (high - top + kRowQuantum - 1) / kRowQuantum * kRowQuantum;
      chunk.row_begin = low - top;
      chunk.row_end = high - top;
      chunk.columns = piece.columns;
      chunk.first = piece.first;
      chunk.last = piece.last;
      chunk.begin_diagonal = piece.begin_diagonal + top;
      chunk.end_diagonal = piece.end_diagonal + top;
      chunk.row0 = row0 + top * chunk.stride;
      products_.run(chunk.rows, piece.columns, dim_padded_, at_cell(t.keys, top * dim_padded_, cell_), dim_padded_,
                    at_cell(h.queries_t, in_transposed, cell_), kBlock, t.scores, kBlock, false);
      products_.run(chunk.rows, piece.columns, dim_padded_, at_cell(t.values, top * dim_padded_, cell_), dim_padded_,
                    at_cell(h.d_out_t, in_transposed, cell_), kBlock, t.d_probabilities, kBlock, false);
      gradient_chunk(cell_, chunk, t.scores, t.d_probabilities, columns, t.probabilities, t.d_scores, t.d_score_pairs);
      if (gates.wanted()) gates.add(cell_, chunk, t.d_scores, chunk.row0, chunk.column0);
      products_.run(chunk.rows, dim_padded_, piece.columns, t.probabilities, kBlock, d_out, dim_padded_,
                    t.dv + top * dim_padded_, dim_padded_, true);
      products_.run(chunk.rows, dim_padded_, piece.columns, t.d_scores, kBlock, queries, dim_padded_,
                    t.dk + top * dim_padded_, dim_padded_, true);
      if (keys_nonfinite) {
        add_live_dq(piece, top, chunk, t, dq_piece);
      } else {
        products_.run(dim_padded_, piece.columns, chunk.rows, at_cell(t.keys_t, top, cell_), tile_rows_,
                      t.d_score_pairs, kBlock, dq_piece, kBlock, true);
      }
    }
  }

  // dQ of a piece whose keys are not all finite: only from keys and to queries that have a pair here.
  void add_live_dq(const Piece& piece, int top, const Chunk& chunk, const BackwardThread& t, float* dq_piece) const {
    std::memset(t.live_keys_t, 0, static_cast<size_t>(dim_padded_ * kBandRows * products_.cell_size()));
    for (int64_t x = 0; x < dim_padded_; ++x) {
      std::memcpy(at_cell(t.live_keys_t, x * kBandRows + chunk.row_begin, cell_),
                  at_cell(t.keys_t, x * tile_rows_ + top + chunk.row_begin, cell_),
                  static_cast<size_t>((chunk.row_end - chunk.row_begin) * products_.cell_size()));
    }
    products_.run(dim_padded_, piece.columns, chunk.rows, t.live_keys_t, kBandRows, t.d_score_pairs, kBlock,
                  t.live_product, kBlock, false);
    for (int64_t x = 0; x < dim_padded_; ++x) {
      for (int64_t c = piece.first; c < piece.last; ++c) dq_piece[x * kBlock + c] += t.live_product[x * kBlock + c];
    }
  }

  void finish_tile(const PlacedTile& at, const PlanClass& c, int64_t b, int64_t kv_head, const BackwardHead& h,
                   const BackwardThread& t) const {
    const int64_t rows = at.tile->rows, row0 = at.row(0), stride = at.level->stride;
    if (at.level->parts != Parts::kNone) {
      std::copy_n(t.dk, rows * dim_padded_, h.part_dk + at.slot * dim_padded_);
      std::copy_n(t.dv, rows * dim_padded_, h.part_dv + at.slot * dim_padded_);
      return;
    }
    if (part_rows_ > 0) add_parts(at, c, h, t);
    if (!several_terms_) return store_keys(b, kv_head, row0, stride, rows, t.dk, t.dv, t);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t x = row0 + row * stride;
      add(t.dk + row * dim_padded_, dim_padded_, h.dk + x * dim_padded_);
      add(t.dv + row * dim_padded_, dim_padded_, h.dv + x * dim_padded_);
    }
  }

  // To a base tile's gradients those that parts keep. Other partial levels have added theirs themselves.
  void add_parts(const PlacedTile& at, const PlanClass& c, const BackwardHead& h, const BackwardThread& t) const {
    for (const Merge& m : plan_.merges_of(*at.tile)) {
      if (!keeps_parts(plan_, c, m.slot)) continue;
      for (int64_t n = 0; n < m.rows; ++n) {
        const int64_t row = m.row_begin + n * m.row_step, slot = m.slot_at(n, at.repeat);
        add(h.part_dk + slot * dim_padded_, dim_padded_, t.dk + row * dim_padded_);
        add(h.part_dv + slot * dim_padded_, dim_padded_, t.dv + row * dim_padded_);
      }
    }
  }

  void store_keys(int64_t b, int64_t kv_head, int64_t row0, int64_t stride, int64_t rows, const float* dk,
                  const float* dv, const BackwardThread& t) const {
    std::fill_n(t.factors, rows, static_cast<float>(p_.scale));
    store_rows(p_.dtype, dk, dim_padded_, t.factors, rows, p_.dim, target(p_.dk, b, row0, kv_head),
               p_.dk.len_stride * stride);
    std::fill_n(t.factors, rows, gain_);
    store_rows(p_.dtype, dv, dim_padded_, t.factors, rows, p_.dim, target(p_.dv, b, row0, kv_head),
               p_.dv.len_stride * stride);
  }

  char* target(const TensorRef& t, int64_t b, int64_t x, int64_t head) const {
    return static_cast<char*>(t.data) + (b * t.batch_stride + x * t.len_stride + head * t.head_stride) *
                                            static_cast<int64_t>(core::size_bytes(p_.dtype));
  }

  // Adds the parts' dQ of one level; after the last level writes them.
  void fold_queries(int64_t b, int64_t query_head, const LineOrder& order, bool first_level, bool last_level,
                    const BackwardHead& h, const Team& team) const {
    const int64_t block_cells = kBlock * dim_padded_;
    constexpr int64_t kAtOnce = 8;
    team.each((order.blocks() + kAtOnce - 1) / kAtOnce, [&](int64_t part, int thread) {
      const BackwardThread& t = threads_[thread];
      std::fill_n(t.factors, kBlock, static_cast<float>(p_.scale));
      for (int64_t i = part * kAtOnce; i < std::min(order.blocks(), (part + 1) * kAtOnce); ++i) {
        for (int k = 1; k < parts_; ++k) {
          add(h.dq_t + (k * blocks_ + i) * block_cells, block_cells, h.dq_t + i * block_cells);
        }
        float* sums = t.live_product;
        // dim_padded x kBlock -> kBlock x dim_padded
        pack_transposed(Cell::kFloat32, h.dq_t + i * block_cells, dim_padded_, kBlock, dim_padded_, sums);
        order.walk(i, [&](int64_t row, int64_t position, int64_t count) {
          for (int64_t n = 0; several_levels_ && n < count; ++n) {
            float* total = h.dq + (position + n * order.stride()) * dim_padded_;
            float* term = sums + (row + n) * dim_padded_;
            if (!first_level) add(total, dim_padded_, term);
            if (!last_level) std::copy_n(term, dim_padded_, total);
          }
          if (last_level) {
            store_rows(p_.dtype, sums + row * dim_padded_, dim_padded_, t.factors, count, p_.dim,
                       target(p_.dq, b, position, query_head), p_.dq.len_stride * order.stride());
          }
        });
      }
    });
  }

  void write_keys(int64_t b, int64_t kv_head, const BackwardHead& h, const Team& team) const {
    team.each((p_.len_k + kBlock - 1) / kBlock, [&](int64_t part, int thread) {
      const int64_t x = part * kBlock;
      store_keys(b, kv_head, x, 1, std::min(kBlock, p_.len_k - x), h.dk + x * dim_padded_, h.dv + x * dim_padded_,
                 threads_[thread]);
    });
  }

  void write_gates(int64_t place, const BackwardHead& h) const {
    const int64_t* const gates = p_.gates->begin + place;
    for (int64_t n = 0; n < gates[1] - gates[0]; ++n) {
      double sum = 0;
      for (int k = 0; k < parts_; ++k) sum += h.gate_sums[k * most_gates_ + n];
      static_cast<float*>(p_.gates->grad)[gates[0] + n] = static_cast<float>(sum);
    }
  }

  const BackwardProblem& p_;
  const PlanView& plan_;
  const Products products_;
  const Cell cell_ = products_.cell();
  const int64_t dim_padded_ = products_.padded(p_.dim);
  const int64_t tile_rows_ = (plan_.tile_rows + kRowQuantum - 1) / kRowQuantum * kRowQuantum;
  const int64_t queries_per_key_ = p_.heads / p_.kv_heads;
  const core::Dropout dropout_ = engine::dropout_of(p_);
  const float gain_ = static_cast<float>(p_.out_scale * (dropout_.active() ? dropout_.gain() : 1.0));
  int64_t part_rows_ = 0;
  bool several_levels_ = false;
  bool several_terms_ = false;
  int parts_ = 1;
  int64_t most_gates_ = 0;  // of a KV head
  int64_t blocks_ = 0;
  std::vector<BackwardHead> heads_;
  std::vector<BackwardThread> threads_;
};

}  // namespace

void backward(const BackwardProblem& p, const PlanView& plan, const Workspace& w, Stream) {
  check(p, plan, Direction::kTransposed);
  if (p.batch == 0 || p.heads == 0 || p.len_k == 0) return;
  Backward(p, plan, w).run(w);
}

}  // namespace longstride::engine::cpu
