// `longstride show`: a pattern and its plan as text, as JSON and as pictures.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <vector>

#include "commands.h"
#include "core/json.h"
#include "longstride/error.h"
#include "longstride/nn/positions.h"
#include "longstride/pattern/json.h"
#include "longstride/pattern/sight.h"
#include "longstride/plan.h"
#include "options.h"
#include "pattern_options.h"
#include "show_cost.h"
#include "show_picture.h"
#include "show_ranks.h"
#include "terminal.h"

namespace longstride::cli {
namespace {

constexpr int64_t kTextCells = 64;
constexpr int64_t kJsonPairs = 1 << 16;  // multiplicities are listed for up to 256 x 256 tokens

struct ShowOptions {
  PatternOptions pattern;
  LengthOptions lengths;
  RankOptions ranks;
  int64_t head = 0;
  int32_t tile_rows = Geometry{}.tile_rows;
  int32_t column_block = 0;  // 0: as tile_rows
  int32_t workers = Geometry{}.workers;
  std::string picture;
  std::string plan_picture;
  bool transposed = false;
  bool verify = false;
  bool json = false;
  bool alibi = false;
};

struct Shown {
  Pattern pattern;
  Extent extent;
  Plan plan;
  double compile_ms;
  PlanCounts counts;
  double nominal_per_query;
  std::string fault;                // of verify
  std::vector<float> alibi_slopes;  // one a head, if asked for
};

Shown plan_it(const ShowOptions& options) {
  Shown shown{options.pattern.pattern(), options.lengths.extent(), {}, 0, {}, 0, {}, {}};
  if (options.head < 0 || options.head >= shown.extent.heads)
    throw Error(fmt::format("--head: got {}, expected 0 to {} (--heads is {})", options.head, shown.extent.heads - 1,
                            shown.extent.heads));
  Geometry geometry;
  geometry.tile_rows = options.tile_rows;
  geometry.column_block = options.column_block > 0 ? options.column_block : options.tile_rows;
  geometry.row_quantum = std::min(geometry.row_quantum, geometry.tile_rows);
  geometry.workers = options.workers;
  check_show_cost(shown.pattern, shown.extent, geometry);
  const Direction direction = options.transposed ? Direction::kTransposed : Direction::kForward;
  const auto start = std::chrono::steady_clock::now();
  shown.plan = compile(shown.pattern, shown.extent, geometry, direction);
  shown.compile_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  shown.counts = count(shown.plan.view(), shown.extent);
  const double queries = static_cast<double>(shown.extent.batch * shown.extent.heads * shown.extent.len_q);
  shown.nominal_per_query = queries > 0 ? nominal_flops(shown.pattern, shown.extent, 1) / 4 / queries : 0;
  if (options.verify) shown.fault = verify(shown.plan.view(), shown.pattern, shown.extent);
  if (options.alibi) {
    const at::Tensor slopes = alibi_slopes(shown.extent.heads);
    shown.alibi_slopes.assign(slopes.const_data_ptr<float>(), slopes.const_data_ptr<float>() + slopes.numel());
  }
  return shown;
}

nlohmann::json counts_json(const PlanCounts& counts) {
  return {{"tiles", counts.tiles},
          {"runs", counts.runs},
          {"seen_pairs", counts.seen_pairs},
          {"computed_pairs", counts.computed_pairs},
          {"rows", counts.rows},
          {"merged_rows", counts.merged_rows},
          {"split_tiles", counts.split_tiles},
          {"parts", counts.parts}};
}

// m(h, q, k) of one head, row by row.
nlohmann::json multiplicity_json(const Pattern& pattern, const Extent& extent, int64_t head) {
  const Sight sight(pattern, extent, 0, head / (extent.heads / extent.kv_heads));
  nlohmann::json rows = nlohmann::json::array();
  for (int64_t i = 0; i < extent.len_q; ++i) {
    nlohmann::json row = nlohmann::json::array();
    for (int64_t k = 0; k < extent.len_k; ++k) row.push_back(sight.multiplicity(extent.query_start + i, k));
    rows.push_back(std::move(row));
  }
  return rows;
}

nlohmann::json to_json(const ShowOptions& options, const Shown& shown) {
  const PlanView view = shown.plan.view();
  nlohmann::json groups = nlohmann::json::array();
  for (size_t g = 0; g < shown.pattern.groups().size(); ++g) {
    std::vector<int64_t> offsets;
    for (int64_t j = 0; j < shown.extent.kv_heads; ++j)
      offsets.push_back(shown.pattern.offset(static_cast<int64_t>(g), j, shown.extent.kv_heads));
    groups.push_back({{"segment", shown.pattern.groups()[g].segment},
                      {"rate", shown.pattern.groups()[g].rate},
                      {"offsets", offsets}});
  }
  nlohmann::json classes = nlohmann::json::array();
  for (size_t c = 0; c < view.classes.size(); ++c) {
    nlohmann::json levels = nlohmann::json::array();
    for (const Level& level : view.levels_of(view.classes[c]))
      levels.push_back({{"stride", level.stride}, {"partial", level.partial}});
    classes.push_back({{"levels", levels},
                       {"partial_rows", view.classes[c].partial_rows},
                       {"counts", counts_json(count(view, static_cast<int64_t>(c)))}});
  }
  const DilatedOptions& dilated = shown.pattern.options();
  nlohmann::json blocks = nlohmann::json::array();
  if (!shown.pattern.blocks().empty())
    blocks = core::parse_json("pattern", longstride::to_json(shown.pattern))["blocks"];
  nlohmann::json result = {{"pattern",
                            {{"groups", groups},
                             {"blocks", blocks},
                             {"causal", dilated.causal},
                             {"offset", dilated.offsets ? "explicit" : name(dilated.head_offset)},
                             {"mixing", name(dilated.mixing)},
                             {"average", dilated.average},
                             {"padding", name(dilated.padding)}}},
                           {"lengths",
                            {{"heads", shown.extent.heads},
                             {"kv_heads", shown.extent.kv_heads},
                             {"len_q", shown.extent.len_q},
                             {"len_k", shown.extent.len_k},
                             {"query_start", shown.extent.query_start},
                             {"cu_seqlens", shown.extent.cu_seqlens}}},
                           {"plan",
                            {{"direction", options.transposed ? "transposed" : "forward"},
                             {"tile_rows", view.tile_rows},
                             {"column_block", view.column_block},
                             {"bytes", shown.plan.bytes()},
                             {"compile_ms", shown.compile_ms},
                             {"class_of", shown.plan.class_of},
                             {"classes", classes}}},
                           {"counts", counts_json(shown.counts)},
                           {"per_row",
                            {{"computed", shown.counts.computed_per_row()},
                             {"seen", shown.counts.seen_per_row()},
                             {"nominal", shown.nominal_per_query}}}};
  if (options.verify) result["verify"] = shown.fault.empty() ? "ok" : shown.fault;
  if (options.alibi) result["alibi_slopes"] = shown.alibi_slopes;
  result["head"] = options.head;
  if (shown.extent.len_q * shown.extent.len_k <= kJsonPairs)
    result["multiplicity"] = multiplicity_json(shown.pattern, shown.extent, options.head);
  return result;
}

void print_text(const ShowOptions& options, const Shown& shown) {
  const Extent& extent = shown.extent;
  const int64_t kv_head = options.head / (extent.heads / extent.kv_heads);
  const PlanView view = shown.plan.view();
  std::cout << fmt::format("pattern  {}\nlengths  {}, {} heads, {} KV heads\n\n", pattern_line(shown.pattern),
                           extent_line(extent), extent.heads, extent.kv_heads);
  std::vector<std::vector<std::string>> rows = {
      {"group", "segment", "rate", fmt::format("offset of head {}", options.head)}};
  for (size_t g = 0; g < shown.pattern.groups().size(); ++g) {
    const auto index = static_cast<int64_t>(g);
    rows.push_back({fmt::format("{}", g), fmt::format("{}", shown.pattern.groups()[g].segment),
                    fmt::format("{}", shown.pattern.groups()[g].rate),
                    shown.pattern.runs(index, kv_head, extent.kv_heads)
                        ? fmt::format("{}", shown.pattern.offset(index, kv_head, extent.kv_heads))
                        : "not run"});
  }
  if (!shown.pattern.groups().empty()) std::cout << text_table(rows) << "\n";
  if (!shown.pattern.blocks().empty()) {
    const int64_t documents = std::max<int64_t>(1, std::ssize(extent.cu_seqlens) - 1);
    std::vector<std::vector<std::string>> table = {{"block pattern", fmt::format("density of head {}", options.head)}};
    for (const BlockPattern& block : shown.pattern.blocks()) {
      table.push_back({block_words(block),
                       documents > 1 ? "by document"
                                     : fmt::format("{:.2f} %", 100 * block.density(extent.len_k, shown.pattern.causal(),
                                                                                   kv_head))});
    }
    std::cout << text_table(table) << "\n";
  }

  if (extent.len_q > 0) {
    const Cells cells = count_cells(shown.pattern, extent, options.head, kTextCells);
    const bool single = cells.query_tokens == 1 && cells.key_tokens == 1;
    std::cout << fmt::format("head {}: who sees whom (rows are queries, columns are keys; {})\n", options.head,
                             single ? "the digit is how often the pair counts"
                                    : fmt::format("a cell is {} x {} tokens, darker: more of its pairs",
                                                  cells.query_tokens, cells.key_tokens))
              << text_grid(shown.pattern, extent, cells, stdout_wants_color()) << "\n";
  }

  if (options.alibi) {
    std::vector<std::vector<std::string>> table = {{"head", "ALiBi slope", "a key's weight halves every"}};
    for (size_t h = 0; h < shown.alibi_slopes.size(); ++h) {
      const double slope = shown.alibi_slopes[h];
      table.push_back({fmt::format("{}", h), fmt::format("{:.4g}", slope),
                       fmt::format("{:.4g} tokens", std::numbers::ln2 / slope)});
    }
    std::cout << text_table(table) << "\n";
  }

  const char* row_name = options.transposed ? "key" : "query";
  std::cout << "plan\n" << describe(view, extent);
  if (shown.plan.classes.size() > 1) {
    std::vector<std::vector<std::string>> table = {{"class", "computed", "seen", "tiles", "runs", "merged rows"}};
    for (size_t c = 0; c < view.classes.size(); ++c) {
      const PlanCounts counts = count(view, static_cast<int64_t>(c));
      table.push_back({fmt::format("{}", c), fmt::format("{:.1f}", counts.computed_per_row()),
                       fmt::format("{:.1f}", counts.seen_per_row()), fmt::format("{}", counts.tiles),
                       fmt::format("{}", counts.runs), fmt::format("{}", counts.merged_rows)});
    }
    std::cout << fmt::format("\npairs a {} of each class\n", row_name) << text_table(table);
  }
  std::cout << fmt::format("\npairs a {}  computed {:.1f}, seen {:.1f}, nominal {:.1f}{}\n", row_name,
                           shown.counts.computed_per_row(), shown.counts.seen_per_row(), shown.nominal_per_query,
                           options.transposed ? " (a query)" : "");
  std::cout << fmt::format("all heads  {} tiles, {} runs, {} merged rows\n", shown.counts.tiles, shown.counts.runs,
                           shown.counts.merged_rows);
  if (shown.counts.split_tiles > 0)
    std::cout << fmt::format("           {} tiles cut into {} parts\n", shown.counts.split_tiles, shown.counts.parts);
  std::cout << fmt::format("plan size  {}, compiled in {:.3f} ms\n",
                           bytes_label(static_cast<double>(shown.plan.bytes())), shown.compile_ms);
  if (options.verify)
    std::cout << fmt::format("verify     {}\n", shown.fault.empty() ? "ok, pair by pair" : shown.fault);
}

void show_ranks(const ShowOptions& options) {
  if (!options.picture.empty()) picture::check_picture_path("--picture", options.picture);
  const RanksShown shown = plan_ranks(options.pattern.pattern(), options.lengths.extent(), options.ranks);
  if (!options.picture.empty()) picture::write_picture(options.picture, ranks_picture(shown));
  if (options.json) {
    std::cout << core::json_text(ranks_json(shown)) << "\n";
    return;
  }
  std::cout << ranks_text(shown);
  if (!options.picture.empty()) std::cout << "wrote     " << options.picture << "\n";
}

void show(const ShowOptions& options, int& exit_code) {
  if (options.ranks.ranks > 0) return show_ranks(options);
  if (!options.picture.empty()) picture::check_picture_path("--picture", options.picture);
  if (!options.plan_picture.empty()) {
    picture::check_picture_path("--plan-picture", options.plan_picture);
    if (options.transposed) throw Error("--plan-picture: draws forward plans; leave --transposed out");
  }
  const Shown shown = plan_it(options);
  if (!options.picture.empty())
    picture::write_picture(options.picture,
                           token_picture(shown.pattern, shown.extent, options.head, shown.alibi_slopes));
  if (!options.plan_picture.empty())
    picture::write_picture(options.plan_picture,
                           plan_picture(shown.plan.view(), shown.pattern, shown.extent, options.head));
  if (options.json) {
    std::cout << core::json_text(to_json(options, shown)) << "\n";
  } else {
    print_text(options, shown);
    if (!options.picture.empty()) std::cout << "wrote      " << options.picture << "\n";
    if (!options.plan_picture.empty()) std::cout << "wrote      " << options.plan_picture << "\n";
  }
  if (!shown.fault.empty()) exit_code = kFailure;
}

}  // namespace

void add_show(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<ShowOptions>();
  options->pattern.segments = {16, 32, 64};
  options->pattern.rates = {1, 2, 4};
  options->lengths.len = 64;
  options->lengths.heads = 4;
  CLI::App* command = app.add_subcommand("show", "Show who sees whom in a pattern, and the plan that computes it");
  add_pattern_options(*command, options->pattern);
  add_json_option(*command, options->pattern);
  const CLI::Validator heads = whole_number(1, kMostHeads), rows = whole_number(1, 32767);
  command->option_defaults()->group("Lengths");
  add(*command, "--len", options->lengths.len, "Tokens (32k = 32768)", token_count(0))->capture_default_str();
  add(*command, "--heads", options->lengths.heads, "Query heads", heads)->capture_default_str();
  add(*command, "--kv-heads", options->lengths.kv_heads, "KV heads; they divide the heads (default: as --heads)",
      heads);
  add(*command, "--documents", options->lengths.documents, "Lengths of packed documents; they add up to --len",
      token_count(0))
      ->delimiter(',');
  add(*command, "--query-start", options->lengths.query_start, "Only the queries from this position on, as in decoding",
      token_count(0));
  command->option_defaults()->group("Plan");
  add(*command, "--tile-rows", options->tile_rows, "Queries of a tile", rows)->capture_default_str();
  add(*command, "--column-block", options->column_block,
      "Keys are computed in blocks of this many (default: --tile-rows)", rows);
  add(*command, "--workers", options->workers,
      "Workers that share a head's tiles: those too long for one are cut into parts",
      whole_number(1, Geometry::kMostWorkers))
      ->capture_default_str();
  command->add_flag("--transposed", options->transposed, "The plan of the backward: tiles of keys");
  command->add_flag("--verify", options->verify,
                    "Check the plan pair by pair against the definition; exit code 1 if wrong");
  command->option_defaults()->group("Output");
  add(*command, "--head", options->head, "The head that is drawn", whole_number(0, kMostHeads))->capture_default_str();
  command->add_flag("--alibi", options->alibi,
                    "Show ALiBi's slopes too, those of the paper, and what they leave of a key by its distance");
  command->add_option("--picture,--out", options->picture, "Write who sees whom as a picture: FILE.svg or FILE.png")
      ->check(output_file());
  command->add_option("--plan-picture", options->plan_picture, "Write the plan as a picture: FILE.svg or FILE.png")
      ->check(output_file());
  command->add_flag("--json", options->json, "Print JSON instead of text");
  add_rank_options(*command, options->ranks,
                   {"--query-start", "--tile-rows", "--column-block", "--workers", "--transposed", "--verify", "--head",
                    "--plan-picture", "--alibi"});
  command->footer(
      "Examples:\n"
      "  longstride show --segments 16,32,64 --rates 1,2,4 --len 64 --picture pattern.png\n"
      "  longstride show --segments 2k,4k,8k,16k,32k --rates 1,2,4,8,16 --len 32k --heads 16 --causal\n"
      "  longstride show --window 24 --sinks 4 --causal --alibi --picture window.png\n"
      "  longstride show --documents 40,24 --tile-rows 16 --plan-picture plan.svg --verify\n"
      "  longstride show --ranks 64 --len 1024k --segments 2k,8k,32k,128k --rates 1,4,16,64 --causal --out ranks.png");
  command->callback([options, &exit_code] { show(*options, exit_code); });
}

}  // namespace longstride::cli
