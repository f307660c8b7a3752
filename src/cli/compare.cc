// `longstride compare`: which patterns reach what. A row a pattern: how much it computes, in how many layers it carries
// every token to every other, what it keeps of a dense model's attention, and what a model trained with it scores.
#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "compare_report.h"
#include "core/json.h"
#include "longstride/error.h"
#include "longstride/pattern/json.h"
#include "options.h"
#include "pattern_options.h"
#include "progress_line.h"
#include "train/device.h"
#include "train/run_checkpoint.h"

namespace longstride::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFooter = R"(Examples:
  longstride compare docs/patterns/*.json --len 2k --heads 4
  longstride train ~/src --ext py --context 2048 --steps 300 --pattern docs/patterns/dense.json --out runs/dense
  longstride train ~/src --ext py --context 2048 --steps 300 --pattern docs/patterns/strided.json --out runs/strided
  longstride compare runs/dense runs/strided --dense runs/dense --picture patterns.png

A PATTERN is the folder of a run of 'longstride train', a file with a pattern's JSON, or that JSON. Columns:
  pairs seen           share of the (query, key) pairs with k <= q that a head computes, mean over the KV heads
  layers to reach all  after so many layers every token can hold something of every earlier one ("never": of what share)
  attention kept       of the attention of --dense, the share that falls on the pattern's pairs
  heaviest kept        of each query's heaviest keys there (--heaviest of those it sees), the share that the pattern has
  bits/byte            of runs: the last --scored bytes of each window of the held-out text, the same for all runs,
                       which must have been trained on one text; +- is the standard error over the windows, 'more' is
                       taken window by window. It says nothing of the spread from seed to seed: train several.
)";

struct CompareCommand {
  std::vector<std::string> items;
  std::string dense;
  std::optional<int64_t> len, heads, scored;
  int64_t windows = 32;
  int64_t coverage_windows = 4;
  double share = 0.01;
  int64_t threads = 0;
  std::string picture;
  bool json = false;
  bool quiet = false;

  CoverageWork coverage_work(const Comparison& comparison, const train::Text& text) const;
  train::ScoringPlan scoring_plan(const Comparison& comparison, const train::Text& text) const;
  void cover(Comparison& comparison, const CoverageWork& work, const train::Text& text) const;
  void score(Comparison& comparison, std::vector<train::LoadedRun>& runs, train::ScoringPlan plan,
             const train::Text& text) const;
  int run();
};

// The pattern that every layer of a model has.
Pattern pattern_of(const LongNetLM& model) { return model->config.layer.attention.attention.pattern; }
int64_t kv_heads_of(const LongNetLM& model) { return model->config.layer.attention.key_value_heads(); }

// A link that leads nowhere is taken for one too: find_checkpoint has a word for it.
bool is_run(const std::string& item) {
  std::error_code error;
  const fs::file_status end = fs::status(item, error);
  return fs::is_directory(end) || (!fs::exists(end) && fs::is_symlink(fs::symlink_status(item, error)));
}

// "runs/strided/" -> "strided", "docs/patterns/strided.json" -> "strided"; of JSON itself what it names.
std::string name_of(const std::string& item) {
  if (item.find('{') != std::string::npos) return pattern_line(pattern_from_json(item));
  fs::path path = fs::path(item).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.extension() == ".json" ? path.stem().string() : path.filename().string();
}

std::vector<size_t> windows_of(const train::Text& text, int64_t len, int64_t count) {
  const std::vector<size_t> starts =
      train::scoring_windows(text, static_cast<size_t>(len) + 1, static_cast<size_t>(count), false);
  if (starts.empty()) throw Error(fmt::format("no held-out file has {} bytes; take a shorter --len", len + 1));
  return starts;
}

CoverageWork CompareCommand::coverage_work(const Comparison& comparison, const train::Text& text) const {
  CoverageWork work;
  work.len = comparison.len;
  work.share = share;
  work.starts = windows_of(text, work.len, coverage_windows);
  for (const ComparedPattern& entry : comparison.patterns) work.patterns.push_back(entry.pattern);
  return work;
}

void CompareCommand::cover(Comparison& comparison, const CoverageWork& work, const train::Text& text) const {
  ProgressLine line(quiet);
  const auto all = coverage_of_model(train::find_checkpoint(dense), text, work, [&](size_t done) {
    line.update(static_cast<double>(done) / static_cast<double>(work.starts.size()),
                fmt::format("attention of window {} of {}", done, work.starts.size()));
  });
  line.finish(false);
  for (size_t i = 0; i < all.size(); ++i) comparison.patterns[i].coverage = all[i];
  comparison.coverage_windows = std::ssize(work.starts);
  comparison.share = share;
  comparison.dense = name_of(dense);
}

train::ScoringPlan CompareCommand::scoring_plan(const Comparison& comparison, const train::Text& text) const {
  train::ScoringPlan plan;
  plan.window_bytes = plan.context = comparison.len;
  plan.scored_bytes = scored.value_or(std::max<int64_t>(1, comparison.len / 2));
  if (plan.scored_bytes < 1 || plan.scored_bytes > comparison.len) {
    throw Error(fmt::format("--scored must be in [1, {}], which is --len, got {}", comparison.len, plan.scored_bytes));
  }
  plan.starts = windows_of(text, comparison.len, windows);
  return plan;
}

void CompareCommand::score(Comparison& comparison, std::vector<train::LoadedRun>& runs, train::ScoringPlan plan,
                           const train::Text& text) const {
  comparison.windows = std::ssize(plan.starts);
  comparison.scored = plan.scored_bytes;
  ProgressLine line(quiet);
  std::vector<double> first;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!is_run(items[i])) continue;
    plan.bf16 = runs[i].settings.precision == "bf16";
    const std::vector<double> bits = train::window_bits(runs[i].model, text, plan);
    line.update(static_cast<double>(i + 1) / static_cast<double>(items.size()),
                "scored " + comparison.patterns[i].name);
    if (first.empty()) first = bits;
    std::vector<double> more;
    for (size_t w = 0; w < bits.size(); ++w) more.push_back(bits[w] - first[w]);
    comparison.patterns[i].bits = RunBits{train::mean_of(bits), train::mean_of(more), runs[i].position.step};
  }
  line.finish(false);
}

int CompareCommand::run() {
  if (!picture.empty()) picture::check_picture_path("--picture", picture);
  train::use_threads(threads);
  std::vector<train::LoadedRun> runs(items.size());  // by item; empty where it is no run
  const train::LoadedRun* first_run = nullptr;
  std::optional<train::LoadedRun> dense_run;
  if (!dense.empty()) {
    dense_run = train::load_run(train::find_checkpoint(dense));
    first_run = &*dense_run;
  }
  std::vector<const train::LoadedRun*> all_runs;
  if (first_run != nullptr) all_runs.push_back(first_run);
  for (size_t i = 0; i < items.size(); ++i) {
    if (!is_run(items[i])) continue;
    runs[i] = train::load_run(train::find_checkpoint(items[i]));
    all_runs.push_back(&runs[i]);
  }
  if (!all_runs.empty()) first_run = all_runs.front();

  Comparison comparison;
  comparison.machine = this_machine();
  comparison.len = len.value_or(first_run != nullptr ? first_run->settings.context : 2048);
  comparison.kv_heads = first_run != nullptr ? kv_heads_of(first_run->model) : heads.value_or(4);
  if (first_run != nullptr && heads && *heads != comparison.kv_heads) {
    throw Error(fmt::format("--heads is for patterns without a run: the runs have {} KV heads, got {}",
                            comparison.kv_heads, *heads));
  }
  for (const train::LoadedRun* one : all_runs) {
    if (kv_heads_of(one->model) != comparison.kv_heads) {
      throw Error(fmt::format("the runs have {} and {} KV heads, so their patterns do not compare; train them alike",
                              comparison.kv_heads, kv_heads_of(one->model)));
    }
  }
  for (size_t i = 0; i < items.size(); ++i) {
    const Pattern pattern =
        is_run(items[i]) ? pattern_of(runs[i].model) : pattern_from_json(pattern_text(items[i], "PATTERN"));
    if (first_run != nullptr && !pattern.causal()) {
      throw Error(
          fmt::format("the pattern '{}' must have \"causal\": true beside runs: a language model sees no later "
                      "byte",
                      name_of(items[i])));
    }
    comparison.patterns.push_back({name_of(items[i]), pattern, {}, {}, {}});
  }
  train::Corpus corpus;
  std::optional<CoverageWork> covering;
  std::optional<train::ScoringPlan> scoring;
  if (first_run != nullptr) {
    corpus = train::read_corpus(train::corpus_of(first_run->settings));
    for (const train::LoadedRun* one : all_runs) {
      if (one->position.fingerprint != corpus.fingerprint) {
        throw Error(
            "the runs were not trained on one text, or it has changed since, so their bits per byte do not compare; "
            "train them on the same files");
      }
    }
    if (!dense.empty()) covering = coverage_work(comparison, corpus.held_out);
    if (all_runs.size() > (dense.empty() ? 0u : 1u)) scoring = scoring_plan(comparison, corpus.held_out);
  }
  // All that can be refused is; from here on it is work.
  if (dense_run) check_sees_all(pattern_of(dense_run->model), comparison.len, comparison.kv_heads);
  for (ComparedPattern& entry : comparison.patterns) {
    entry.reach = reach(entry.pattern, comparison.len, comparison.kv_heads);
  }
  if (covering) cover(comparison, *covering, corpus.held_out);
  if (scoring) score(comparison, runs, *scoring, corpus.held_out);
  if (!picture.empty()) picture::write_picture(picture, comparison_picture(comparison));
  if (json) {
    std::cout << core::json_text(comparison_json(comparison)) << "\n";
  } else {
    std::cout << machine_words(comparison.machine) << "\n" << comparison_text(comparison);
    if (!picture.empty()) std::cout << "wrote " << picture << "\n";
  }
  return kOk;
}

}  // namespace

void add_compare(CLI::App& app, int& exit_code) {
  CLI::App* sub = app.add_subcommand("compare", "Which patterns reach what: computed pairs, layers, attention, bits");
  auto command = std::make_shared<CompareCommand>();
  CompareCommand& c = *command;
  sub->add_option("PATTERN", c.items, "folders of runs, files of patterns, or patterns' JSON")->required();
  sub->add_option("--dense", c.dense, "a run that sees everything, whose attention the patterns are held against")
      ->check(not_empty());
  add(*sub, "--len", c.len, "tokens; 4k means 4096 [the context of the runs, or 2048]", token_count(1));
  add(*sub, "--heads", c.heads, "KV heads, where there is no run [4]", whole_number(1, kMostHeads));
  add(*sub, "--heaviest", c.share, "the share of a query's keys that are called its heaviest, at least one key",
      positive_number(1))
      ->capture_default_str();
  const CLI::Validator windows = whole_number(1, kMostWindows);
  add(*sub, "--coverage-windows", c.coverage_windows, "windows for the attention of --dense", windows)
      ->capture_default_str();
  add(*sub, "--windows", c.windows, "windows to score at most, spread evenly over the held-out text", windows)
      ->capture_default_str();
  add(*sub, "--scored", c.scored, "bytes scored at the end of each window [half of --len]", token_count(1));
  add(*sub, "--threads", c.threads, "threads to compute with [LibTorch's choice]", whole_number(1, kMostThreads));
  sub->add_option("--picture", c.picture, "write the table as a picture: FILE.svg or FILE.png")->check(output_file());
  sub->add_flag("--json", c.json, "print JSON instead of the table");
  sub->add_flag("--quiet", c.quiet, "no progress");
  sub->footer(kFooter);
  sub->callback([command, &exit_code] { exit_code = command->run(); });
}

}  // namespace longstride::cli
