#include "nn/block_grid.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <mutex>
#include <numeric>
#include <utility>

#include "core/refuse.h"

namespace longstride::nn {
namespace {

int64_t blocks_of(int64_t len, int64_t block_size) { return (len + block_size - 1) / block_size; }

// [rows x width]: how many blocks each row of blocks takes at a density. The rule of RandomBlocks: what a row has too
// much of, for it keeps its diagonal, the next ones make up for.
std::vector<int64_t> counts(const Grid& grid, double density) {
  std::vector<int64_t> all(grid.rows() * grid.width(), 0);
  for (int64_t row = 0; row < grid.rows(); ++row) {
    const int64_t nb = grid.blocks(static_cast<size_t>(row));
    int64_t seen = 0, taken = 0;
    for (int64_t i = 0; i < nb; ++i) {
      const int64_t most = grid.causal ? i + 1 : nb;
      seen += most;
      const auto owed = static_cast<int64_t>(std::floor(density * static_cast<double>(seen) + 0.5)) - taken;
      int64_t& count = all[row * grid.width() + i];
      count = std::clamp<int64_t>(owed, 1, most);
      taken += count;
    }
  }
  return all;
}

GridTables made(const Grid& grid, at::Device device) {
  const c10::InferenceMode off(false);  // they serve calls with a gradient too
  const auto on_device = [&](const std::vector<int64_t>& numbers) { return at::tensor(numbers, at::kLong).to(device); };
  const at::TensorOptions whole = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor index = at::arange(grid.width(), whole);
  std::vector<int64_t> blocks;
  for (size_t row = 0; row < grid.lengths.size(); ++row) blocks.push_back(grid.blocks(row));
  GridTables tables;
  tables.lengths = on_device(grid.lengths);
  tables.filled = (tables.lengths.unsqueeze(1) - index * grid.block_size).clamp(1, grid.block_size);
  const at::Tensor inside = index.unsqueeze(0) < on_device(blocks).unsqueeze(1);  // [rows, width]
  const at::Tensor pairs = inside.unsqueeze(2) & inside.unsqueeze(1);
  tables.there = (grid.causal ? pairs.tril() : pairs).unsqueeze(1);
  tables.diagonal = at::eye(grid.width(), whole.dtype(at::kBool));
  const auto column = [&](double density) {
    const std::vector<int64_t> of_rows = counts(grid, density);
    tables.taken_at_most = std::accumulate(of_rows.begin(), of_rows.end(), int64_t{0});
    return on_device(of_rows).view({grid.rows(), 1, grid.width(), 1});
  };
  tables.least = column(grid.least);
  tables.most = column(grid.most);
  return tables;
}

}  // namespace

int64_t Grid::width() const { return blocks_of(len, block_size); }
int64_t Grid::blocks(size_t row) const { return blocks_of(lengths[row], block_size); }

int64_t Grid::pairs() const {
  int64_t all = 0;
  for (size_t row = 0; row < lengths.size(); ++row) {
    all += causal ? blocks(row) * (blocks(row) + 1) / 2 : blocks(row) * blocks(row);
  }
  return all;
}

GridTables Grid::tables(at::Device device) const {
  constexpr size_t kMostKept = 8;
  using Key = std::pair<Grid, at::Device>;
  static std::mutex mutex;
  // The last used first. Never destroyed: at the end of a process LibTorch may be gone before them.
  static auto& kept = *new std::list<std::pair<Key, GridTables>>;
  const Key key{*this, device};
  {
    const std::lock_guard lock(mutex);
    for (auto known = kept.begin(); known != kept.end(); ++known) {
      if (known->first != key) continue;
      kept.splice(kept.begin(), kept, known);
      return known->second;
    }
  }
  GridTables tables = made(*this, device);
  const std::lock_guard lock(mutex);
  kept.emplace_front(key, tables);
  if (kept.size() > kMostKept) kept.pop_back();
  return tables;
}

void Grid::check(double density) const {
  if (lengths.empty() || causal) return;
  const int64_t nb = blocks_of(*std::max_element(lengths.begin(), lengths.end()), block_size);
  const int64_t pairs = nb * nb;
  if (nb < 2 || density * static_cast<double>(pairs) >= static_cast<double>(nb) - 0.5) return;
  const double least = static_cast<double>(nb) / static_cast<double>(pairs);
  core::refuse("density",
               fmt::format("must be at least {:.4g} on {} x {} blocks: every row keeps its diagonal", least, nb, nb),
               fmt::format("{:.4g}", density),
               fmt::format("the nearest that can be reached is {:.6g} (sparsity_ratio {:.6g}); smaller blocks reach "
                           "lower densities",
                           least, 1 - least));
}

}  // namespace longstride::nn
