// A plan as the kernels read it: arrays on the device, and the walk from a work item to its tile and from a tile to its
// blocks of columns. Filled by upload.cc, read by every kernel.
#pragma once

#include <cstdint>

#include "longstride/plan.h"

#if defined(__CUDACC__)
#define LONGSTRIDE_DEVICE __host__ __device__ __forceinline__
#else
#define LONGSTRIDE_DEVICE inline
#endif

namespace longstride::engine::cuda {

struct PlanArrays {
  const Section* sections = nullptr;
  const Tile* tiles = nullptr;
  const Run* runs = nullptr;
  const Phantoms* phantoms = nullptr;
  const Merge* merges = nullptr;
  const uint8_t* ragged = nullptr;  // per tile of a transposed plan: whether some row is seen by no column
  int32_t tile_rows = 0;
};

// The items of one (batch row, KV head) in one launch: its class's level(s) of that launch, tiles x query heads.
struct Lane {
  int64_t item_end = 0;  // items of this lane and those before it
  int64_t stride = 1;
  int32_t section_begin = 0;
  int32_t section_count = 0;
  int32_t batch = 0;
  int32_t kv_head = 0;
  int32_t map = 0;  // which tensor maps: one set a stride
};

// Where an item stands. Positions are 32 bits in the kernels (sm90's capability() refuses longer sequences): registers
// are dear there.
struct TilePlace {
  int64_t tile;
  int64_t slot;
  int32_t repeat;
  int32_t shift;  // of this repeat
  int32_t stride;
  int32_t batch;
  int32_t kv_head;
  int32_t member;  // query head within the KV head's group
  int32_t map;
};

// The first lane whose end lies beyond the item.
LONGSTRIDE_DEVICE int32_t lane_of(const Lane* lanes, int32_t lane_count, int64_t item) {
  int32_t low = 0, high = lane_count - 1;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (lanes[middle].item_end > item) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

LONGSTRIDE_DEVICE TilePlace place_in(const Lane* lanes, int32_t lane_index, int32_t group, int64_t item,
                                     const PlanArrays& plan) {
  const Lane& lane = lanes[lane_index];
  // Of one lane there are fewer than 2^32, and to divide 64 bits takes a kernel hundreds of instructions.
  auto rest = static_cast<uint32_t>(item - (lane_index == 0 ? 0 : lanes[lane_index - 1].item_end));
  TilePlace place;
  place.batch = lane.batch;
  place.kv_head = lane.kv_head;
  place.stride = static_cast<int32_t>(lane.stride);
  place.map = lane.map;
  const auto heads = static_cast<uint32_t>(group);
  place.member = static_cast<int32_t>(rest % heads);  // query heads of one KV head run side by side: they share K and V
  rest /= heads;
  int32_t section = lane.section_begin;
  for (; section + 1 < lane.section_begin + lane.section_count; ++section) {
    const auto tiles = static_cast<uint32_t>(plan.sections[section].tile_count * plan.sections[section].repeats);
    if (rest < tiles) break;
    rest -= tiles;
  }
  const Section& in = plan.sections[section];
  const auto tile_count = static_cast<uint32_t>(in.tile_count);
  const uint32_t repeat = rest / tile_count;
  place.repeat = static_cast<int32_t>(repeat);
  place.tile = in.tile_begin + (rest - repeat * tile_count);
  place.shift = static_cast<int32_t>(repeat * in.shift);
  place.slot = in.slot_begin + int64_t{rest} * plan.tile_rows;
  return place;
}

LONGSTRIDE_DEVICE TilePlace locate(const Lane* lanes, int32_t lane_count, int32_t group, int64_t item,
                                   const PlanArrays& plan) {
  return place_in(lanes, lane_of(lanes, lane_count, item), group, item, plan);
}

// Whether some column of a transposed run sees row j.
LONGSTRIDE_DEVICE bool seen_by(const Run& run, int32_t j) {
  return j >= run.row_begin && j < run.row_end && j + run.diagonal < run.columns && j - run.low >= 0;
}

// Where the columns begin and end that row 0 of a block sees: row j sees those of [j + begin, j + end). Two numbers of
// 16 bits in one register, where registers are dear.
struct Diagonals {
  int32_t both;  // begin | end << 16

  static LONGSTRIDE_DEVICE Diagonals of(int32_t begin, int32_t end) {
    return {static_cast<int32_t>((static_cast<uint32_t>(begin) & 0xffffu) | static_cast<uint32_t>(end) << 16)};
  }
  LONGSTRIDE_DEVICE int32_t begin() const { return static_cast<int16_t>(both & 0xffff); }
  LONGSTRIDE_DEVICE int32_t end() const { return both >> 16; }
};

// One block of columns of a tile.
struct ColumnBlock {
  int32_t column0;
  int32_t columns;
  Diagonals diagonals;
  int32_t rows;  // row_begin | row_end << 16
  int32_t weight;
  bool masked;  // some pair of the block is none
};

template <bool kSteps>
struct StepsOf {
  LONGSTRIDE_DEVICE explicit StepsOf(int32_t) {}
};
template <>
struct StepsOf<true> {
  LONGSTRIDE_DEVICE explicit StepsOf(int32_t steps) : steps(steps) {}
  int32_t steps;
};

// The blocks of a tile, run by run; blocks in which no row sees a column are left out. Of a forward plan the first come
// first, of a transposed one the last: where tiles see from their own place to one end, as causal ones do, those that
// run together so begin together, and find in L2 what the others have just read. It holds a place, not a run: the run
// is read again (from L1) at each block, since the producer has few registers.
//
// kSteps: of a plan of an earlier query, runs that grow having `steps` more columns in each residue. Backwards, whose
// plans are always their own, do without, and keep nothing of it in memory either: as a base class.
template <bool kSteps>
class BlockWalkOf : StepsOf<kSteps> {
 public:
  LONGSTRIDE_DEVICE BlockWalkOf(const Run* runs, uint32_t count, Direction direction, int32_t width, int32_t steps = 0)
      : StepsOf<kSteps>(steps), runs_(runs), width_(width), direction_(direction) {
    run_ = ascends() ? 0 : static_cast<int32_t>(count) - 1;
    end_ = ascends() ? static_cast<int32_t>(count) : -1;
    enter();
  }

  LONGSTRIDE_DEVICE bool done() const { return run_ == end_; }

  LONGSTRIDE_DEVICE ColumnBlock at(int32_t rows, int32_t stride, int32_t shift) const {
    const Run& run = runs_[run_];
    const int32_t first = block_ * width_;
    const int32_t left = static_cast<int32_t>(columns_of(run)) - first;
    const auto within = [&](int64_t diagonal) {
      return static_cast<int32_t>(diagonal > width_ ? width_ : diagonal < -kMostRows ? -kMostRows : diagonal);
    };
    const int32_t begin = within(run.begin_diagonal(direction_) - first),
                  end = within(run.end_diagonal(direction_) - first);
    ColumnBlock block;
    block.column0 =
        static_cast<int32_t>(run.column0) + shift + residue_ * static_cast<int32_t>(run.residue_step) + first * stride;
    block.columns = left < width_ ? left : width_;
    block.diagonals = Diagonals::of(begin, end);
    block.rows = run.row_begin | run.row_end << 16;
    block.weight = run.weight;
    const bool diagonals_cut = run.row_end - 1 + begin > 0 || run.row_begin + end < width_;
    block.masked = block.columns < width_ || diagonals_cut || run.row_begin > 0 || run.row_end < rows;
    return block;
  }

  // Blocks that follow one that is not masked, on its columns' progression, and aren't either.
  LONGSTRIDE_DEVICE int32_t whole_after() const {
    const Run& run = runs_[run_];
    if (!ascends()) {
      const int64_t seen_by_all = run.row_end - 1 + run.begin_diagonal(direction_);
      return block_ - (seen_by_all > 0 ? static_cast<int32_t>((seen_by_all + width_ - 1) / width_) : 0);
    }
    const int64_t seen_by_all = run.row_begin + run.end_diagonal(direction_);
    const int64_t all = columns_of(run), columns = seen_by_all < all ? seen_by_all : all;
    return static_cast<int32_t>(columns / width_) - 1 - block_;
  }

  // Past `count` blocks of one progression.
  LONGSTRIDE_DEVICE void advance(int32_t count = 1) {
    block_ += ascends() ? count : -count;
    if (ascends() ? block_ < bound_ : block_ > bound_) return;
    if (++residue_ < runs_[run_].residues) {
      begin_progression();
      return;
    }
    run_ += ascends() ? 1 : -1;
    enter();
  }

 private:
  static constexpr int32_t kMostRows = 1 << 15;  // Run::row_end is an int16

  LONGSTRIDE_DEVICE bool ascends() const { return direction_ == Direction::kForward; }

  LONGSTRIDE_DEVICE int64_t columns_of(const Run& run) const {
    if constexpr (kSteps) {
      return run.columns + (run.grows() ? this->steps : 0);
    } else {
      return run.columns;
    }
  }

  // Sets out at the first of a run's blocks with a pair; false: there is none.
  LONGSTRIDE_DEVICE bool begin_progression() {
    const Run& run = runs_[run_];
    // The columns that the last row sees end there, and those that the first one sees begin here.
    const int64_t reach = run.row_end - 1 + run.end_diagonal(direction_);
    const int64_t columns = columns_of(run), seen = reach < columns ? reach : columns;
    const int32_t end = seen > 0 ? static_cast<int32_t>((seen + width_ - 1) / width_) : 0;
    const int64_t from = run.row_begin + run.begin_diagonal(direction_);
    const int32_t begin = from > 0 ? static_cast<int32_t>(from / width_) : 0;
    block_ = ascends() ? begin : end - 1;
    bound_ = ascends() ? end : begin - 1;
    return begin < end;
  }

  LONGSTRIDE_DEVICE void enter() {
    residue_ = 0;
    while (run_ != end_ && !begin_progression()) run_ += ascends() ? 1 : -1;
  }

  const Run* runs_;
  int32_t run_, end_;
  int32_t width_, block_ = 0, bound_ = 0, residue_ = 0;
  Direction direction_;
};
using BlockWalk = BlockWalkOf<false>;
using ForwardWalk = BlockWalkOf<true>;

// What a level's runs that grow have more, of a query so many tokens behind the plan's: steps of a ForwardWalk.
LONGSTRIDE_DEVICE int32_t steps_of(int32_t plan_tokens, int32_t stride) {
  return plan_tokens == 0 ? 0
                          : static_cast<int32_t>(static_cast<uint32_t>(plan_tokens) / static_cast<uint32_t>(stride));
}

}  // namespace longstride::engine::cuda
