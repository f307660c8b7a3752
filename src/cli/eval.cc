// `longstride eval`: bits per byte on held-out text as the context grows. Every context scores the same bytes, so the
// rows differ only in how far back the model could look.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "commands.h"
#include "core/json.h"
#include "longstride/error.h"
#include "options.h"
#include "picture/chart.h"
#include "progress_line.h"
#include "standard_streams.h"
#include "train/checkpoint_store.h"
#include "train/device.h"
#include "train/run_checkpoint.h"
#include "train/scoring.h"

namespace longstride::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  longstride eval runs/demo
  longstride eval runs/demo --contexts 1k,4k,16k,64k --windows 64 --curve curve.png
  longstride eval runs/demo other-project/ --ext py --json

CHECKPOINT is the folder of a run or one checkpoint in it. Without PATH, the text that the run held out is scored.
Each window ends in --scored bytes, which are scored once for every context: the model reads the last 1k, 2k, ... bytes
that end there. Windows lie within one file each; with --across-files they are cut from the files joined in order of
their names. 'gain' is how many bits a byte cost less than at the shortest context, window by window, with the
standard error of that mean; the curve's bars are that error.
)";

struct EvalCommand {
  std::string checkpoint;
  std::vector<std::string> paths;
  std::vector<std::string> extensions;
  std::vector<int64_t> contexts = {1024, 2048, 4096, 8192, 16384};
  int64_t scored = 1024;
  int64_t windows = 32;
  bool across_files = false;
  std::string precision = "fp32";
  std::string device = "cpu";
  int64_t threads = 0;
  std::string curve;
  bool json = false;
  bool quiet = false;

  int run();
};

struct Row {
  int64_t context = 0;
  std::vector<double> bits;
  train::Mean mean;
  train::Mean gain;  // over the first row, window by window
};

// The text that the run behind `checkpoint` held out, read again.
train::Text held_out_text(const std::filesystem::path& checkpoint, bool quiet) {
  if (!std::filesystem::exists(checkpoint / train::kStateFile)) {
    throw Error("this checkpoint does not say what text was held out; name files or folders to score");
  }
  const train::LoadedRun run = train::load_run(checkpoint);
  train::Corpus corpus = train::read_corpus(train::corpus_of(run.settings));
  if (corpus.held_out.bytes.empty()) throw Error("the run held nothing out; name files or folders to score");
  if (corpus.fingerprint != run.position.fingerprint && !quiet) {
    tell("note: the text has changed since the run, so some of what is scored may have been trained on");
  }
  return std::move(corpus.held_out);
}

std::string table(const std::vector<Row>& rows) {
  std::string text = fmt::format("{:>8}  {:>9}  {:>8}  {}\n", "context", "bits/byte", "+-", "gain over the first");
  for (const Row& row : rows) {
    text += fmt::format(
        "{:>8}  {:>9.4f}  {:>8.4f}  {}\n", picture::length_label(static_cast<double>(row.context)), row.mean.value,
        row.mean.standard_error,
        &row == &rows.front() ? "" : fmt::format("{:+.4f} +- {:.4f}", row.gain.value, row.gain.standard_error));
  }
  return text;
}

nlohmann::json rows_json(const std::vector<Row>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& row : rows) {
    list.push_back({{"context", row.context},
                    {"bits_per_byte", row.mean.value},
                    {"standard_error", row.mean.standard_error},
                    {"gain", row.gain.value},
                    {"gain_standard_error", row.gain.standard_error}});
  }
  return list;
}

int EvalCommand::run() {
  const at::Device where = train::use_device(device);
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  if (!curve.empty()) picture::check_picture_path("--curve", curve);
  if (contexts.front() < scored) {
    throw Error(
        fmt::format("--contexts must be at least --scored, got {} and {}; the scored bytes are part of the context",
                    contexts.front(), scored));
  }
  const std::filesystem::path folder = train::find_checkpoint(checkpoint);
  train::use_threads(threads);
  LongNetLM model = train::load_model(folder);
  model->to(where);
  if (const int64_t most = model->config.layer.attention.positions.max_len; contexts.back() > most) {
    throw Error(fmt::format("--contexts must be at most the model's max_len of {}, got {}", most, contexts.back()));
  }
  const train::Text text =
      paths.empty() ? held_out_text(folder, quiet) : train::read_corpus({paths, extensions, {}, 0.0}).train;

  train::ScoringPlan plan;
  plan.window_bytes = contexts.back();
  plan.scored_bytes = scored;
  plan.bf16 = precision == "bf16";
  plan.starts = train::scoring_windows(text, static_cast<size_t>(contexts.back()) + 1, static_cast<size_t>(windows),
                                       across_files);
  if (plan.starts.empty()) {
    throw Error(fmt::format("no {} has {} bytes, which the longest of --contexts wants; {}",
                            across_files ? "text" : "file of the text", contexts.back() + 1,
                            across_files ? "give more text or shorter contexts"
                                         : "give longer files, shorter contexts, or --across-files"));
  }
  if (!quiet) {
    tell("{}", train::machine_line(model->config, contexts.back(), plan.bf16, where));
    tell("{} windows, the last {} bytes of each scored at every context", plan.starts.size(), scored);
  }

  ProgressLine line(quiet);
  double done = 0.0, total = 0.0;
  for (int64_t context : contexts) total += static_cast<double>(context * static_cast<int64_t>(plan.starts.size()));
  std::vector<Row> rows;
  for (int64_t context : contexts) {
    Row row;
    row.context = plan.context = context;
    row.bits = train::window_bits(model, text, plan, [&](size_t count) {
      line.update((done + static_cast<double>(context) * static_cast<double>(count)) / total,
                  fmt::format("context {}, window {} of {}", picture::length_label(static_cast<double>(context)), count,
                              plan.starts.size()));
      return true;
    });
    done += static_cast<double>(context) * static_cast<double>(plan.starts.size());
    row.mean = train::mean_of(row.bits);
    std::vector<double> gains;
    for (size_t i = 0; i < row.bits.size(); ++i)
      gains.push_back((rows.empty() ? row : rows.front()).bits[i] - row.bits[i]);
    row.gain = train::mean_of(gains);
    rows.push_back(row);
  }
  line.finish(false);

  if (!curve.empty()) {
    picture::Chart chart;
    chart.title = "Held-out bits per byte as the context grows";
    chart.subtitle =
        fmt::format("{} layers, dim {}; the last {} bytes of {} windows; bars: error of the difference to {}",
                    model->config.layers, model->config.layer.attention.embed_dim, scored, plan.starts.size(),
                    picture::length_label(static_cast<double>(contexts.front())));
    chart.x_label = "context (bytes)";
    chart.y_label = "bits per byte";
    chart.log_x = true;
    picture::ChartSeries series;
    for (const Row& row : rows) {
      series.x.push_back(static_cast<double>(row.context));
      series.y.push_back(row.mean.value);
      series.error.push_back(row.gain.standard_error);
    }
    chart.series.push_back(series);
    picture::write_picture(curve, picture::chart_picture(chart));
  }
  if (json) {
    fmt::print("{}\n", core::json_text({{"checkpoint", folder.string()},
                                        {"windows", plan.starts.size()},
                                        {"scored_bytes", scored},
                                        {"precision", precision},
                                        {"contexts", rows_json(rows)}}));
  } else {
    fmt::print("{}", table(rows));
    if (!curve.empty()) fmt::print("curve: {}\n", curve);
  }
  return kOk;
}

}  // namespace

void add_eval(CLI::App& app, int& exit_code) {
  CLI::App* sub = app.add_subcommand("eval", "score held-out text at growing contexts");
  auto command = std::make_shared<EvalCommand>();
  EvalCommand& c = *command;
  sub->add_option("CHECKPOINT", c.checkpoint, "folder of a run or of a checkpoint")->required();
  sub->add_option("PATH", c.paths, "files and folders to score [what the run held out]");
  sub->add_option("--ext", c.extensions, "only files ending so [all text files]")->delimiter(',');
  add(*sub, "--contexts", c.contexts, "contexts in bytes; 4k means 4096 [1k,2k,4k,8k,16k]", token_count(1))
      ->delimiter(',');
  add(*sub, "--scored", c.scored, "bytes scored at the end of each window", token_count(1))->capture_default_str();
  add(*sub, "--windows", c.windows, "windows at most, spread evenly over the text", whole_number(1, kMostWindows))
      ->capture_default_str();
  sub->add_flag("--across-files", c.across_files, "windows may span files");
  add_model_run(*sub, c.precision, c.device, c.threads);
  sub->add_option("--curve,--svg", c.curve, "write the curve as a picture: FILE.svg or FILE.png")->check(output_file());
  sub->add_flag("--json", c.json, "print the table as JSON");
  sub->add_flag("--quiet", c.quiet, "no progress");
  sub->footer(kFooter);
  sub->callback([command, &exit_code] { exit_code = command->run(); });
}

}  // namespace longstride::cli
