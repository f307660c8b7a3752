// Before and after the exchange of the forward (kernels.h).
#include <algorithm>
#include <array>

#include "op/gate_grads.h"
#include "op/parallel/kernels.h"
#include "op/parallel/messages.h"
#include "op/refs.h"
#include "parallel/exchange.h"

namespace longstride::op {
namespace {

Tensor of_numbers(const std::vector<int64_t>& numbers, Sizes sizes) {
  const Tensor made = empty(sizes, ScalarType::Long, {});
  std::ranges::copy(numbers, static_cast<int64_t*>(made.mutable_data_ptr()));
  return made;
}

// The buffer of keys with what was received in it.
Tensor unpacked(const RankCall& call, const Tensor& received) {
  check_message("received", received, call, call.rank().lists.receives, call.dtype());
  const Tensor keys = empty_result(sizes_of_keys(call), call.dtype(), call.place());
  if (!call.rank().gathered.empty()) call.moves().unpack(received.const_data_ptr(), keys.mutable_data_ptr());
  return keys;
}

}  // namespace

Tensor pieces(const parallel::Shards& shards) {
  std::vector<int64_t> numbers;
  for (int64_t rank = 0; rank < shards.ranks(); ++rank) {
    for (const parallel::Piece& piece : shards.positions(rank)) {
      numbers.insert(numbers.end(), {piece.begin, piece.end, rank});
    }
  }
  return of_numbers(numbers, std::array{std::ssize(numbers) / 3, int64_t{3}});
}

std::tuple<Tensor, bool> counts(const RankCall& call) {
  const int64_t ranks = call.rank().call.shards.ranks();
  const Tensor made = zeros(std::array{int64_t{2}, ranks}, ScalarType::Long, {});
  auto* const to = static_cast<int64_t*>(made.mutable_data_ptr());
  for (const parallel::Message& m : call.rank().lists.sends) to[m.to] = m.rows();
  for (const parallel::Message& m : call.rank().lists.receives) to[ranks + m.from] = m.rows();
  const bool parts = !call.rank().gathered.empty() || !call.rank().lists.sends.empty();
  return {made, parts && !call.moves().rounds()};
}

std::tuple<Tensor, int64_t> exchange_of(const RankCall& call, const std::string& name) {
  if (call.gates()) check_ones(*call.gates());
  const parallel::ExchangePlan plan = parallel::plan_to_run(name, call.rank().call, call.of_whole());
  std::vector<int64_t> numbers;
  if (plan.kind == parallel::Exchange::kRing) numbers = call.rank_of_step(0)->steps;
  return {of_numbers(numbers, std::array{std::ssize(numbers)}), plan.heads};
}

Tensor pack(const RankCall& call) {
  const Tensor message = empty_message(call, call.rank().lists.sends, call.dtype());
  call.moves().pack(call.problem().k, call.problem().v, message.mutable_data_ptr());
  return message;
}

Outputs forward_pieces(const RankCall& call) {
  engine::ForwardProblem problem{call.problem()};
  const Tensor out = empty_result(sizes_of_out(problem), call.dtype(), call.place());
  const Tensor lse = empty(sizes_of_lse(problem), call.wide_dtype(), call.place());
  if (call.empty()) return {out, lse};
  problem.out = write(out);
  problem.lse = lse.mutable_data_ptr();
  parallel::forward_pieces(call.rank(), *call.plans(Direction::kForward, Pass::kForward), problem, call.moves(),
                           forward_engine(call));
  return {out, lse};
}

Tensor forward_gathered(const RankCall& call, const Tensor& received, const Tensor& out, const Tensor& lse) {
  const parallel::Rank& rank = call.rank();
  check_results(out, lse, call);
  const Tensor keys = unpacked(call, received);
  if (rank.gathered.empty()) return keys;
  engine::ForwardProblem problem{call.problem()};
  problem.out = write(out);
  problem.lse = lse.mutable_data_ptr();
  parallel::forward_gathered(rank, *call.plans(Direction::kForward, Pass::kForward), problem, keys.mutable_data_ptr(),
                             call.moves(), forward_engine(call));
  return keys;
}

Tensor keys_again(const RankCall& call, const Tensor& received) {
  const Tensor keys = unpacked(call, received);
  if (!call.rank().gathered.empty())
    call.moves().gather_keys(call.problem().k, call.problem().v, keys.mutable_data_ptr());
  return keys;
}

}  // namespace longstride::op
