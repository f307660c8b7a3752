// A choice in words and small tables, for a person.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "parallel/cost.h"

namespace longstride::parallel {
namespace {

constexpr int64_t kMostListed = 16;

std::string heading(const Choice& choice) {
  std::vector<std::string> names;
  for (const auto& [plan, prediction] : choice.feasible) names.push_back(name(plan));
  return fmt::format("exchange {}, {}; feasible: {}\n", name(choice.plan),
                     choice.forced ? "as asked for" : "of the least predicted time", fmt::join(names, ", "));
}

std::string shards_line(const ShardedCall& call, const RowShape& shape) {
  int64_t least = call.shards.rows(0), most = least;
  for (int64_t rank = 1; rank < call.shards.ranks(); ++rank) {
    least = std::min(least, call.shards.rows(rank));
    most = std::max(most, call.shards.rows(rank));
  }
  const std::string each = least == most ? fmt::format("{}", most) : fmt::format("{} to {}", least, most);
  return fmt::format("{} {}, {}, {} of {} tokens each; batch {}, {} KV heads, dim {}, {}\n", call.shards.ranks(),
                     call.shards.ranks() == 1 ? "rank" : "ranks", name(call.shards.layout()), each, call.extent.len_k,
                     call.extent.batch, call.extent.kv_heads, shape.dim, core::name(shape.dtype));
}

// A line of the table for a rank; of every rank if they are few, else of the one that receives most.
std::string byte_table(const Choice& choice, const ShardedCall& call, const Survey& all, const RowShape& shape) {
  const bool blocks = !call.pattern.blocks().empty();
  std::string text = "bytes received, forward by source (segment/rate), then in all:\n  rank  ";
  for (const auto& [segment, rate] : call.pattern.groups())
    text += fmt::format("{:>16}", fmt::format("{}/{}", segment, rate));
  if (blocks) text += fmt::format("{:>16}", "blocks");
  text += fmt::format("{:>16}{:>16}\n", "forward", "backward");
  const auto line = [&](int64_t rank) {
    const std::vector<Volume> moved = volumes(choice.plan, call, all, rank, shape);
    std::string cells = fmt::format("  {:<6}", rank);
    for (int64_t s = 0; s < call.groups() + blocks; ++s) cells += fmt::format("{:>16}", moved[s].forward_bytes);
    const Volume sum = total(moved);
    return cells + fmt::format("{:>16}{:>16}\n", sum.forward_bytes, sum.backward_bytes);
  };
  if (call.shards.ranks() <= kMostListed) {
    for (int64_t rank = 0; rank < call.shards.ranks(); ++rank) text += line(rank);
    return text;
  }
  const auto forward = [&](int64_t rank) { return total(volumes(choice.plan, call, all, rank, shape)).forward_bytes; };
  int64_t worst = 0, most = -1, as_much = 0;
  for (int64_t rank = 0; rank < call.shards.ranks(); ++rank) {
    const int64_t bytes = forward(rank);
    if (bytes > most) worst = rank, most = bytes, as_much = 0;
    as_much += bytes == most;
  }
  return text + line(worst) +
         fmt::format("  the most that any rank receives; {} of {} do\n", as_much, call.shards.ranks());
}

std::string prediction_lines(const Choice& choice) {
  std::string text =
      "model, not a measurement, ms a layer on the slowest rank, and of these waited for the exchange:\n";
  for (const auto& [plan, predicted] : choice.feasible) {
    text += fmt::format("  {:<10} forward {:.4g} ({:.4g}), backward {:.4g} ({:.4g})\n", name(plan),
                        predicted.forward.total_s * 1e3, predicted.forward.exposed_s * 1e3,
                        predicted.backward.total_s * 1e3, predicted.backward.exposed_s * 1e3);
  }
  return text;
}

std::string figure_lines(const Hardware& hardware) {
  std::vector<std::string> measured, assumed;
  for_each_figure(hardware, [&](const char* label, const Figure& figure) {
    (figure.measured ? measured : assumed).push_back(fmt::format("{} {:.4g}", label, figure.value));
  });
  const auto list = [](const std::vector<std::string>& names) {
    return names.empty() ? std::string("none") : fmt::format("{}", fmt::join(names, ", "));
  };
  return fmt::format("figures measured: {}\nfigures assumed: {}\n", list(measured), list(assumed));
}

}  // namespace

std::string describe(const Choice& choice, const ShardedCall& call, const Survey& all, const RowShape& shape,
                     const Hardware& hardware) {
  return heading(choice) + shards_line(call, shape) + byte_table(choice, call, all, shape) + prediction_lines(choice) +
         figure_lines(hardware);
}

}  // namespace longstride::parallel
