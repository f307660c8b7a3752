// Copies a plan's arrays to the device and cuts its levels into the lanes of two launches.
#include "engine/cuda/upload.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>

#include "longstride/error.h"

namespace longstride::engine::cuda {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw Error(fmt::format("{}: {}", what, cudaGetErrorString(error)));
}

std::vector<uint8_t> ragged_tiles(const PlanView& plan) {
  std::vector<uint8_t> ragged;
  for (const Tile& tile : plan.tiles) {
    const auto runs = plan.runs.subspan(tile.run_begin, tile.run_count);
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

template <class T>
const T* DevicePlan::copy(const T* from, size_t count) {
  if (count == 0) return nullptr;
  void* to = nullptr;
  check(cudaMalloc(&to, count * sizeof(T)), "memory for a plan");
  owned_.push_back(to);
  bytes_ += count * sizeof(T);
  check(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice), "copying a plan");
  return static_cast<const T*>(to);
}

DevicePlan::DevicePlan(const PlanView& plan, int64_t batch, int64_t kv_heads, int64_t group)
    : direction_(plan.direction), batch_(batch), kv_heads_(kv_heads), group_(group) {
  if (static_cast<int64_t>(plan.class_of.size()) != batch * kv_heads)
    throw Error(
        fmt::format("plan must have one class per batch row and KV head ({}), got {}; compile it for this extent",
                    batch * kv_heads, plan.class_of.size()));
  for (const Run& run : plan.runs)
    if (run.buffer != 0)
      throw Error(fmt::format("plan must read the local tensor only, got a run of buffer {}", run.buffer));
  try {
    upload(plan);
  } catch (...) {
    release();
    throw;
  }
}

void DevicePlan::upload(const PlanView& plan) {
  arrays_.sections = copy(plan.sections.data(), plan.sections.size());
  arrays_.tiles = copy(plan.tiles.data(), plan.tiles.size());
  arrays_.runs = copy(plan.runs.data(), plan.runs.size());
  arrays_.phantoms = copy(plan.phantoms.data(), plan.phantoms.size());
  arrays_.merges = copy(plan.merges.data(), plan.merges.size());
  if (plan.direction == Direction::kTransposed) {
    const std::vector<uint8_t> ragged = ragged_tiles(plan);
    arrays_.ragged = copy(ragged.data(), ragged.size());
  }
  arrays_.tile_rows = plan.tile_rows;
  for (const PlanClass& c : plan.classes) partial_rows_ = std::max(partial_rows_, c.partial_rows);
  std::vector<Lane> lanes[2];
  LaunchLanes* launches[2] = {&base_, &partial_};
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t j = 0; j < kv_heads_; ++j) {
      const PlanClass& c = plan.classes[plan.class_of[b * kv_heads_ + j]];
      for (int32_t l = c.level_begin; l < c.level_begin + c.level_count; ++l) {
        const Level& level = plan.levels[l];
        LaunchLanes& launch = *launches[level.partial];
        int64_t tiles = 0;
        for (int32_t s = 0; s < level.section_count; ++s) {
          const Section& section = plan.sections[level.section_begin + s];
          tiles += section.tile_count * section.repeats;
        }
        if (tiles == 0) continue;
        launch.items += tiles * group_;
        const auto found = std::find(launch.strides.begin(), launch.strides.end(), level.stride);
        const int32_t map = static_cast<int32_t>(found - launch.strides.begin());
        if (found == launch.strides.end()) launch.strides.push_back(level.stride);
        lanes[level.partial].push_back({launch.items, level.stride, level.section_begin, level.section_count,
                                        static_cast<int32_t>(b), static_cast<int32_t>(j), map});
      }
    }
  }
  for (int partial = 0; partial < 2; ++partial) {
    launches[partial]->lanes = copy(lanes[partial].data(), lanes[partial].size());
    launches[partial]->count = static_cast<int32_t>(lanes[partial].size());
  }
}

DevicePlan::~DevicePlan() { release(); }

void DevicePlan::release() {
  for (void* memory : owned_) cudaFree(memory);
}

}  // namespace longstride::engine::cuda
