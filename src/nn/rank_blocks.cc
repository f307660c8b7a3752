// Both by one all-to-all.
#include "nn/rank_blocks.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <set>

namespace longstride::nn {
namespace {

using at::Tensor;
using op::autograd::Pieces;

// The blocks that a rank has tokens of, ascending.
std::vector<int64_t> blocks_of(const std::vector<std::pair<int64_t, int64_t>>& pieces, int64_t block_size) {
  std::set<int64_t> found;  // two pieces may have a part of one block each
  for (const auto& [begin, end] : pieces) {
    for (int64_t at = begin; at < end; at = (at / block_size + 1) * block_size) found.insert(at / block_size);
  }
  return {found.begin(), found.end()};
}

Tensor numbers(const std::vector<int64_t>& list, const Tensor& like) {
  return at::tensor(list, at::kLong).to(like.device());
}

}  // namespace

Tensor block_sums(op::autograd::Turn& turn, const Tensor& rows, int64_t block_size, const Pieces& pieces) {
  const Tensor sums = at::zeros({(pieces.end + block_size - 1) / block_size, rows.size(1)}, rows.options());
  if (sums.numel() == 0) return sums;  // no token or no batch
  std::vector<std::vector<int64_t>> of_ranks;
  std::vector<int64_t> counts;
  for (const auto& of_rank : pieces.of) {
    of_ranks.push_back(blocks_of(of_rank, block_size));
    counts.push_back(std::ssize(of_ranks.back()));
  }
  const auto rank = static_cast<size_t>(turn.rank());
  std::vector<int64_t> place_of_row;
  for (const auto& [begin, end] : pieces.of[rank]) {
    const int64_t first = begin / block_size;  // of a piece the blocks are consecutive
    const int64_t place = std::ranges::lower_bound(of_ranks[rank], first) - of_ranks[rank].begin();
    for (int64_t at = begin; at < end; ++at) place_of_row.push_back(place + at / block_size - first);
  }
  const Tensor of_own =
      at::zeros({counts[rank], rows.size(1)}, rows.options()).index_add_(0, numbers(place_of_row, rows), rows);
  const Tensor came =
      turn.post(of_own.repeat({turn.ranks(), 1}), std::vector<int64_t>(counts.size(), counts[rank]), counts).wait();
  int64_t row = 0;
  for (size_t from = 0; from < counts.size(); row += counts[from++])
    sums.index_add_(0, numbers(of_ranks[from], rows), came.narrow(0, row, counts[from]));
  return sums;
}

Tensor of_first(op::autograd::Turn& turn, const Tensor& t) {
  if (t.numel() == 0) return t;
  const int64_t ranks = turn.ranks(), to_each = turn.rank() == 0 ? 1 : 0;
  std::vector<int64_t> received(static_cast<size_t>(ranks));
  received[0] = 1;
  const Tensor sent = t.reshape({1, t.numel()}).repeat({to_each * ranks, 1});
  return turn.post(sent, std::vector<int64_t>(static_cast<size_t>(ranks), to_each), received).wait().view(t.sizes());
}

}  // namespace longstride::nn
