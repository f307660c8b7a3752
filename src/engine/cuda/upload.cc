// Copies a plan's arrays to the device, and the lanes of its launches.
#include "engine/cuda/upload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/device_bytes.h"

namespace longstride::engine::cuda {
namespace {

std::vector<uint8_t> ragged_tiles(const PlanView& plan, const std::vector<Tile>& tiles) {
  std::vector<uint8_t> ragged;
  ragged.reserve(tiles.size());
  for (const Tile& tile : tiles) {
    const auto runs = plan.runs_of(tile);
    const auto whole = [&](const Run& run) { return seen_by(run, 0) && seen_by(run, tile.rows - 1); };
    const auto row_is_seen = [&](int32_t j) {
      return std::any_of(runs.begin(), runs.end(), [&](const Run& run) { return seen_by(run, j); });
    };
    bool all = std::any_of(runs.begin(), runs.end(), whole);  // a run's seen rows are one range
    if (!all) {
      all = true;
      for (int32_t j = 0; j < tile.rows && all; ++j) all = row_is_seen(j);
    }
    ragged.push_back(!all);
  }
  return ragged;
}

}  // namespace

// The arrays side by side in host memory, copied in one piece.
class DevicePlan::Packed {
 public:
  // `to` will point at the copy; it must stay where it is until then.
  template <class T>
  void add(const T*& to, const T* from, size_t count) {
    if (count == 0) return;
    const size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + count * sizeof(T));
    std::memcpy(bytes_.data() + at, from, count * sizeof(T));
    placed_.push_back([&to, at](const char* base) { to = reinterpret_cast<const T*>(base + at); });
  }
  size_t bytes() const { return bytes_.size(); }
  void* upload() const {
    void* const device = uploaded(bytes_, "a plan");
    for (const auto& place : placed_) place(static_cast<const char*>(device));
    return device;
  }

 private:
  std::vector<char> bytes_;
  std::vector<std::function<void(const char*)>> placed_;
};

DevicePlan::DevicePlan(const PlanView& plan, int64_t batch, int64_t kv_heads, int64_t group)
    : direction_(plan.direction), batch_(batch), kv_heads_(kv_heads), group_(group) {
  if (static_cast<int64_t>(plan.class_of.size()) != batch * kv_heads)
    throw Error(
        fmt::format("plan must have one class per batch row and KV head ({}), got {}; compile it for this extent",
                    batch * kv_heads, plan.class_of.size()));
  for (const Run& run : plan.runs)
    if (run.buffer != 0)
      throw Error(fmt::format("plan must read the local tensor only, got a run of buffer {}", run.buffer));
  upload(plan);
}

void DevicePlan::upload(const PlanView& plan) {
  Packed packed;
  const PlanOrder order = order_of(plan, batch_, kv_heads_, group_, multiprocessors());
  packed.add(arrays_.sections, order.sections.data(), order.sections.size());
  std::vector<Tile> tiles;
  tiles.reserve(order.tiles.size());
  for (const int32_t tile : order.tiles) tiles.push_back(plan.tiles[tile]);
  packed.add(arrays_.tiles, tiles.data(), tiles.size());
  packed.add(arrays_.runs, plan.runs.data(), plan.runs.size());
  packed.add(arrays_.phantoms, plan.phantoms.data(), plan.phantoms.size());
  packed.add(arrays_.merges, plan.merges.data(), plan.merges.size());
  if (plan.direction == Direction::kTransposed) {
    const std::vector<uint8_t> ragged = ragged_tiles(plan, tiles);
    packed.add(arrays_.ragged, ragged.data(), ragged.size());
  }
  arrays_.tile_rows = plan.tile_rows;
  for (const PlanClass& c : plan.classes) partial_rows_ = std::max(partial_rows_, c.partial_rows);
  const auto add_launches = [&](std::vector<LaunchLanes>& to, const std::vector<LaunchOrder>& from) {
    to.resize(from.size());
    for (size_t n = 0; n < from.size(); ++n) {
      packed.add(to[n].lanes, from[n].lanes.data(), from[n].lanes.size());
      to[n].count = static_cast<int32_t>(from[n].lanes.size());
      to[n].items = from[n].lanes.back().item_end;
      to[n].strides = from[n].strides;
      to[n].merges_only = from[n].merges_only;
      to[n].short_tiles = from[n].short_tiles;
    }
  };
  add_launches(base_, order.base);
  add_launches(partial_, order.partial);
  bytes_ = static_cast<int64_t>(packed.bytes());
  if (bytes_ == 0) return;
  memory_.reset(packed.upload());
}

void DevicePlan::take_short_tiles(bool short_tiles) {
  for (auto* launches : {&partial_, &base_})
    for (LaunchLanes& launch : *launches) launch.short_tiles = short_tiles;
}

std::string against_plan_tokens(const Problem& p) {
  if (p.plan_tokens == 0) return {};
  if (p.plan_tokens < 0 || p.plan_tokens > p.query_start)
    return fmt::format("plan_tokens must lie in [0, query_start = {}], got {}", p.query_start, p.plan_tokens);
  if (p.len_q == 1 && !p.drops() && !p.alibi) return {};
  return fmt::format("plan_tokens must be 0 with {}, got {}; compile a plan for this position",
                     p.drops() ? "dropout"
                     : p.alibi ? "ALiBi"
                               : fmt::format("{} queries", p.len_q),
                     p.plan_tokens);
}

void require_plan(const Problem& p, const DevicePlan& plan, Direction direction, int32_t most_rows) {
  const auto name = [](Direction d) { return d == Direction::kForward ? "a forward plan" : "a transposed plan"; };
  if (plan.direction() != direction)
    core::refuse("plan", fmt::format("must be {}", name(direction)), name(plan.direction()));
  if (direction == Direction::kTransposed && p.plan_tokens != 0)
    core::refuse("plan_tokens", "must be 0 in a backward", p.plan_tokens, "compile plans for this position");
  const int64_t group = direction == Direction::kForward ? p.heads / p.kv_heads : 1;
  if (plan.batch() != p.batch || plan.kv_heads() != p.kv_heads || plan.group() != group)
    core::refuse(
        "plan",
        fmt::format("must be uploaded for batch {}, kv_heads {}, {} query heads an item", p.batch, p.kv_heads, group),
        fmt::format("{}, {}, {}", plan.batch(), plan.kv_heads(), plan.group()));
  if (plan.arrays().tile_rows > most_rows)
    core::refuse("plan", fmt::format("must have tiles of at most {} rows", most_rows),
                 std::to_string(plan.arrays().tile_rows));
}

void DevicePlan::Release::operator()(void* memory) const { release_uploaded(memory); }

}  // namespace longstride::engine::cuda
