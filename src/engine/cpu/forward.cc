// The forward of the CPU engine: per head and level, keys and values are packed once in line order, then query tiles
// walk their runs with an online softmax. Of a few queries, a decoding step, each block is packed (in float32 its keys
// are left as they lie) where it is read, and kept nowhere. Called by src/op and the tests; assumes a plan made for the
// problem's lengths.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <utility>

#include "engine/cpu/bias_bound.h"
#include "engine/cpu/chunks.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/forward_scratch.h"
#include "engine/cpu/packing.h"
#include "engine/cpu/team.h"
#include "engine/cpu/tiles.h"

namespace longstride::engine::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// A block of keys and values as products take them.
struct PackedBlock {
  const char* keys = nullptr;
  const char* values = nullptr;
  bool nonfinite = false;  // the values are not all finite
};

struct PartialRows {
  float* out;
  float* max;
  float* sum;
  int64_t* distance;  // null: no slope
};

// A power of 2 by which scores are multiplied, and the scale divided, so that with a scale near the ends of float32 a
// difference of scores does not overflow beside a scale near 0 (0 * inf), nor the scale itself in base 2.
float unit_of(double scale) {
  const double size = std::abs(scale);
  return size > 0x1p100 ? 0x1p24f : size < 0x1p-100 ? 0x1p-24f : 1.0f;
}

// So few queries read a block once or twice: a copy of all of a head's keys would be written and read for nothing.
constexpr int64_t kFewQueries = 8;
bool packs_when_read(const Problem& p) { return p.len_q <= kFewQueries && p.heads <= 2 * p.kv_heads; }

class Forward {
 public:
  Forward(const ForwardProblem& p, const PlanView& plan, const Workspace& w)
      : p_(p), plan_(plan), products_(w, p.dtype) {
    shape_ = {.cell = cell_,
              .dim_padded = dim_padded_,
              .tile_rows = (plan.tile_rows + kRowQuantum - 1) / kRowQuantum * kRowQuantum,
              .group = queries_per_key_,
              .alibi = p.alibi,
              .when_read = packs_when_read(p)};
    by_rows_ = shape_.when_read && cell_ == Cell::kFloat32;
    for (const PlanClass& c : plan.classes) shape_.partial_rows = std::max(shape_.partial_rows, c.partial_rows);
    for (const Level& level : plan.levels) {
      shape_.blocks = std::max(shape_.blocks, LineOrder(p.len_k, level.stride).blocks());
    }
  }

  void run(const Workspace& w) {
    const Team team(w);
    const int64_t heads = p_.batch * p_.kv_heads;
    const auto carve_one_head = [&](Carver& c) { return carve_head(shape_, c); };
    const bool side_by_side = forward_side_by_side(heads, team.threads(), carved_bytes(carve_one_head));
    const int in_flight = side_by_side ? team.threads() : 1;
    const Copies head_memory(w, in_flight, carve_one_head, heads_);
    const Copies thread_memory(
        w, team.threads(), [&](Carver& c) { return carve_thread(shape_, c); }, threads_);
    if (side_by_side) {
      team.each(heads, [&](int64_t i, int thread) { head(i, heads_[thread], Team::alone(thread)); });
    } else {
      for (int64_t i = 0; i < heads; ++i) head(i, heads_[0], team);
    }
  }

 private:
  void head(int64_t index, const ForwardHead& h, const Team& team) const {
    const int64_t b = index / p_.kv_heads;
    const int64_t kv_head = index % p_.kv_heads;
    const auto levels = plan_.levels_of(plan_.classes[plan_.class_of[index]]);
    for (size_t l = 0; l < levels.size(); ++l) {
      const Level& level = levels[l];
      const LevelTiles tiles(plan_, level);
      const LineOrder order(p_.len_k, level.stride);
      // Parts of the base level are packed with it.
      const size_t together = level.parts == Parts::kOfBase ? 2 : 1;
      if (!shape_.when_read && (l == 0 || levels[l - 1].parts != Parts::kOfBase))
        pack(b, kv_head, order, levels.subspan(l, together), h, team);
      team.each(tiles.count(), [&](int64_t i, int thread) {
        const PlacedTile at = tiles[i];
        for (int64_t g = 0; g < queries_per_key_; ++g) {
          tile(at, level, order, b, kv_head, g, h, threads_[thread]);
        }
        products_.release();
      });
    }
  }

  // Calls visit(run, piece, position of the piece's column 0).
  template <class Visit>
  void for_each_piece_of(const PlacedTile& at, const LineOrder& order, const Visit& visit) const {
    for (const Run& run : plan_.runs_of(*at.tile)) {
      for (int32_t k = 0; k < run.residues; ++k) {
        const int64_t column0 = run.column0 + k * run.residue_step + at.shift;
        const int64_t begin = order.column(column0);
        for_each_piece(run, begin, Direction::kForward, [&](const Piece& piece) {
          // Column 0 of the piece is column i of the run.
          const int64_t i = piece.block * kBlock + piece.begin - begin;
          visit(run, piece, column0 + i * order.stride());
        });
      }
    }
  }

  void pack(int64_t b, int64_t kv_head, const LineOrder& order, std::span<const Level> levels, const ForwardHead& h,
            const Team& team) const {
    // A decoding step reads few of the keys.
    std::fill_n(h.needed, order.blocks(), uint8_t{0});
    for (const Level& level : levels) {
      const LevelTiles tiles(plan_, level);
      for (int64_t i = 0; i < tiles.count(); ++i) {
        for_each_piece_of(tiles[i], order, [&](const Run&, const Piece& piece, int64_t) { h.needed[piece.block] = 1; });
      }
    }
    constexpr int64_t kAtOnce = 8;  // blocks of one index: enough work to hand out
    team.each((order.blocks() + kAtOnce - 1) / kAtOnce, [&](int64_t part, int thread) {
      for (int64_t i = part * kAtOnce; i < std::min(order.blocks(), (part + 1) * kAtOnce); ++i) {
        if (!h.needed[i]) continue;
        const int64_t at = i * shape_.block_bytes();
        h.nonfinite[i] = pack_block_of(b, kv_head, order, i, threads_[thread], h.keys + at, h.values + at,
                                       p_.alibi ? h.longest + i : nullptr);
      }
    });
  }

  // Block `i` of a head's keys and values; whether the values are not all finite. `longest`, if asked for, is the
  // greatest length of the keys.
  bool pack_block_of(int64_t b, int64_t kv_head, const LineOrder& order, int64_t i, const ForwardThread& t, char* keys,
                     char* values, float* longest = nullptr) const {
    load_block(HeadRows(p_.k, p_, b, kv_head), order, i, cell_, dim_padded_, by_rows_ ? keys : t.cells);
    if (longest) *longest = longest_row(cell_, t.cells, kBlock, dim_padded_, t.scores);
    if (!by_rows_) pack_transposed(cell_, t.cells, kBlock, dim_padded_, kBlock, keys);
    const char* loaded = pack_block(HeadRows(p_.v, p_, b, kv_head), order, i, cell_, dim_padded_, t.cells, values);
    return any_nonfinite(cell_, loaded, kBlock * dim_padded_);
  }

  PackedBlock block_of(int64_t b, int64_t kv_head, const LineOrder& order, int64_t i, const ForwardHead& h,
                       const ForwardThread& t) const {
    if (shape_.when_read) return {t.keys, t.values, pack_block_of(b, kv_head, order, i, t, t.keys, t.values)};
    const int64_t at = i * shape_.block_bytes();
    return {h.keys + at, h.values + at, h.nonfinite[i] != 0};
  }

  void tile(const PlacedTile& at, const Level& level, const LineOrder& order, int64_t b, int64_t kv_head, int64_t g,
            const ForwardHead& h, const ForwardThread& t) const {
    const int64_t query_head = kv_head * queries_per_key_ + g;
    const int64_t rows = at.tile->rows;
    const int64_t row0 = at.tile->row0 + at.shift;
    const float slope = p_.alibi ? p_.alibi_slopes[query_head] : 0.0f;
    const PartialRows partial{h.partial_out + g * shape_.partial_rows * dim_padded_,
                              h.partial_max + g * shape_.partial_rows, h.partial_sum + g * shape_.partial_rows,
                              slope != 0 ? h.partial_distance + g * shape_.partial_rows : nullptr};

    const HeadRows queries(p_.q, p_, b, query_head);
    gather_rows(p_.dtype, queries.row(row0 - p_.query_start), queries.stride * level.stride, rows, p_.dim, p_.scale < 0,
                cell_, dim_padded_, t.queries);
    const int64_t padded_rows = (rows + kRowQuantum - 1) / kRowQuantum * kRowQuantum;
    std::fill(at_cell(t.queries, rows * dim_padded_, cell_), at_cell(t.queries, padded_rows * dim_padded_, cell_), 0);
    std::fill_n(t.out, padded_rows * dim_padded_, 0.0f);
    std::fill_n(t.max, padded_rows, kNothing);
    std::fill_n(t.sum, padded_rows * kLanes, 0.0f);
    if (slope != 0) std::fill_n(t.distance, padded_rows, int64_t{0});
    begin_rows(at, partial, slope, t);

    Chunk chunk;
    chunk.slope = slope;
    chunk.slope_log2 = slope_log2(slope);
    chunk.stride = level.stride;
    chunk.scale_log2 = scale_log2_;
    chunk.loose = std::min(16 / scale_log2_, std::numeric_limits<float>::max());
    chunk.ld = kBlock;
    if (dropout_.active()) chunk.drop = DropoutChunk(dropout_, dropout_.stream(b, query_head));
    PackedBlock block;
    int64_t held = -1;  // which it is
    const auto compute = [&](const Run& run, const Piece& piece, int64_t column0) {
      chunk.weight_log2 = std::log2(static_cast<float>(run.weight));
      if (piece.block != std::exchange(held, piece.block)) block = block_of(b, kv_head, order, piece.block, h, t);
      run_piece(piece, row0, column0, block, t, chunk);
    };
    if (slope == 0) {
      for_each_piece_of(at, order, compute);
    } else {
      std::vector<BiasedPiece> pieces;
      for_each_piece_of(at, order, [&](const Run& run, const Piece& piece, int64_t column0) {
        append_bands(run, piece, row0, column0, level.stride, slope, pieces);
      });
      std::ranges::stable_sort(pieces, {}, &BiasedPiece::gap);
      BiasBounds bounds(longest_row(cell_, t.queries, rows, dim_padded_, t.factors) * unit_, scale_log2_, slope,
                        {t.max, size_t(rows)}, t.distance);
      for (const BiasedPiece& p : pieces) {
        const bool far = h.longest && bounds.count_for_nothing(p, h.longest[p.piece.block]);
        if (!far || h.nonfinite[p.piece.block]) compute(*p.run, p.piece, p.column0);
      }
    }

    if (level.partial) {
      keep_rows(at, t, partial);
    } else {
      write_rows(rows, row0, level.stride, b, query_head, slope, t);
    }
  }

  // column0: the position of the piece's column 0.
  void run_piece(const Piece& piece, int64_t row0, int64_t column0, const PackedBlock& block, const ForwardThread& t,
                 Chunk& chunk) const {
    const int64_t pair = cell_ == Cell::kNarrow ? 2 : 1;
    const int64_t column = by_rows_ ? dim_padded_ : pair;  // from one of the keys to the next
    const char* keys = at_cell(block.keys, piece.begin * column, cell_);
    const char* values = at_cell(block.values, piece.begin * dim_padded_, cell_);
    if (block.nonfinite && (piece.first > 0 || piece.last < piece.columns)) {
      copy_live_rows(cell_, block.values, dim_padded_, piece.begin, piece.columns, piece.first, piece.last,
                     t.live_values);
      values = t.live_values;
    }
    int high = piece.row_begin;
    for (int low = high; low < piece.row_end; low = high) {
      const int64_t most = std::min(piece.row_end, (low / kBandRows + 1) * kBandRows);
      const bool crossed = low + piece.end_diagonal < piece.last || most - 1 + piece.begin_diagonal > piece.first;
      const int band_rows = crossed ? kDiagonalRows : kBandRows;
      high = std::min(piece.row_end, (low / band_rows + 1) * band_rows);
      const int quantum = by_rows_ ? 1 : kRowQuantum;
      const int top = low / quantum * quantum;
      chunk.rows = (high - top + quantum - 1) / quantum * quantum;
      chunk.row_begin = low - top;
      chunk.row_end = high - top;
      // The rows see columns from here on: whole groups before are left out.
      const auto first = static_cast<int>(std::max<int64_t>(piece.first, low + piece.begin_diagonal));
      const int skipped = first / kGroup * kGroup;
      chunk.first = first - skipped;
      chunk.last = static_cast<int>(std::min<int64_t>(piece.last, high - 1 + piece.end_diagonal)) - skipped;
      chunk.columns = (chunk.last + kGroup - 1) / kGroup * kGroup;
      chunk.begin_diagonal = piece.begin_diagonal + top - skipped;
      chunk.end_diagonal = piece.end_diagonal + top - skipped;
      chunk.column0 = column0 + skipped * chunk.stride;
      chunk.row0 = row0 + top * chunk.stride;
      score(chunk, at_cell(t.queries, top * dim_padded_, cell_), at_cell(keys, skipped * column, cell_), t.scores);
      if (unit_ != 1.0f) {
        for (int64_t i = 0; i < chunk.rows * kBlock; ++i) t.scores[i] *= unit_;
      }
      const SoftmaxRows softmax{t.max + top, chunk.slope != 0 ? t.distance + top : nullptr, t.sum + top * kLanes,
                                t.out + top * dim_padded_, dim_padded_};
      const bool counts = softmax_chunk(cell_, chunk, t.scores, t.probabilities, softmax);
      if (!counts && !block.nonfinite) continue;
      const char* seen = at_cell(values, skipped * dim_padded_, cell_);
      if (by_rows_) {
        multiply(chunk.rows, dim_padded_, chunk.columns, t.scores, kBlock, reinterpret_cast<const float*>(seen),
                 dim_padded_, softmax.out, dim_padded_, true);
      } else {
        products_.run(chunk.rows, dim_padded_, chunk.columns, t.probabilities, kBlock, seen, dim_padded_, softmax.out,
                      dim_padded_, true);
      }
    }
  }

  void score(const Chunk& chunk, const char* queries, const char* keys, float* scores) const {
    if (by_rows_) {
      multiply_transposed(chunk.rows, chunk.columns, dim_padded_, reinterpret_cast<const float*>(queries), dim_padded_,
                          reinterpret_cast<const float*>(keys), dim_padded_, scores, kBlock);
    } else {
      products_.run(chunk.rows, chunk.columns, dim_padded_, queries, dim_padded_, keys, kBlock, scores, kBlock, false);
    }
  }

  // A row begins with what other levels found and with its phantoms.
  void begin_rows(const PlacedTile& at, const PartialRows& partial, float slope, const ForwardThread& t) const {
    for (const Merge& m : plan_.merges_of(*at.tile)) {
      for (int64_t n = 0; n < m.rows; ++n) {
        const int64_t row = m.row_begin + n * m.row_step;
        const int64_t slot = m.slot_at(n, at.repeat);
        const int64_t distance = partial.distance ? partial.distance[slot] : 0;
        join(row, partial.max[slot], distance, partial.sum[slot], partial.out + slot * dim_padded_, slope, t);
      }
    }
    for (const Phantoms& z : plan_.phantoms_of(*at.tile)) {
      if (z.count == 0) continue;
      for (int64_t row = z.row_begin; row < z.row_end; ++row) {
        join(row, 0.0f, 0, static_cast<float>(z.count), nullptr, slope, t);
      }
    }
  }

  // Adds keys of greatest score `top`, at `distance`, whose probabilities relative to it sum to `sum`, and to `values`
  // (null: zero) where each is multiplied by its value.
  void join(int64_t row, float top, int64_t distance, float sum, const float* values, float slope,
            const ForwardThread& t) const {
    if (top == kNothing) return;
    float* out = t.out + row * dim_padded_;
    float* sums = t.sum + row * kLanes;
    const float old = t.max[row];
    float above = (old - top) * scale_log2_;  // how far the row's greatest is above, to base 2
    if (slope != 0) above -= slope_log2(slope) * static_cast<float>(t.distance[row] - distance);
    const bool stays = above > 0;  // NaN goes on in `top`
    const float keep = old == kNothing ? 0.0f : stays ? 1.0f : std::exp2(above);
    const float add = stays ? std::exp2(-above) : 1.0f;
    if (!stays) {
      t.max[row] = top;
      if (slope != 0) t.distance[row] = distance;
    }
    sums[0] = sums[0] * keep + sum * add;
    for (int64_t x = 0; x < dim_padded_; ++x) out[x] = out[x] * keep + (values ? values[x] * add : 0.0f);
  }

  float row_sum(int64_t row, const ForwardThread& t) const {
    float sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += t.sum[row * kLanes + i];
    return sum;
  }

  void keep_rows(const PlacedTile& at, const ForwardThread& t, const PartialRows& partial) const {
    for (int64_t row = 0; row < at.tile->rows; ++row) {
      const float sum = row_sum(row, t);
      partial.sum[at.slot + row] = sum;
      // The max does not know of NaN.
      partial.max[at.slot + row] = sum == 0 ? kNothing : std::isnan(sum) ? sum : t.max[row];
    }
    if (partial.distance) std::copy_n(t.distance, at.tile->rows, partial.distance + at.slot);
    std::copy_n(t.out, at.tile->rows * dim_padded_, partial.out + at.slot * dim_padded_);
  }

  void write_rows(int64_t rows, int64_t row0, int64_t stride, int64_t b, int64_t query_head, float slope,
                  const ForwardThread& t) const {
    const int64_t size = static_cast<int64_t>(core::size_bytes(p_.dtype));
    const double gain = p_.out_scale * (dropout_.active() ? dropout_.gain() : 1.0);
    const int64_t first = row0 - p_.query_start;
    float* lse = static_cast<float*>(p_.lse) + (b * p_.heads + query_head) * p_.len_q + first;
    for (int64_t row = 0; row < rows; ++row) {
      const float sum = row_sum(row, t);
      const bool nothing = sum == 0;
      // A product with zero would keep what non-finite values of the tile's other rows left here.
      if (nothing) std::fill_n(t.out + row * dim_padded_, dim_padded_, 0.0f);
      t.factors[row] = nothing ? 0.0f : static_cast<float>(gain / sum);
      // Products are rounded by themselves, as the backward rounds a score, so that they cancel.
      float top = t.max[row] * scale_;
      if (slope != 0) top -= slope * static_cast<float>(t.distance[row]);
      lse[row * stride] = nothing ? kNothing : static_cast<float>(static_cast<double>(top) + std::log(sum));
    }
    char* out = static_cast<char*>(p_.out.data) +
                (b * p_.out.batch_stride + query_head * p_.out.head_stride + first * p_.out.len_stride) * size;
    store_rows(p_.dtype, t.out, dim_padded_, t.factors, rows, p_.dim, out, p_.out.len_stride * stride);
  }

  const ForwardProblem& p_;
  const PlanView& plan_;
  const Products products_;
  const Cell cell_ = products_.cell();
  const int64_t dim_padded_ = products_.padded(p_.dim);
  const int64_t queries_per_key_ = p_.heads / p_.kv_heads;
  const core::Dropout dropout_ = engine::dropout_of(p_);
  const float unit_ = unit_of(p_.scale);  // scores are multiplied by it
  // Of scores in that unit; the sign has gone to the queries.
  const float scale_ = std::abs(static_cast<float>(p_.scale)) / unit_;
  const float scale_log2_ = static_cast<float>(static_cast<double>(scale_) * std::numbers::log2e);
  bool by_rows_ = false;  // products of as many rows as there are, keys as they lie
  ForwardShape shape_;
  std::vector<ForwardHead> heads_;
  std::vector<ForwardThread> threads_;
};

}  // namespace

void forward(const ForwardProblem& p, const PlanView& plan, const Workspace& w, Stream) {
  check(p, plan, Direction::kForward);
  if (p.batch == 0 || p.heads == 0 || p.len_q == 0) return;
  Forward(p, plan, w).run(w);
}

}  // namespace longstride::engine::cpu
