// The table and the JSON of compare (compare_report.h).
#include "compare_report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "longstride/pattern/json.h"
#include "terminal.h"

namespace longstride::cli {
namespace {

double mean_over_layers(const std::vector<LayerCoverage>& layers, train::Mean LayerCoverage::*field) {
  double sum = 0;
  for (const LayerCoverage& layer : layers) sum += (layer.*field).value;
  return sum / static_cast<double>(layers.size());
}

nlohmann::json mean_json(const train::Mean& mean) {
  return {{"value", mean.value}, {"standard_error", mean.standard_error}};
}

nlohmann::json pattern_json(const ComparedPattern& entry, const Comparison& comparison) {
  nlohmann::json json = {{"name", entry.name},
                         {"pattern", core::parse_json("pattern", longstride::to_json(entry.pattern))},
                         {"density", entry.reach.density},
                         {"reached", entry.reach.reached},
                         {"reaches_all", entry.reach.all}};
  json["layers"] = entry.reach.all ? nlohmann::json(entry.reach.reached.size()) : nlohmann::json(nullptr);
  if (!entry.coverage.empty()) {
    nlohmann::json layers = nlohmann::json::array();
    for (const LayerCoverage& layer : entry.coverage) {
      layers.push_back({{"mass", mean_json(layer.mass)}, {"heaviest", mean_json(layer.heaviest)}});
    }
    json["coverage"] = {{"mass", mean_over_layers(entry.coverage, &LayerCoverage::mass)},
                        {"heaviest", mean_over_layers(entry.coverage, &LayerCoverage::heaviest)},
                        {"heaviest_share_of_keys", comparison.share},
                        {"layers", layers}};
  }
  if (entry.bits) {
    json["bits_per_byte"] = mean_json(entry.bits->mean);
    json["more_than_first"] = mean_json(entry.bits->more);
    json["steps"] = entry.bits->steps;
  }
  return json;
}

}  // namespace

std::string percent_reached(const Reach& reach) {
  return fmt::format("{:.1f}", std::floor(1000 * reach.reached.back()) / 10);
}

std::string comparison_text(const Comparison& comparison) {
  std::vector<std::string> heading = {"pattern", "pairs seen", "layers to reach all"};
  const bool covered = comparison.coverage_windows > 0, scored = comparison.windows > 0;
  if (covered) {
    heading.emplace_back("attention kept");
    heading.push_back(fmt::format("heaviest {:g} % kept", 100 * comparison.share));
  }
  if (scored) {
    heading.emplace_back("bits/byte");
    heading.emplace_back("more than the first");
  }
  std::vector<std::vector<std::string>> rows = {heading};
  bool first = true;
  for (const ComparedPattern& entry : comparison.patterns) {
    std::vector<std::string> row = {entry.name, fmt::format("{:.1f} %", 100 * entry.reach.density),
                                    entry.reach.all ? fmt::format("{}", entry.reach.reached.size())
                                                    : fmt::format("never: {} %", percent_reached(entry.reach))};
    if (covered) {
      row.push_back(fmt::format("{:.1f} %", 100 * mean_over_layers(entry.coverage, &LayerCoverage::mass)));
      row.push_back(fmt::format("{:.1f} %", 100 * mean_over_layers(entry.coverage, &LayerCoverage::heaviest)));
    }
    if (scored && !entry.bits) row.insert(row.end(), {"", ""});
    if (scored && entry.bits) {
      const train::Mean& more = entry.bits->more;
      row.push_back(fmt::format("{:.4f} +- {:.4f}", entry.bits->mean.value, entry.bits->mean.standard_error));
      row.push_back(first ? "" : fmt::format("{:+.4f} +- {:.4f}", more.value, more.standard_error));
      first = false;
    }
    rows.push_back(row);
  }
  std::string text = text_table(rows);
  text += fmt::format("pairs seen and layers: {} tokens, {} KV heads\n", comparison.len, comparison.kv_heads);
  if (covered) {
    text += fmt::format("kept: of the attention of {} on {} held-out windows, mean over its layers\n", comparison.dense,
                        comparison.coverage_windows);
  }
  if (scored) {
    text += fmt::format("bits/byte: the last {} bytes of {} held-out windows\n", comparison.scored, comparison.windows);
  }
  return text;
}

nlohmann::json comparison_json(const Comparison& comparison) {
  nlohmann::json patterns = nlohmann::json::array();
  for (const ComparedPattern& entry : comparison.patterns) patterns.push_back(pattern_json(entry, comparison));
  nlohmann::json json = {{"machine", machine_json(comparison.machine)},
                         {"len", comparison.len},
                         {"kv_heads", comparison.kv_heads},
                         {"patterns", patterns}};
  if (comparison.windows > 0) {
    json["windows"] = comparison.windows;
    json["scored_bytes"] = comparison.scored;
  }
  if (comparison.coverage_windows > 0) {
    json["coverage_windows"] = comparison.coverage_windows;
    json["dense"] = comparison.dense;
  }
  return json;
}

}  // namespace longstride::cli
