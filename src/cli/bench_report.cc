// Tables, JSON and the curve of bench (bench_report.h).
#include "bench_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "core/json.h"
#include "longstride/error.h"
#include "longstride/pattern/json.h"
#include "picture/chart.h"
#include "terminal.h"

namespace longstride::cli {
namespace {

double official_share(const BenchResult& result) {
  const Runs* peer = result.of("official");
  const Runs* dense = result.of("dense");
  return peer != nullptr && dense != nullptr && dense->median() > 0 ? peer->median() / dense->median() : 0;
}

// What dense attention multiplies, in the same count as nominal_flops.
double dense_flops(const BenchCase& bench_case) {
  const double len = static_cast<double>(bench_case.len);
  return 4.0 * static_cast<double>(bench_case.dim * bench_case.heads) * len * len * (bench_case.causal() ? 0.5 : 1.0) *
         (bench_case.backward ? 3.5 : 1.0);
}

double rate(double flops, const Runs& runs) { return runs.median() > 0 ? flops / runs.median() / 1e9 : 0; }

double brgemm_of(const BenchReport& report, const std::string& dtype) {
  const auto found = report.brgemm_gflops.find(dtype);
  return found == report.brgemm_gflops.end() ? 0 : found->second;
}

std::string milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  return ms < 10 ? fmt::format("{:.2f}", ms) : ms < 100 ? fmt::format("{:.1f}", ms) : fmt::format("{:.0f}", ms);
}

std::string short_words(const BenchCase& bench_case) {
  return fmt::format("{}{}, {}", bench_case.dtype, bench_case.causal() ? ", causal" : "",
                     bench_case.backward ? "forward + backward" : "forward");
}

nlohmann::json line_json(const BenchLine& line, const BenchReport& report) {
  const BenchResult& result = line.result;
  const BenchCase& bench_case = result.bench_case;
  nlohmann::json runs = nlohmann::json::object();
  for (const Runs& entry : result.runs) {
    nlohmann::json one = {
        {"seconds", entry.seconds}, {"median", entry.median()}, {"min", entry.low()}, {"max", entry.high()}};
    if (entry.name == "dense") {
      one["nominal_gflops"] = rate(dense_flops(bench_case), entry);
    } else {
      one["useful_gflops"] = rate(result.useful_flops, entry);
      one["nominal_gflops"] = rate(result.nominal_flops, entry);
    }
    if (const auto bytes = line.extra_bytes.find(entry.name); bytes != line.extra_bytes.end())
      one["extra_bytes"] = bytes->second;
    runs[entry.name] = one;
  }
  const double ceiling = brgemm_of(report, bench_case.dtype);
  const Pattern pattern = bench_case.pattern.pattern();
  std::vector<int64_t> segments, rates;
  for (const Group& group : pattern.groups()) {
    segments.push_back(group.segment);
    rates.push_back(group.rate);
  }
  nlohmann::json entry = {
      {"segments", segments},
      {"rates", rates},
      {"causal", pattern.causal()},
      {"offset", name(pattern.options().head_offset)},
      {"mixing", name(pattern.options().mixing)},
      {"padding", name(pattern.options().padding)},
      {"pattern", core::parse_json("pattern", longstride::to_json(pattern))},
      {"len", bench_case.len},
      {"heads", bench_case.heads},
      {"kv_heads", bench_case.kv_heads},
      {"dim", bench_case.dim},
      {"dtype", bench_case.dtype},
      {"pass", bench_case.backward ? "forward_backward" : "forward"},
      {"engine", result.engine},
      {"useful_flops", result.useful_flops},
      {"nominal_flops", result.nominal_flops},
      {"keys_per_query", result.keys_per_query},
      {"runs", runs},
      {"brgemm_share", ceiling > 0 ? rate(result.useful_flops, *result.of("longstride")) / ceiling : 0}};
  nlohmann::json ratios = nlohmann::json::object();
  for (const Runs& entry : result.runs) {
    if (entry.name != "longstride") ratios[entry.name] = speedup(result, entry.name);
  }
  entry["speedup"] = ratios;
  if (!result.refusals.empty()) entry["refusals"] = result.refusals;
  if (line.bar.accept > 0)
    entry["bar"] = {{"against", line.bar.against}, {"accept", line.bar.accept}, {"goal", line.bar.goal}};
  if (line.bar.peer_share > 0)
    entry["peer_check"] = {{"official_share_of_dense", official_share(result)}, {"at_most", line.bar.peer_share}};
  return entry;
}

}  // namespace

double speedup(const BenchResult& result, const std::string& peer) {
  const Runs* other = result.of(peer);
  const Runs* ours = result.of("longstride");
  return other != nullptr && ours != nullptr && ours->median() > 0 ? other->median() / ours->median() : 0;
}

bool all_accepted(const BenchReport& report) {
  for (const BenchLine& line : report.lines) {
    if (line.bar.accept > 0 && speedup(line.result, line.bar.against) < line.bar.accept) return false;
    if (line.bar.peer_share > 0 && official_share(line.result) > line.bar.peer_share) return false;
  }
  return true;
}

std::string times_text(const BenchLine& line, const BenchReport& report) {
  const BenchResult& result = line.result;
  const double ceiling = brgemm_of(report, result.bench_case.dtype);
  std::vector<std::vector<std::string>> rows = {{"", "median ms", "min - max", "useful GFLOP/s", "nominal GFLOP/s",
                                                 "of brgemm", "extra memory", "longstride is"}};
  for (const Runs& entry : result.runs) {
    const bool dense = entry.name == "dense", ours = entry.name == "longstride";
    const double useful = rate(result.useful_flops, entry);
    const auto bytes = line.extra_bytes.find(entry.name);
    rows.push_back(
        {entry.name, milliseconds(entry.median()),
         fmt::format("{} - {}", milliseconds(entry.low()), milliseconds(entry.high())),
         dense ? "" : fmt::format("{:.0f}", useful),
         fmt::format("{:.0f}", rate(dense ? dense_flops(result.bench_case) : result.nominal_flops, entry)),
         dense || ceiling <= 0 ? "" : fmt::format("{:.0f} %", 100 * useful / ceiling),
         bytes == line.extra_bytes.end() || bytes->second < 0 ? "-" : bytes_label(static_cast<double>(bytes->second)),
         ours ? "" : fmt::format("{:.2f} x faster", speedup(result, entry.name))});
  }
  std::string text =
      fmt::format("{} (engine {}, {:.0f} keys a query computed, {} rounds)\n", case_words(result.bench_case),
                  result.engine, result.keys_per_query, result.runs.front().seconds.size());
  text += text_table(rows);
  for (const auto& [peer, why] : result.refusals) text += fmt::format("  {} did not run: {}\n", peer, why);
  return text;
}

std::string bars_text(const BenchReport& report) {
  std::string text;
  std::vector<std::vector<std::string>> peers = {{"the peer is fair if", "official / dense", "at most", ""}};
  std::vector<std::vector<std::string>> bars = {{"how much faster", "against", "times", "accept", "goal", ""}};
  for (const BenchLine& line : report.lines) {
    const std::string words =
        fmt::format("{}, {} tokens", short_words(line.result.bench_case), line.result.bench_case.len);
    if (line.bar.peer_share > 0) {
      const double share = official_share(line.result);
      peers.push_back({words, fmt::format("{:.3f}", share), fmt::format("{:.2f}", line.bar.peer_share),
                       share <= line.bar.peer_share ? "yes" : "NO"});
    }
    if (line.bar.accept > 0) {
      const double times = speedup(line.result, line.bar.against);
      const char* verdict = times < line.bar.accept                       ? "MISSED"
                            : line.bar.goal > 0 && times >= line.bar.goal ? "goal"
                                                                          : "accepted";
      bars.push_back({words, line.bar.against, fmt::format("{:.2f}", times), fmt::format("{:.1f}", line.bar.accept),
                      line.bar.goal > 0 ? fmt::format("{:.1f}", line.bar.goal) : "-", verdict});
    }
  }
  if (peers.size() > 1) text += text_table(peers, 0);
  if (peers.size() > 1 && bars.size() > 1) text += "\n";
  if (bars.size() > 1) text += text_table(bars, 0);
  return text;
}

nlohmann::json report_json(const BenchReport& report) {
  nlohmann::json lines = nlohmann::json::array();
  for (const BenchLine& line : report.lines) lines.push_back(line_json(line, report));
  nlohmann::json result = {
      {"machine", machine_json(report.machine)}, {"brgemm_gflops", report.brgemm_gflops}, {"cases", lines}};
  if (!report.brgemm_refusals.empty()) result["brgemm_refusals"] = report.brgemm_refusals;
  return result;
}

void write_curve(const std::string& path, const BenchReport& report) {
  picture::Chart chart;
  const BenchCase& first = report.lines.front().result.bench_case;
  chart.title = fmt::format("Attention, {}{}", short_words(first), first.backward ? "" : " pass");
  chart.subtitle = fmt::format("{} heads of {}; {}", first.heads, first.dim, machine_words(report.machine));
  chart.x_label = "tokens";
  chart.y_label = "milliseconds";
  chart.log_x = chart.log_y = true;
  for (const auto& [name, label] : {std::pair{"longstride", "longstride"},
                                    std::pair{"official", "official: LongNet's pipeline in torchscale's steps"},
                                    std::pair{"per_group", "per_group: the same algorithm, written for speed"},
                                    std::pair{"dense", "dense attention (torch SDPA)"}}) {
    picture::ChartSeries series{label, {}, {}, std::string(name) != "longstride"};
    for (const BenchLine& line : report.lines) {
      if (const Runs* entry = line.result.of(name)) {
        series.x.push_back(static_cast<double>(line.result.bench_case.len));
        series.y.push_back(entry->median() * 1e3);
      }
    }
    if (!series.x.empty()) chart.series.push_back(std::move(series));
  }
  picture::write_picture(path, picture::chart_picture(chart));
}

}  // namespace longstride::cli
