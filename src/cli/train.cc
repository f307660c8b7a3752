// `longstride train`: reads the command line into settings and a sitting, and shows what longstride/train.h tells.
#include "longstride/train.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "commands.h"
#include "core/json.h"
#include "interrupt.h"
#include "longstride/error.h"
#include "longstride/pattern/flat.h"
#include "longstride/pattern/json.h"
#include "options.h"
#include "pattern_options.h"
#include "progress_line.h"
#include "rank_groups.h"
#include "standard_streams.h"
#include "train/checkpoint_store.h"
#include "train/ranks.h"
#include "train/settings.h"
#include "train_report.h"

namespace longstride::cli {
namespace {

constexpr double kMostRankTimeout = 1e6;  // seconds

constexpr const char* kFooter = R"(Examples:
  longstride train ~/src --ext py --minutes 10
  longstride train book.txt --context 65536 --checkpoint-activations --precision bf16 --steps 500 --out runs/book
  longstride train --preset demo /usr/lib/python3 --ext py --out runs/demo
  longstride train --resume runs/demo --minutes 10
  torchrun --nproc-per-node 2 --no-python longstride train ~/src --batch 8 --steps 500 --out runs/two
  torchrun --nproc-per-node 4 --no-python longstride train ~/src --context-parallel 4 --context 262144 --steps 500
  torchrun --nproc-per-node 2 --no-python longstride train ~/src --device cuda --batch 8 --steps 500

Text is read as bytes. Folders are read to any depth; hidden entries, symbolic links and binary files are passed over.
A share of the files, chosen by the hash of their names, is held out (of a single file, its tail) and never trained on.

A checkpoint is a folder OUT/step-N, written beside and then named by the link OUT/latest in one rename. Ctrl-C saves
and stops with exit code 130, a second Ctrl-C kills. --resume goes on bit for bit on the same build, machine and number
of threads (on a GPU within rounding): weights, AdamW, schedule, data position, generators. A checkpoint OUT/step-N goes on only as the newest of
its run; an older one branches off with --resume OUT/step-N --out ANOTHER, which leaves OUT as it is. The learning rate is a function of the share of the
budget that is spent: of --steps, or of --minutes of training time summed over all sittings. With --minutes the clock
decides, so only a budget of --steps repeats bit for bit. A budget given with --resume replaces the old one, and
the rate goes on at the share that is spent of the new one.

Several processes (ranks) train one model where torchrun, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, says so. Each
--context-parallel of them share a sequence, so that a context takes as much less memory of each; such sets share out the samples.
A step is that of one process within rounding; --batch is that of all ranks and must be a multiple of the number of sets. All
read the text, and what is resumed; rank 0 alone writes and shows anything. What was saved on some ranks goes on on any
number of them. When a rank ends, the others do, and say which it was.

Presets (single options given beside them win):
)";

// Command line of train. Settings that are given go into `given` under their JSON names, so that defaults, preset,
// config file and command line can be laid over each other in this order.
struct TrainCommand {
  TrainSitting sitting;
  core::Json given = core::Json::object();
  std::optional<int64_t> window;  // what --window and --sinks say
  std::optional<int64_t> sinks;
  std::string preset_name;
  std::string config_path;
  std::string out = "longstride-run";
  CLI::Option* out_option = nullptr;
  std::string resume;
  int64_t context_parallel = 1;
  double rank_timeout = 600;
  bool json = false;   // the summary as JSON on stdout
  bool quiet = false;  // no progress

  // An option of a setting: its name in JSON has '_' for '-'.
  template <class T>
  CLI::Option* given_option(CLI::App& app, const std::string& name, const std::string& help) {
    std::string key = name;
    std::ranges::replace(key, '-', '_');
    return app.add_option_function<T>(
        "--" + name, [this, key](const T& value) { given[key] = value; }, help);
  }
  template <class T>
  CLI::Option* setting(CLI::App& app, const std::string& name, const std::string& help, const T& shown_default) {
    return given_option<T>(app, name, fmt::format("{} [{}]", help, shown_default));
  }
  // Numbers: their ranges are those of the settings, which come from files too (TrainSettings::validate).
  void whole_setting(CLI::App& app, const std::string& name, const std::string& help, int64_t shown_default) {
    setting<int64_t>(app, name, help, shown_default)->transform(any_whole());
  }
  void real_setting(CLI::App& app, const std::string& name, const std::string& help, double shown_default) {
    setting<double>(app, name, help, shown_default)->transform(any_real());
  }
  static CLI::Validator any_whole() { return whole_number(kLeastWhole, kMostWhole); }
  static CLI::Validator any_real() {
    constexpr double kMost = std::numeric_limits<double>::max();
    return real_number(-kMost, kMost);
  }
  void list(CLI::App& app, const std::string& name, const std::string& help) {
    given_option<std::vector<int64_t>>(app, name, help)->delimiter(',')->transform(any_whole());
  }
  void flag(CLI::App& app, const std::string& name, const std::string& help) {
    std::string key = name;
    std::ranges::replace(key, '-', '_');
    app.add_flag_callback(
        "--" + name, [this, key] { given[key] = true; }, help);
  }

  void add_text(CLI::App& app);
  void add_model(CLI::App& app);
  void add_training(CLI::App& app);
  void add_sitting(CLI::App& app);
  core::Json completed(core::Json config) const;
  TrainSettings read_settings();  // and what of the sitting goes with them
  TrainSummary train_and_show(const TrainSettings& settings) const;
  int run();
};

void TrainCommand::add_text(CLI::App& app) {
  using Strings = std::vector<std::string>;
  app.add_option_function<Strings>(
      "PATH", [this](const Strings& paths) { given["data"] = paths; }, "files and folders of text");
  given_option<Strings>(app, "ext", "only files ending so, such as py,md [all text files]")->delimiter(',');
  auto* held = given_option<Strings>(app, "held-out", "files and folders to hold out, in place of a share");
  given_option<double>(app, "held-out-share", "share of the files to hold out [0.05]")
      ->transform(any_real())
      ->excludes(held);
}

core::Json parsed(const std::string& text) {
  core::Json json = core::parse_json("--pattern", text);
  if (!json.is_object() || json.empty()) throw Error("--pattern is not a JSON object with a pattern in it");
  return json;
}

void TrainCommand::add_model(CLI::App& app) {
  const TrainSettings d;
  const MultiheadDilatedAttentionOptions& attention = d.model.layer.attention;
  const FlatPattern pattern_fields(attention.attention.pattern);
  whole_setting(app, "dim", "width of the model", attention.embed_dim);
  whole_setting(app, "layers", "transformer layers", d.model.layers);
  whole_setting(app, "heads", "query heads; divide dim", attention.num_heads);
  given_option<int64_t>(app, "kv-heads", "key and value heads; divide heads [heads]")->transform(any_whole());
  given_option<int64_t>(app, "feed-forward", "width of the feed-forward layers [4 dim]")->transform(any_whole());
  list(app, "segments",
       fmt::format("segment lengths of attention, in bytes [{}]", fmt::join(pattern_fields.segment_lengths, ",")));
  list(app, "rates",
       fmt::format("dilation rates, one per segment length [{}]", fmt::join(pattern_fields.dilation_rates, ",")));
  CLI::Option* pattern = app.add_option_function<std::string>(
      "--pattern", [this](const std::string& value) { given["pattern"] = parsed(pattern_text(value)); },
      "who sees whom, as a pattern's JSON or a file of it, in place of segments and rates; see 'longstride show'");
  pattern->check(not_empty());
  CLI::Option* sliding =
      add(app, "--window", window, "a sliding window of so many bytes before each one, in place of segments and rates",
          token_count(0))
          ->excludes(pattern);
  for (CLI::Option* one : {pattern, sliding}) {
    for (const char* other : {"--segments", "--rates"}) one->excludes(app.get_option(other));
  }
  add(app, "--sinks", sinks, "with --window: first bytes that all see beside it [0]", token_count(0))->needs(sliding);
  setting<std::string>(app, "positions", "rope, xpos, alibi or none", name(attention.positions.kind));
  real_setting(app, "rope-base", "base of the angles of rope and xpos", attention.positions.base);
  setting<std::string>(app, "activation", "of the feed-forward layers", d.model.layer.activation);
  flag(app, "qk-norm", "normalise queries and keys");
  flag(app, "tied-head", "the output layer shares the embedding's weights");
  real_setting(app, "dropout", "on the residual branches", d.model.layer.dropout);
  real_setting(app, "attention-dropout", "on the attention probabilities", attention.attention.attention_dropout);
}

void TrainCommand::add_training(CLI::App& app) {
  const TrainSettings d;
  whole_setting(app, "context", "bytes a sample, any number", d.context);
  whole_setting(app, "context-from",
                "the first context, which doubles up to --context over three quarters of the budget; 0: --context",
                d.context_from);
  whole_setting(app, "batch", "samples a forward", d.batch);
  whole_setting(app, "step-bytes",
                "while the context is short, more samples a forward, up to so many bytes; 0: --batch", d.step_bytes);
  whole_setting(app, "accumulate", "forwards a step, their gradients summed up", d.accumulate);
  given_option<int64_t>(app, "steps", "budget: optimizer steps")->transform(whole_number(1, kMostSteps));
  given_option<double>(app, "minutes", "budget: minutes of training")->transform(positive_number(train::kMostMinutes));
  real_setting(app, "lr", "peak learning rate of AdamW", d.lr);
  real_setting(app, "warmup", "share of the budget in which the rate climbs", d.warmup);
  real_setting(app, "lr-floor", "where the cosine ends, as a share of --lr", d.lr_floor);
  real_setting(app, "weight-decay", "AdamW's, on matrices", d.weight_decay);
  real_setting(app, "beta2", "AdamW's second moment", d.beta2);
  real_setting(app, "clip", "largest norm of the gradient; 0 does not clip", d.clip);
  setting<std::string>(app, "precision", "fp32, or bf16 (autocast; the weights stay fp32)", d.precision);
  flag(app, "checkpoint-activations", "recompute layers in the backward: less memory, about a third more time");
  setting<uint64_t>(app, "seed", "of the weights, the order of the text and dropout", d.seed)->transform(seed_number());
}

void TrainCommand::add_sitting(CLI::App& app) {
  out_option = app.add_option("--out", out, "folder for checkpoints")->capture_default_str();
  auto* resume_option =
      app.add_option("--resume", resume,
                     "go on with the run in this folder; with --out, go on from it or one of its steps elsewhere")
          ->check(not_empty());
  auto* preset_option =
      app.add_option("--preset", preset_name, "a named set of options, listed below")->check(not_empty());
  auto* config_option = app.add_option(
      "--config", config_path,
      "options from a JSON file: {\"dim\": 256, \"lr_floor\": 0.1, \"model\": {\"head_offset\": \"block\"}}; "
      "\"model\" takes the fields of the model's config that have no option");
  config_option->check(not_empty());
  resume_option->excludes(preset_option)->excludes(config_option);
  add_device(app, sitting.device, sitting.threads);
  const CLI::Validator steps = whole_number(0, kMostSteps);
  add(app, "--eval-every", sitting.eval_every, "steps between held-out evaluations [a tenth of the budget]", steps);
  add(app, "--eval-windows", sitting.eval_windows, "held-out windows of --context bytes; 0: none",
      whole_number(0, kMostWindows))
      ->capture_default_str();
  add(app, "--save-every", sitting.save_every, "steps between checkpoints [five minutes]", steps);
  add(app, "--keep", sitting.keep, "checkpoints to keep", whole_number(1, kMostSteps))->capture_default_str();
  add(app, "--stop-after", sitting.stop_after, "save and stop after so many steps of this sitting; the schedule stays",
      steps);
  add(app, "--context-parallel", context_parallel,
      "ranks that share each sequence; the others of a run share the samples", whole_number(1, kMostWhole))
      ->capture_default_str();
  add(app, "--rank-timeout", rank_timeout, "seconds after which ranks give up one that does not answer",
      positive_number(kMostRankTimeout))
      ->capture_default_str();
  app.add_option("--log", sitting.log, "write a JSON line an event: start, step, eval, save, end")
      ->check(output_file());
  app.add_flag("--json", json, "print the summary as JSON");
  app.add_flag("--quiet", quiet, "no progress");
}

core::Json read_config(const std::string& path) {
  const core::Json config = core::read_json("--config", path);
  if (!config.is_object()) throw Error(fmt::format("--config '{}' is not a JSON object", path));
  return core::with_bytes(config);
}

// Segments and rates are one pattern: where the file has one of them and the line the other, they belong together.
core::Json TrainCommand::completed(core::Json config) const {
  for (const auto& [half, other] : {std::pair{"segments", "rates"}, std::pair{"rates", "segments"}}) {
    if (config.contains(half) && !config.contains(other) && given.contains(other)) config[other] = given[other];
  }
  return config;
}

TrainSummary TrainCommand::train_and_show(const TrainSettings& settings) const {
  ProgressLine line(quiet);
  TrainStart start;
  TrainObserver observer;
  observer.should_stop = interrupted;
  observer.on_start = [&](const TrainStart& told) {
    start = told;
    note_interrupts();
    if (!quiet) show_start(start, sitting.eval_windows);
  };
  observer.on_step = [&](const TrainStep& step) { line.update(step.share, status_text(step, start)); };
  observer.on_evaluation = [&](const TrainEvaluation& evaluation) { line.note(evaluation_text(evaluation)); };
  observer.on_note = [](const std::string& words) { tell("note: {}", words); };
  TrainSummary summary = train_language_model(settings, sitting, observer);
  line.finish(false);
  return summary;
}

TrainSettings TrainCommand::read_settings() {
  TrainSettings settings;
  if (window) {
    const SlidingWindow rule{.left = *window, .sink_tokens = sinks.value_or(0)};
    const Pattern pattern = Pattern::block_sparse({{*fixed_block_size<SlidingWindow>(), rule}}, true);
    given["pattern"] = parsed(to_json(pattern));
  }
  sitting.run = out;
  if (!resume.empty()) {
    sitting.run = out_option->count() > 0 ? out : train::run_to_resume(resume).string();
    sitting.from = out_option->count() > 0 ? resume : sitting.run;
    sitting.changes = core::json_text(given);
  } else {
    if (!preset_name.empty()) settings = train::settings_of(train::preset(preset_name), settings);
    if (!config_path.empty()) settings = train::settings_of(completed(read_config(config_path)), settings);
    settings = train::settings_of(given, settings);
  }
  return settings;
}

int TrainCommand::run() {
  const RankPlace place = rank_place();
  quiet = quiet || place.rank != 0;
  sitting.device = device_of_rank(place, sitting.device);
  sitting.ranks = join_ranks(place, context_parallel, rank_timeout, sitting.device);
  const NcclScope nccl(sitting.ranks);
  TrainSettings settings;
  train::Ranks(sitting.ranks).together([&] { settings = read_settings(); });
  const TrainSummary summary = train_and_show(settings);
  const bool stopped = summary.status == "interrupted";
  if (stopped && !quiet) tell("interrupted; go on with: longstride train --resume {}", sitting.run);
  if (place.rank != 0) return stopped ? kInterrupted : kOk;
  if (json) {
    fmt::print("{}\n", core::json_text(train::json_of(summary)));
  } else {
    print_summary(summary);
  }
  return stopped ? kInterrupted : kOk;
}

}  // namespace

void add_train(CLI::App& app, int& exit_code) {
  CLI::App* sub = app.add_subcommand("train", "train a byte-level LongNet on files of text");
  auto command = std::make_shared<TrainCommand>();
  command->add_text(*sub);
  sub->option_defaults()->group("Model");
  command->add_model(*sub);
  sub->option_defaults()->group("Training");
  command->add_training(*sub);
  sub->option_defaults()->group("Run");
  command->add_sitting(*sub);
  sub->footer(kFooter + train::preset_list());
  sub->callback([command, &exit_code] { exit_code = command->run(); });
}

}  // namespace longstride::cli
