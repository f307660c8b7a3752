// A plan on the device. Made once a plan and device, kept as long as the plan; launches borrow it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/contract.h"
#include "engine/cuda/lanes.h"

namespace longstride::engine::cuda {

// A LaunchOrder on the device.
struct LaunchLanes {
  const Lane* lanes = nullptr;
  int32_t count = 0;
  int64_t items = 0;             // tiles x query heads
  std::vector<int64_t> strides;  // Lane::map indexes it
  bool merges_only = false;
  bool short_tiles = false;
};

class DevicePlan {
 public:
  // `group`: query heads per KV head; 1 for a transposed plan, whose items are keys. The copy is there on return, also
  // while a stream is being recorded. Throws Error if memory is short or the plan reads buffers of other ranks.
  DevicePlan(const PlanView&, int64_t batch, int64_t kv_heads, int64_t group);
  // Of arrays that lie on the device, in memory that `kept` holds; one launch of base levels, or none.
  DevicePlan(Direction direction, int64_t batch, int64_t kv_heads, int64_t group, const PlanArrays& arrays,
             std::vector<LaunchLanes> base, std::shared_ptr<const void> kept)
      : direction_(direction),
        batch_(batch),
        kv_heads_(kv_heads),
        group_(group),
        kept_(std::move(kept)),
        arrays_(arrays),
        base_(std::move(base)) {}
  DevicePlan(const DevicePlan&) = delete;
  DevicePlan& operator=(const DevicePlan&) = delete;

  Direction direction() const { return direction_; }
  int64_t batch() const { return batch_; }
  int64_t kv_heads() const { return kv_heads_; }
  int64_t group() const { return group_; }
  const PlanArrays& arrays() const { return arrays_; }
  // In the order in which they must run: partial ones first.
  const std::vector<LaunchLanes>& partial() const { return partial_; }
  const std::vector<LaunchLanes>& base() const { return base_; }
  int64_t launches() const { return static_cast<int64_t>(partial_.size() + base_.size()); }
  int64_t partial_rows() const { return partial_rows_; }  // slots a query head
  int64_t bytes() const { return bytes_; }
  // As if the tiles of every launch were short, or none: for tests, since an upload goes by what the plan is.
  void take_short_tiles(bool short_tiles);

 private:
  class Packed;
  struct Release {
    void operator()(void*) const;
  };
  void upload(const PlanView&);
  Direction direction_ = Direction::kForward;
  int64_t batch_ = 0, kv_heads_ = 0, group_ = 0;
  std::unique_ptr<void, Release> memory_;  // an upload's
  std::shared_ptr<const void> kept_;
  PlanArrays arrays_;
  std::vector<LaunchLanes> partial_, base_;
  int64_t partial_rows_ = 0;
  int64_t bytes_ = 0;
};

// Those of a backward.
struct BackwardPlans {
  const DevicePlan& transposed;          // uploaded with one query head an item
  const DevicePlan* forward = nullptr;   // for a backward that wants it
  const BlocksOnDevice* list = nullptr;  // of which they are made, if its gates want a gradient
};

// Why a problem may not come with the plan of an earlier position; "": it may, or comes with its own.
std::string against_plan_tokens(const Problem&);

// Throws Error unless the plan has the direction, was uploaded for the problem's heads, and has tiles of at most so
// many rows; a transposed one also unless it is of the problem's own position.
void require_plan(const Problem&, const DevicePlan&, Direction, int32_t most_rows);

}  // namespace longstride::engine::cuda
