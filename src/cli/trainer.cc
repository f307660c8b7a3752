// The training loop: see trainer.h. Bit for bit: a step is a function of the weights, AdamW's state, the generator and
// the step's number alone (with a budget in minutes also of the clock, through the learning rate), and all of these are
// saved.
#include "trainer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numbers>
#include <stdexcept>

#include "autocast_guard.h"
#include "chart.h"
#include "commands.h"
#include "interrupt.h"
#include "json_text.h"
#include "machine_line.h"
#include "output_file.h"
#include "progress_line.h"
#include "run_checkpoint.h"
#include "run_log.h"
#include "scoring.h"
#include "standard_error.h"

namespace longstride::cli {
namespace {

namespace fs = std::filesystem;

constexpr double kSaveSeconds = 300.0;  // between saves unless --save-every says otherwise
constexpr int kEvaluations = 10;        // over the budget unless --eval-every says otherwise

// Matrices decay; embeddings, norms and biases do not.
torch::optim::AdamW make_optimizer(LongNetLM& model, const TrainSettings& settings) {
  std::vector<at::Tensor> decayed, kept;
  for (const auto& item : model->named_parameters()) {
    const bool matrix = item.value().dim() >= 2 && item.key().rfind("embedding", 0) != 0;
    (matrix ? decayed : kept).push_back(item.value());
  }
  const auto options = [&](double decay) {
    auto group = std::make_unique<torch::optim::AdamWOptions>(settings.lr);
    group->betas({0.9, settings.beta2}).eps(1e-8).weight_decay(decay);
    return group;
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(decayed, options(settings.weight_decay));
  groups.emplace_back(kept, options(0.0));
  return torch::optim::AdamW(groups, torch::optim::AdamWOptions(settings.lr));
}

class Run {
 public:
  Run(TrainSettings settings, const Sitting& sitting);
  int go();

 private:
  void prepare_fresh();
  void prepare_resumed();
  void announce() const;
  bool step();  // false: Ctrl-C came between two forwards of a step, which is then as if it had never begun
  void evaluate();
  void save();
  int summarize(const char* status) const;
  double seconds() const;
  double share() const { return progress(settings_.budget(), position_.step, seconds()); }
  bool eval_due() const;
  bool save_due() const;
  std::string status_text(double loss) const;

  TrainSettings settings_;
  const Sitting& sitting_;
  Corpus corpus_;
  std::vector<size_t> eval_starts_;
  std::unique_ptr<WindowOrder> order_;
  LongNetLM model_{nullptr};
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  RunPosition position_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<ProgressLine> line_;

  std::chrono::steady_clock::time_point began_;
  double seconds_before_ = 0.0;  // this sitting
  double saved_at_ = 0.0;        // seconds() of the last save
  int64_t saved_step_ = -1;      // the step that `latest` names
  int64_t first_step_ = 0;       // of this sitting
  int64_t evaluated_step_ = -1;
  int64_t evaluations_ = 0;    // tenths of the budget that are evaluated
  double step_seconds_ = 0.0;  // moving mean
  double loss_ = std::numeric_limits<double>::quiet_NaN();
  double mean_loss_ = std::numeric_limits<double>::quiet_NaN();  // moving mean, for people
  double trained_seconds_ = 0.0;                                 // in steps alone
};

Run::Run(TrainSettings settings, const Sitting& sitting) : settings_(std::move(settings)), sitting_(sitting) {
  sitting_.resumed() ? prepare_resumed() : prepare_fresh();
  order_ = std::make_unique<WindowOrder>(corpus_.train.bytes.size(), settings_.context, settings_.seed);
  if (sitting_.eval_windows > 0) {
    const size_t size = static_cast<size_t>(settings_.context) + 1;
    eval_starts_ = scoring_windows(corpus_.held_out, size, static_cast<size_t>(sitting_.eval_windows), true);
  }
  if (!sitting_.log.empty()) check_outside_checkpoints("--log", sitting_.log);
  log_ = std::make_unique<RunLog>(sitting_.log, sitting_.resumed());
  line_ = std::make_unique<ProgressLine>(sitting_.quiet);
}

void Run::prepare_fresh() {
  settings_.validate();
  const LongNetLMConfig config = LongNetLMConfig::from_json(settings_.model_json());
  config.validate();
  check_new_run(sitting_.run);
  check_output_folder("--out", sitting_.run);
  corpus_ = read_corpus(settings_.corpus());
  position_.fingerprint = corpus_.fingerprint;
  position_.threads = use_threads(sitting_.threads);
  torch::manual_seed(settings_.seed);
  model_ = LongNetLM(config);
  optimizer_ = std::make_unique<torch::optim::AdamW>(make_optimizer(model_, settings_));
}

void Run::prepare_resumed() {
  for (const auto& [key, value] : sitting_.changes.items()) {
    if (!may_change_on_resume(key)) {
      throw Error(fmt::format("'{}' cannot be changed on --resume; it is fixed by the checkpoint", key));
    }
  }
  const bool branches_off = sitting_.run != sitting_.from;
  if (branches_off) check_new_run(sitting_.run);
  LoadedRun loaded = load_run(find_checkpoint(sitting_.from));
  check_output_folder(branches_off ? "--out" : "--resume", sitting_.run);
  settings_ = loaded.settings;
  settings_ = settings_from_json(sitting_.changes, settings_);
  settings_.validate();
  position_ = loaded.position;
  corpus_ = read_corpus(settings_.corpus());
  if (corpus_.fingerprint != position_.fingerprint) {
    throw Error(
        "the text is not what the run was trained on (files were added, removed or edited), so it cannot go on where "
        "it was; bring the old text back or start another run");
  }
  const int64_t threads_then = position_.threads;
  position_.threads = use_threads(sitting_.threads > 0 ? sitting_.threads : threads_then);
  if (position_.threads != threads_then && !sitting_.quiet) {
    tell("note: {} threads, the run had {}: it goes on, but not bit for bit", position_.threads, threads_then);
  }
  model_ = loaded.model;
  model_->config.activation_checkpointing = settings_.checkpoint_activations;
  optimizer_ = std::make_unique<torch::optim::AdamW>(make_optimizer(model_, settings_));
  restore_training(loaded, model_, *optimizer_);
  seconds_before_ = position_.seconds;
  if (!branches_off) saved_step_ = position_.step;
  evaluated_step_ = position_.step;
}

void Run::announce() const {
  int64_t parameters = 0;
  for (const at::Tensor& parameter : model_->parameters()) parameters += parameter.numel();
  const bool bf16 = settings_.precision == "bf16";
  const std::string machine = machine_line(model_->config, settings_.context, bf16);
  if (!sitting_.quiet) {
    tell("{}", machine);
    tell("{:.2f}M parameters, context {}, {} bytes a step; text {:.1f} MB in {} files, held out {:.1f} MB in {}",
         static_cast<double>(parameters) * 1e-6, length_label(static_cast<double>(settings_.context)),
         length_label(static_cast<double>(settings_.bytes_a_step())),
         static_cast<double>(corpus_.train.bytes.size()) * 1e-6, corpus_.train.documents.size(),
         static_cast<double>(corpus_.held_out.bytes.size()) * 1e-6, corpus_.held_out.documents.size());
    if (sitting_.eval_windows > 0 && eval_starts_.empty()) {
      tell("no held-out evaluation: the held-out text is shorter than the context");
    }
    if (sitting_.resumed()) {
      tell("resumed behind step {}, {} of training so far", position_.step, clock_text(position_.seconds));
    }
  }
  log_->write({{"event", sitting_.resumed() ? "resume" : "start"},
               {"step", position_.step},
               {"parameters", parameters},
               {"machine", machine},
               {"train_bytes", corpus_.train.bytes.size()},
               {"held_out_bytes", corpus_.held_out.bytes.size()},
               {"settings", to_json(settings_)}});
}

double Run::seconds() const {
  return seconds_before_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
}

bool Run::step() {
  const auto start = std::chrono::steady_clock::now();
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const at::Tensor generator_before = generator.get_state();
  const double rate = learning_rate(settings_.schedule(), share());
  for (auto& group : optimizer_->param_groups()) static_cast<torch::optim::AdamWOptions&>(group.options()).lr(rate);
  optimizer_->zero_grad();
  double loss_sum = 0.0;
  for (int64_t forward = 0; forward < settings_.accumulate; ++forward) {
    if (forward > 0 && interrupted()) {
      generator.set_state(generator_before);
      return false;
    }
    std::vector<size_t> starts;
    for (int64_t row = 0; row < settings_.batch; ++row) {
      starts.push_back(order_->start((position_.step * settings_.accumulate + forward) * settings_.batch + row));
    }
    const at::Tensor samples = byte_tensor(corpus_.train, starts, settings_.context + 1);  // [batch, context + 1]
    at::Tensor loss;
    {
      AutocastGuard autocast(settings_.precision == "bf16");
      loss = model_->loss(samples.slice(1, 0, settings_.context).contiguous(), samples.slice(1, 1).contiguous());
    }
    (loss / static_cast<double>(settings_.accumulate)).backward();
    loss_sum += loss.item<double>();
  }
  loss_ = loss_sum / static_cast<double>(settings_.accumulate);
  const double bound = settings_.clip > 0.0 ? settings_.clip : std::numeric_limits<double>::infinity();
  const double norm = torch::nn::utils::clip_grad_norm_(model_->parameters(), bound);
  if (!std::isfinite(loss_) || !std::isfinite(norm)) {
    throw std::runtime_error(
        fmt::format("step {}: the {} is not finite, so training stopped{}; try a lower --lr or --precision fp32",
                    position_.step + 1, std::isfinite(loss_) ? "gradient" : "loss",
                    saved_step_ >= 0 ? fmt::format("; the checkpoint of step {} is intact", saved_step_) : ""));
  }
  optimizer_->step();
  ++position_.step;
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  trained_seconds_ += took;
  step_seconds_ = step_seconds_ == 0.0 ? took : 0.8 * step_seconds_ + 0.2 * took;
  mean_loss_ = std::isnan(mean_loss_) ? loss_ : 0.9 * mean_loss_ + 0.1 * loss_;
  log_->write({{"event", "step"},
               {"step", position_.step},
               {"loss", loss_},
               {"bits_per_byte", loss_ / std::numbers::ln2},
               {"lr", rate},
               {"gradient_norm", norm},
               {"bytes_per_second", static_cast<double>(settings_.bytes_a_step()) / took},
               {"seconds", seconds()}});
  return true;
}

void Run::evaluate() {
  evaluations_ = static_cast<int64_t>(share() * kEvaluations);
  if (eval_starts_.empty() || evaluated_step_ == position_.step) return;
  evaluated_step_ = position_.step;
  ScoringPlan plan;
  plan.starts = eval_starts_;
  plan.window_bytes = plan.context = plan.scored_bytes = settings_.context;
  plan.bf16 = settings_.precision == "bf16";
  // Before the first step nobody should wait for an evaluation after Ctrl-C; its result is not part of the run's state.
  const std::vector<double> bits = window_bits(model_, corpus_.held_out, plan, [](size_t) { return !interrupted(); });
  if (bits.size() < eval_starts_.size()) return;
  position_.held_out_latest = mean_of(bits).value;
  if (position_.step == 0) position_.held_out_before = position_.held_out_latest;
  log_->write({{"event", "eval"},
               {"step", position_.step},
               {"held_out_bits_per_byte", *position_.held_out_latest},
               {"windows", bits.size()},
               {"seconds", seconds()}});
  line_->note(
      fmt::format("{:>8}  step {:<6} held out {:.3f} bits/byte{}", clock_text(seconds()), position_.step,
                  *position_.held_out_latest,
                  std::isnan(mean_loss_) ? "" : fmt::format("   training {:.3f}", mean_loss_ / std::numbers::ln2)));
}

void Run::save() {
  if (saved_step_ == position_.step) return;
  position_.seconds = seconds();
  const fs::path checkpoint = save_run(sitting_.run, model_, *optimizer_, settings_, position_, sitting_.keep);
  saved_step_ = position_.step;
  saved_at_ = seconds();
  log_->write(
      {{"event", "save"}, {"step", position_.step}, {"checkpoint", checkpoint.string()}, {"seconds", saved_at_}});
}

bool Run::eval_due() const {
  if (sitting_.eval_every > 0) return position_.step % sitting_.eval_every == 0;
  return static_cast<int64_t>(share() * kEvaluations) > evaluations_;
}

bool Run::save_due() const {
  if (sitting_.save_every > 0) return position_.step % sitting_.save_every == 0;
  return seconds() - saved_at_ > kSaveSeconds;
}

std::string Run::status_text(double loss) const {
  const double left = settings_.steps > 0 ? step_seconds_ * static_cast<double>(settings_.steps - position_.step)
                                          : 60.0 * settings_.minutes - seconds();
  // What matters least stands last, where a narrow terminal cuts it off.
  return fmt::format("{} left  step {}{}  loss {:.3f}  {:.3f} bits/byte  {}B/s{}", clock_text(left), position_.step,
                     settings_.steps > 0 ? fmt::format("/{}", settings_.steps) : "", loss, loss / std::numbers::ln2,
                     rate_text(static_cast<double>(settings_.bytes_a_step()) / step_seconds_),
                     position_.held_out_latest ? fmt::format("  held out {:.3f}", *position_.held_out_latest) : "");
}

int Run::summarize(const char* status) const {
  const int64_t bytes = (position_.step - first_step_) * settings_.bytes_a_step();
  const double speed = trained_seconds_ > 0.0 ? static_cast<double>(bytes) / trained_seconds_ : 0.0;
  const fs::path checkpoint = fs::path(sitting_.run) / checkpoint_name(position_.step);
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
  };
  const auto maybe = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
  };
  nlohmann::json summary = {{"status", status},
                            {"steps", position_.step},
                            {"steps_this_sitting", position_.step - first_step_},
                            {"seconds", seconds()},
                            {"loss", number(loss_)},
                            {"bits_per_byte", number(loss_ / std::numbers::ln2)},
                            {"held_out_bits_per_byte_before", maybe(position_.held_out_before)},
                            {"held_out_bits_per_byte", maybe(position_.held_out_latest)},
                            {"bytes_per_second", speed},
                            {"threads", position_.threads},
                            {"peak_memory_bytes", peak_memory_bytes()},
                            {"checkpoint", checkpoint.string()}};
  nlohmann::json end = summary;
  end["event"] = "end";
  log_->write(end);
  if (log_->dropped() > 0) summary["log_lines_dropped"] = log_->dropped();
  if (sitting_.json) {
    fmt::print("{}\n", json_text(summary));
    return kOk;
  }
  fmt::print("{} behind step {}: {} of training in all, {}B/s, peak memory {:.2f} GiB\n", status, position_.step,
             clock_text(seconds()), rate_text(speed), static_cast<double>(peak_memory_bytes()) / (1 << 30));
  if (position_.held_out_latest) {
    fmt::print("held-out bits per byte: {}{:.3f}\n",
               position_.held_out_before ? fmt::format("{:.3f} -> ", *position_.held_out_before) : "",
               *position_.held_out_latest);
  }
  fmt::print("checkpoint: {}\n", checkpoint.string());
  if (log_->dropped() > 0) fmt::print("log: {} lines could not be written\n", log_->dropped());
  return kOk;
}

int Run::go() {
  note_interrupts();
  model_->train();
  began_ = std::chrono::steady_clock::now();
  saved_at_ = seconds_before_;
  first_step_ = position_.step;
  announce();
  const int64_t last_step =
      sitting_.stop_after > 0 ? position_.step + sitting_.stop_after : std::numeric_limits<int64_t>::max();
  if (sitting_.resumed()) evaluations_ = static_cast<int64_t>(share() * kEvaluations);
  if (!sitting_.resumed()) evaluate();
  while (share() < 1.0 && position_.step < last_step && !interrupted()) {
    if (!step()) break;
    line_->update(share(), status_text(mean_loss_));
    if (eval_due() && share() < 1.0 && !interrupted()) evaluate();
    if (save_due()) save();
  }
  const bool finished = share() >= 1.0;
  if (!interrupted()) evaluate();
  line_->finish(false);
  save();
  if (interrupted() && !finished) {
    if (!sitting_.quiet) tell("interrupted; go on with: longstride train --resume {}", sitting_.run);
    summarize("interrupted");
    return kInterrupted;
  }
  return summarize(finished ? "finished" : "paused");
}

}  // namespace

bool may_change_on_resume(const std::string& setting) {
  return setting == "steps" || setting == "minutes" || setting == "data";
}

int train(const TrainSettings& settings, const Sitting& sitting) {
  Run run(settings, sitting);
  return run.go();
}

}  // namespace longstride::cli
