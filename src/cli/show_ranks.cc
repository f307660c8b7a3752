// The plan of ranks, its words and its JSON (show_ranks.h).
#include "show_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/refuse.h"
#include "options.h"
#include "parallel/lists.h"
#include "pattern_options.h"
#include "show_cost.h"
#include "terminal.h"

namespace longstride::cli {
namespace {

constexpr int64_t kMostRanks = 1024;
constexpr int64_t kMostListed = 16;  // ranks with a line of their own
constexpr int64_t kTextCells = 32;
constexpr int64_t kJsonRanks = 256;  // up to so many the rows from whom to whom are listed

constexpr core::DType kDTypes[] = {core::DType::kBFloat16, core::DType::kFloat16, core::DType::kFloat32,
                                   core::DType::kFloat64};

parallel::Hardware hardware_of(const std::vector<std::string>& measured) {
  parallel::Hardware hardware;
  for (const std::string& given : measured) {
    const size_t equals = given.find('=');
    const std::string asked = given.substr(0, equals);
    std::vector<std::string> names;
    bool found = false;
    parallel::for_each_figure(hardware, [&](const char* name, parallel::Figure& figure) {
      names.emplace_back(name);
      if (equals == std::string::npos || asked != name) return;
      double value = 0;
      found = CLI::detail::lexical_cast(given.substr(equals + 1), value);
      figure = {value, true};
    });
    if (!found) {
      core::refuse("--measured", "must be NAME=VALUE", fmt::format("'{}'", given),
                   fmt::format("names are {}", fmt::join(names, ", ")));
    }
  }
  return hardware;
}

std::vector<std::string> byte_row(const RanksShown& shown, const std::string& label, int64_t rank) {
  const auto moved = parallel::volumes(shown.runs.plan, shown.call, shown.survey, rank, shown.shape);
  std::vector<std::string> row = {label};
  for (size_t s = 0; s < source_words(shown.call.pattern).size(); ++s)
    row.push_back(fmt::format("{}", moved[s].forward_bytes));
  const parallel::Volume sum = total(moved);
  row.push_back(fmt::format("{}", sum.forward_bytes));
  row.push_back(fmt::format("{}", sum.backward_bytes));
  return row;
}

// Every rank, or of many the one that receives most.
std::string byte_table(const RanksShown& shown) {
  std::vector<std::string> heading = {"rank"};
  for (const std::string& words : source_words(shown.call.pattern)) heading.push_back(words);
  heading.insert(heading.end(), {"forward", "backward"});
  std::vector<std::vector<std::string>> table = {heading};
  const std::vector<parallel::RankLoad>& loads = shown.survey.ranks;
  if (shown.call.shards.ranks() <= kMostListed) {
    for (int64_t rank = 0; rank < shown.call.shards.ranks(); ++rank)
      table.push_back(byte_row(shown, fmt::format("{}", rank), rank));
    return "bytes that a rank receives, forward by group (segment/rate), then in all\n" + text_table(table);
  }
  const auto fewer = [](const parallel::RankLoad& a, const parallel::RankLoad& b) { return a.rows < b.rows; };
  const int64_t worst = std::max_element(loads.begin(), loads.end(), fewer) - loads.begin();
  const auto as_many = std::count_if(loads.begin(), loads.end(), [&](const parallel::RankLoad& load) {
    return load.rows == loads[static_cast<size_t>(worst)].rows;
  });
  table.push_back(byte_row(shown, fmt::format("{}", worst), worst));
  return "bytes that a rank receives, forward by group (segment/rate), then in all\n" + text_table(table) +
         fmt::format("  the most that any rank receives; {} of {} do\n", as_many, loads.size());
}

std::string traffic_grid(const RanksShown& shown) {
  const int64_t ranks = shown.call.shards.ranks(), width = (ranks + kTextCells - 1) / kTextCells;
  const auto cells = traffic_cells(shown, width);
  double most = 0;
  for (const auto& row : cells) most = std::max(most, *std::max_element(row.begin(), row.end()));
  std::string text = fmt::format(
      "who sends to whom (rows receive, columns send{}; # from a quarter of the most, + from a sixteenth, - less)\n",
      width > 1 ? fmt::format("; a cell is {} x {} ranks", width, width) : "");
  for (size_t r = 0; r < cells.size(); ++r) {
    text += r % 4 == 0 ? fmt::format("{:>8}  ", static_cast<int64_t>(r) * width) : std::string(10, ' ');
    for (const double count : cells[r])
      text += count <= 0 ? '.' : count < most / 16 ? '-' : count < most / 4 ? '+' : '#';
    text += "\n";
  }
  return text;
}

std::string prediction_table(const RanksShown& shown) {
  std::vector<std::vector<std::string>> table = {{"exchange", "forward", "of it waiting", "backward", "of it waiting"}};
  for (const auto& [plan, predicted] : shown.runs.feasible) {
    table.push_back({name(plan) + (runs(plan.kind) ? "" : " (in the model alone)"),
                     fmt::format("{:.4g}", predicted.forward.total_s * 1e3),
                     fmt::format("{:.4g}", predicted.forward.exposed_s * 1e3),
                     fmt::format("{:.4g}", predicted.backward.total_s * 1e3),
                     fmt::format("{:.4g}", predicted.backward.exposed_s * 1e3)});
  }
  return "a model, not a measurement: ms a layer on the slowest rank\n" + text_table(table);
}

nlohmann::json volume_json(const parallel::Volume& v) {
  return {{"forward_bytes", v.forward_bytes}, {"backward_bytes", v.backward_bytes}};
}

nlohmann::json prediction_json(const parallel::Predicted& predicted) {
  return {{"total_ms", predicted.total_s * 1e3},
          {"exchange_ms", predicted.exchange_s * 1e3},
          {"waiting_ms", predicted.exposed_s * 1e3}};
}

}  // namespace

void add_rank_options(CLI::App& command, RankOptions& into, const std::vector<std::string>& of_one_process) {
  command.option_defaults()->group("Ranks");
  CLI::Option* ranks =
      add(command, "--ranks", into.ranks, "Show a sequence over so many ranks instead", whole_number(1, kMostRanks));
  const auto also = [&](CLI::Option* option) { option->capture_default_str()->needs(ranks); };
  also(command.add_option("--layout", into.layout, "Who holds what: contiguous or zigzag"));
  also(add(command, "--dim", into.dim, "Dimensions of a head", whole_number(1, 65536)));
  also(command.add_option("--dtype", into.dtype, "Type of q, k and v: bfloat16, float16, float32 or float64"));
  also(command
           .add_option("--measured", into.measured,
                       "Figures of your machine for the model's assumed ones, NAME=VALUE,...; the output names them")
           ->delimiter(','));
  for (CLI::Option* option : command.get_options()) {
    if (std::ranges::find(of_one_process, option->get_name()) != of_one_process.end()) ranks->excludes(option);
  }
}

RanksShown plan_ranks(const Pattern& pattern, const Extent& extent, const RankOptions& options) {
  const bool zigzag = options.layout == "zigzag";
  if (!zigzag && options.layout != "contiguous")
    core::refuse("--layout", "must be contiguous or zigzag", fmt::format("'{}'", options.layout));
  const auto dtype = std::ranges::find(kDTypes, options.dtype, core::name);
  if (dtype == std::end(kDTypes))
    core::refuse("--dtype", "must be bfloat16, float16, float32 or float64", fmt::format("'{}'", options.dtype));
  check_ranks_cost(pattern, extent, options.ranks);
  using parallel::Shards;
  parallel::ShardedCall call(
      pattern, extent,
      zigzag ? Shards::zigzag(extent.len_k, options.ranks) : Shards::even(extent.len_k, options.ranks));
  RanksShown shown{std::move(call), {.dim = options.dim, .dtype = *dtype}, hardware_of(options.measured), {}, {}, {}};
  shown.survey = survey(shown.call);
  const bool travels =
      std::ranges::any_of(shown.survey.ranks, [](const parallel::RankLoad& load) { return load.rows > 0; });
  shown.runs = choose(shown.call, shown.survey, shown.shape, shown.hardware, travels ? "direct" : "none");
  for (int64_t rank = 0; rank < options.ranks; ++rank) shown.rows.push_back(rows_by_sender(shown.call, rank));
  return shown;
}

std::string shards_words(const RanksShown& shown) {
  const parallel::Shards& shards = shown.call.shards;
  int64_t least = shards.rows(0), most = least;
  for (int64_t rank = 1; rank < shards.ranks(); ++rank) {
    least = std::min(least, shards.rows(rank));
    most = std::max(most, shards.rows(rank));
  }
  return fmt::format("{} {}, {}, {} tokens each; {} heads, {} KV heads, dim {}, {}", shards.ranks(),
                     shards.ranks() == 1 ? "rank" : "ranks", name(shards.layout()),
                     least == most ? fmt::format("{}", most) : fmt::format("{} to {}", least, most),
                     shown.call.extent.heads, shown.call.extent.kv_heads, shown.shape.dim,
                     core::name(shown.shape.dtype));
}

std::vector<std::string> figure_words(const parallel::Hardware& hardware) {
  std::vector<std::string> measured, assumed;
  parallel::for_each_figure(hardware, [&](const char* label, const parallel::Figure& figure) {
    (figure.measured ? measured : assumed).push_back(fmt::format("{} {:.4g}", label, figure.value));
  });
  const auto line = [](const char* what, const std::vector<std::string>& names) {
    return fmt::format("figures {}: {}", what, names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
  };
  return {line("measured", measured), line("assumed", assumed)};
}

std::vector<std::string> source_words(const Pattern& pattern) {
  std::vector<std::string> words;
  for (const Group& group : pattern.groups()) words.push_back(fmt::format("{}/{}", group.segment, group.rate));
  if (!pattern.blocks().empty()) words.emplace_back("blocks");
  return words;
}

std::vector<std::vector<double>> traffic_cells(const RanksShown& shown, int64_t width) {
  const auto ranks = std::ssize(shown.rows), cells = (ranks + width - 1) / width;
  std::vector<std::vector<double>> sums(static_cast<size_t>(cells), std::vector<double>(static_cast<size_t>(cells)));
  const auto size = [&](int64_t cell) { return static_cast<double>(std::min(width, ranks - cell * width)); };
  for (int64_t to = 0; to < ranks; ++to) {
    for (int64_t from = 0; from < ranks; ++from) {
      sums[static_cast<size_t>(to / width)][static_cast<size_t>(from / width)] +=
          static_cast<double>(shown.rows[static_cast<size_t>(to)][static_cast<size_t>(from)]) /
          (size(to / width) * size(from / width));
    }
  }
  return sums;
}

std::string ranks_text(const RanksShown& shown) {
  std::string text = fmt::format("pattern   {}\nlengths   {}\nranks     {}\nexchange  {}\n\n",
                                 pattern_line(shown.call.pattern), extent_line(shown.call.extent), shards_words(shown),
                                 shown.runs.plan.kind == parallel::Exchange::kNone
                                     ? "none: every key that is seen is the rank's own"
                                     : "direct: one all-to-all of the rows that are needed, each once; others that "
                                       "run by their names");
  if (shown.runs.plan.kind != parallel::Exchange::kNone) text += byte_table(shown) + "\n" + traffic_grid(shown) + "\n";
  text += prediction_table(shown) + "\n";
  for (const std::string& line : figure_words(shown.hardware)) text += line + "\n";
  return text;
}

nlohmann::json ranks_json(const RanksShown& shown) {
  nlohmann::json received = nlohmann::json::array();
  for (int64_t rank = 0; rank < shown.call.shards.ranks(); ++rank) {
    const auto moved = parallel::volumes(shown.runs.plan, shown.call, shown.survey, rank, shown.shape);
    nlohmann::json one = volume_json(total(moved));
    for (size_t s = 0; s < source_words(shown.call.pattern).size(); ++s)
      one["by_group"].push_back(volume_json(moved[s]));
    one["rows"] = shown.survey.ranks[static_cast<size_t>(rank)].rows;
    received.push_back(std::move(one));
  }
  nlohmann::json plans = nlohmann::json::array();
  for (const auto& [plan, predicted] : shown.runs.feasible) {
    plans.push_back({{"exchange", name(plan)},
                     {"runs", parallel::runs(plan.kind)},
                     {"forward", prediction_json(predicted.forward)},
                     {"backward", prediction_json(predicted.backward)}});
  }
  nlohmann::json measured = nlohmann::json::object(), assumed = nlohmann::json::object();
  parallel::for_each_figure(shown.hardware, [&](const char* label, const parallel::Figure& figure) {
    (figure.measured ? measured : assumed)[label] = figure.value;
  });
  nlohmann::json result = {{"ranks", shown.call.shards.ranks()},
                           {"layout", name(shown.call.shards.layout())},
                           {"len", shown.call.extent.len_k},
                           {"heads", shown.call.extent.heads},
                           {"kv_heads", shown.call.extent.kv_heads},
                           {"dim", shown.shape.dim},
                           {"dtype", core::name(shown.shape.dtype)},
                           {"groups", source_words(shown.call.pattern)},
                           {"exchange", name(shown.runs.plan)},
                           {"received", received},
                           {"model", {{"plans", plans}, {"measured", measured}, {"assumed", assumed}}}};
  if (shown.call.shards.ranks() <= kJsonRanks) result["rows"] = shown.rows;
  return result;
}

}  // namespace longstride::cli
