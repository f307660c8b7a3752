// The training loop: see longstride/train.h. Bit for bit: a step is a function of the weights, AdamW's state, the
// generator and the step's number alone (with a budget in minutes also of the clock, through the learning rate), and
// all of these are saved.
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <type_traits>

#include "core/json.h"
#include "core/writable.h"
#include "longstride/train.h"
#include "nn/json_fields.h"
#include "train/batches.h"
#include "train/device.h"
#include "train/optimizer.h"
#include "train/ranks.h"
#include "train/run_checkpoint.h"
#include "train/run_log.h"
#include "train/scoring.h"
#include "train/settings.h"

namespace longstride {
namespace train {
namespace {

namespace fs = std::filesystem;
using core::Json;

constexpr double kSaveSeconds = 300.0;  // between saves unless save_every says otherwise
constexpr int kEvaluations = 10;        // over the budget unless eval_every says otherwise

class Run {
 public:
  Run(TrainSettings settings, const TrainSitting& sitting, const TrainObserver& observer, const Ranks& ranks);
  TrainSummary go();

 private:
  void prepare();
  void prepare_fresh();
  void prepare_resumed();
  void announce();
  bool step();  // false: stopped between two forwards of a step, which is then as if it had never begun
  void evaluate();
  void save();
  TrainSummary summarize(const char* status);
  double own_seconds() const;
  double seconds() const { return ranks_.alone() ? own_seconds() : clock_; }
  double share() const { return progress(budget_of(settings_), position_.step, seconds()); }
  bool eval_due() const;
  bool save_due() const;
  bool stopped();
  void agree();
  core::Json in_common() const;

  TrainSettings settings_;
  const TrainSitting& sitting_;
  const TrainObserver& observer_;
  const Ranks& ranks_;
  at::Device device_ = at::kCPU;
  Corpus corpus_;
  std::vector<size_t> eval_starts_;
  std::unique_ptr<Batches> batches_;
  LongNetLM model_{nullptr};
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  RunPosition position_;
  std::unique_ptr<RunLog> log_;
  std::chrono::steady_clock::time_point began_;
  double seconds_before_ = 0.0;  // this sitting
  double clock_ = 0.0;           // the first rank's seconds when ranks last agreed
  double saved_at_ = 0.0;        // seconds() of the last save
  int64_t saved_step_ = -1;      // the step that `latest` names
  int64_t first_step_ = 0;       // of this sitting
  int64_t evaluated_step_ = -1;
  int64_t evaluations_ = 0;                                // tenths of the budget that are evaluated
  double step_seconds_ = 0.0;                              // moving mean
  double loss_ = std::nan(""), mean_loss_ = std::nan("");  // of the last step; moving mean
  double trained_seconds_ = 0.0;                           // in steps alone
  int64_t trained_bytes_ = 0;                              // this sitting
  int64_t threads_before_ = 0;
  bool stopped_ = false;
};

// What an observer is told, if it asks.
template <class... Given>
void tell(const std::function<void(Given...)>& listener, const std::type_identity_t<Given>&... given) {
  if (listener) listener(given...);
}

Run::Run(TrainSettings settings, const TrainSitting& sitting, const TrainObserver& observer, const Ranks& ranks)
    : settings_(std::move(settings)), sitting_(sitting), observer_(observer), ranks_(ranks) {
  ranks_.together([&] { prepare(); });
  ranks_.compare(in_common());
}

void Run::prepare() {
  device_ = use_device(sitting_.device);
  ranks_.check_device(device_);
  sitting_.resumed() ? prepare_resumed() : prepare_fresh();
  place(*model_, ranks_.context(), Ranks::kLayout);
  batches_ = std::make_unique<Batches>(corpus_.train, settings_, ranks_);
  if (sitting_.eval_windows > 0) {
    const size_t size = static_cast<size_t>(settings_.context) + 1;
    eval_starts_ = scoring_windows(corpus_.held_out, size, static_cast<size_t>(sitting_.eval_windows), true);
  }
  if (!sitting_.log.empty()) check_outside_checkpoints("--log", sitting_.log);
  log_ = std::make_unique<RunLog>(ranks_.first() ? sitting_.log : "", sitting_.resumed(), observer_.on_note);
}

// What ranks must have alike, or their steps are not parts of one. The text may lie elsewhere on each of their
// machines.
Json Run::in_common() const {
  Json all = json_of(settings_);
  for (const char* here : {"data", "ext", "held_out"}) all.erase(here);
  all["text"] = fmt::format("{:016x}", corpus_.fingerprint);
  all["step"] = position_.step;
  all["seconds"] = position_.seconds;
  all["threads"] = position_.threads;
  all["eval_every"] = sitting_.eval_every;
  all["eval_windows"] = sitting_.eval_windows;
  all["save_every"] = sitting_.save_every;
  all["stop_after"] = sitting_.stop_after;
  all["context_parallel"] = ranks_.context_size();
  all["device"] = c10::DeviceTypeName(device_.type(), /*lower_case=*/true);
  return all;
}

void Run::prepare_fresh() {
  settings_.validate();
  check_new_run(sitting_.run);
  if (ranks_.first()) core::check_output_folder("--out", sitting_.run);
  corpus_ = read_corpus(corpus_of(settings_));
  position_.fingerprint = corpus_.fingerprint;
  position_.threads = use_threads(sitting_.threads);
  torch::manual_seed(settings_.seed);
  model_ = LongNetLM(settings_.model);
  model_->to(device_);
  optimizer_ = std::make_unique<torch::optim::AdamW>(make_optimizer(model_, settings_));
}

void Run::prepare_resumed() {
  const Json changes = core::with_bytes(nn::parse_object("changes", sitting_.changes));
  for (const auto& [key, value] : changes.items()) {
    if (key != "steps" && key != "minutes" && key != "data") {
      throw Error(fmt::format("'{}' cannot be changed on --resume; it is fixed by the checkpoint", key));
    }
  }
  const bool branches_off = sitting_.run != sitting_.from;
  if (branches_off) check_new_run(sitting_.run);
  LoadedRun loaded = load_run(find_checkpoint(sitting_.from), device_);
  if (ranks_.first()) core::check_output_folder(branches_off ? "--out" : "--resume", sitting_.run);
  settings_ = settings_of(changes, loaded.settings);
  settings_.validate();
  position_ = loaded.position;
  corpus_ = read_corpus(corpus_of(settings_));
  if (corpus_.fingerprint != position_.fingerprint) {
    throw Error(
        "the text is not what the run was trained on (files were added, removed or edited), so it cannot go on where "
        "it was; bring the old text back or start another run");
  }
  threads_before_ = position_.threads;
  position_.threads = use_threads(sitting_.threads > 0 ? sitting_.threads : threads_before_);
  model_ = loaded.model;
  model_->config.activation_checkpointing = settings_.model.activation_checkpointing;
  optimizer_ = std::make_unique<torch::optim::AdamW>(make_optimizer(model_, settings_));
  restore_training(loaded, model_, *optimizer_);
  seconds_before_ = position_.seconds;
  if (!branches_off) saved_step_ = position_.step;
  evaluated_step_ = position_.step;
}

void Run::announce() {
  TrainStart start;
  start.step = position_.step;
  start.seconds = position_.seconds;
  for (const at::Tensor& parameter : model_->parameters()) start.parameters += parameter.numel();
  start.context = settings_.context;
  start.context_from = context_at(settings_.context_from, settings_.context, 0.0);
  start.bytes_per_step = settings_.bytes_per_step();
  start.budget_steps = settings_.steps;
  start.budget_minutes = settings_.minutes;
  start.train_bytes = static_cast<int64_t>(corpus_.train.bytes.size());
  start.train_files = static_cast<int64_t>(corpus_.train.documents.size());
  start.held_out_bytes = static_cast<int64_t>(corpus_.held_out.bytes.size());
  start.held_out_files = static_cast<int64_t>(corpus_.held_out.documents.size());
  start.eval_windows = static_cast<int64_t>(eval_starts_.size());
  start.threads = position_.threads;
  start.threads_before = threads_before_;
  start.machine = machine_line(model_->config, settings_.context, settings_.precision == "bf16", device_);
  start.ranks = ranks_.size();
  start.context_parallel = ranks_.context_size();
  tell(observer_.on_start, start);
  log_->write({{"event", sitting_.resumed() ? "resume" : "start"},
               {"step", start.step},
               {"parameters", start.parameters},
               {"machine", start.machine},
               {"ranks", start.ranks},
               {"context_parallel", start.context_parallel},
               {"train_bytes", start.train_bytes},
               {"held_out_bytes", start.held_out_bytes},
               {"settings", json_of(settings_)}});
}

// Once an observer has said so none is asked again. On several ranks all ask at the same places.
bool Run::stopped() {
  if (stopped_) return true;
  stopped_ = observer_.should_stop && observer_.should_stop();
  agree();
  return stopped_;
}

// Ranks stop together, and take the first one's clock, or learning rates and saves would differ.
void Run::agree() {
  if (ranks_.alone()) return;
  const at::Tensor all = ranks_.gathered(torch::tensor({stopped_ ? 1.0 : 0.0, own_seconds()}, torch::kDouble));
  stopped_ = all.select(1, 0).any().item<bool>();
  clock_ = all[0][1].item<double>();
}

double Run::own_seconds() const {
  return seconds_before_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
}

bool Run::step() {
  const auto start = std::chrono::steady_clock::now();
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  if (!ranks_.alone()) generator.set_current_seed(ranks_.seed(settings_.seed, position_.step));
  const at::Tensor generator_before = generator.get_state();
  seed_gpu(device_, ranks_.seed(settings_.seed, position_.step));
  const double begun = share();
  const double rate = learning_rate({settings_.lr, settings_.warmup, settings_.lr_floor}, begun);
  const int64_t context = context_at(settings_.context_from, settings_.context, begun);
  set_rate(*optimizer_, rate);
  optimizer_->zero_grad();
  double loss_sum = 0.0;  // of this rank's samples
  for (int64_t forward = 0; forward < settings_.accumulate; ++forward) {
    if (forward > 0 && stopped()) {
      generator.set_state(generator_before);
      return false;
    }
    const Batch batch = batches_->at(position_.step, forward, context);
    at::Tensor loss;
    {
      AutocastGuard autocast(settings_.precision == "bf16", device_.type());
      loss = model_->loss(batch.tokens.to(device_), batch.targets.to(device_), batch.call) * batch.share;
    }
    (loss / static_cast<double>(settings_.accumulate)).backward();
    loss_sum += loss.item<double>();
  }
  loss_ = ranks_.gathered(torch::tensor({loss_sum}, torch::kDouble)).sum().item<double>() /
          static_cast<double>(settings_.accumulate);
  ranks_.add_up(gradients(model_));
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
  agree();
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const int64_t bytes = context * batches_->rows(context) * settings_.accumulate;
  trained_seconds_ += took;
  trained_bytes_ += bytes;
  step_seconds_ = step_seconds_ == 0.0 ? took : 0.8 * step_seconds_ + 0.2 * took;
  mean_loss_ = std::isnan(mean_loss_) ? loss_ : 0.9 * mean_loss_ + 0.1 * loss_;
  log_->write({{"event", "step"},
               {"step", position_.step},
               {"loss", loss_},
               {"bits_per_byte", loss_ / std::numbers::ln2},
               {"lr", rate},
               {"gradient_norm", norm},
               {"context", context},
               {"bytes_per_second", static_cast<double>(bytes) / took},
               {"seconds", seconds()}});
  tell(observer_.on_step, {position_.step, context, loss_, mean_loss_, rate, norm, step_seconds_, seconds(), share(),
                           position_.held_out_latest});
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
  const std::vector<double> bits = window_bits(model_, corpus_.held_out, plan, ranks_, [&] { return !stopped(); });
  if (bits.empty()) return;
  position_.held_out_latest = mean_of(bits).value;
  if (position_.step == 0) position_.held_out_before = position_.held_out_latest;
  log_->write({{"event", "eval"},
               {"step", position_.step},
               {"held_out_bits_per_byte", *position_.held_out_latest},
               {"windows", bits.size()},
               {"seconds", seconds()}});
  TrainEvaluation evaluation{position_.step, seconds(), *position_.held_out_latest, {}};
  if (!std::isnan(mean_loss_)) evaluation.training = mean_loss_ / std::numbers::ln2;
  tell(observer_.on_evaluation, evaluation);
}

void Run::save() {
  if (saved_step_ == position_.step) return;
  position_.seconds = seconds();
  const fs::path checkpoint = fs::path(sitting_.run) / checkpoint_name(position_.step);
  ranks_.together([&] {
    if (ranks_.first()) save_run(sitting_.run, model_, *optimizer_, settings_, position_, sitting_.keep);
  });
  saved_step_ = position_.step;
  saved_at_ = seconds();
  log_->write(
      {{"event", "save"}, {"step", position_.step}, {"checkpoint", checkpoint.string()}, {"seconds", saved_at_}});
  tell(observer_.on_save, checkpoint.string());
}

bool Run::eval_due() const {
  if (sitting_.eval_every > 0) return position_.step % sitting_.eval_every == 0;
  return static_cast<int64_t>(share() * kEvaluations) > evaluations_;
}

bool Run::save_due() const {
  if (sitting_.save_every > 0) return position_.step % sitting_.save_every == 0;
  return seconds() - saved_at_ > kSaveSeconds;
}

TrainSummary Run::summarize(const char* status) {
  TrainSummary summary;
  summary.status = status;
  summary.steps = position_.step;
  summary.steps_this_sitting = position_.step - first_step_;
  summary.seconds = seconds();
  summary.loss = loss_;
  summary.held_out_before = position_.held_out_before;
  summary.held_out = position_.held_out_latest;
  summary.bytes_per_second = trained_seconds_ > 0.0 ? static_cast<double>(trained_bytes_) / trained_seconds_ : 0.0;
  summary.threads = position_.threads;
  summary.checkpoint = (fs::path(sitting_.run) / checkpoint_name(position_.step)).string();
  summary.peak_device_bytes = peak_bytes_on(device_);
  Json end = json_of(summary);
  end["event"] = "end";
  log_->write(end);
  summary.log_lines_dropped = log_->dropped();
  return summary;
}

TrainSummary Run::go() {
  model_->train();
  began_ = std::chrono::steady_clock::now();
  saved_at_ = clock_ = seconds_before_;
  first_step_ = position_.step;
  announce();
  const int64_t last_step =
      sitting_.stop_after > 0 ? position_.step + sitting_.stop_after : std::numeric_limits<int64_t>::max();
  if (sitting_.resumed()) evaluations_ = static_cast<int64_t>(share() * kEvaluations);
  if (!sitting_.resumed()) evaluate();
  while (share() < 1.0 && position_.step < last_step && !stopped()) {
    if (!step()) break;
    if (eval_due() && share() < 1.0 && !stopped()) evaluate();
    if (save_due()) save();
  }
  const bool finished = share() >= 1.0;
  if (!stopped()) evaluate();
  save();
  return summarize(finished ? "finished" : stopped() ? "interrupted" : "paused");
}

}  // namespace

}  // namespace train

TrainSummary train_language_model(const TrainSettings& settings, const TrainSitting& sitting,
                                  const TrainObserver& observer) {
  const train::Ranks ranks(sitting.ranks);
  try {
    return train::Run(settings, sitting, observer, ranks).go();
  } catch (const CommError& error) {
    throw CommError(ranks.roll_call() + error.what());
  } catch (const std::exception& error) {
    ranks.leave_word(error.what());
    throw;
  }
}

}  // namespace longstride
