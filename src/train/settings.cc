// Settings of a run, their JSON and the presets: each setting checked by its name and type, over a preset. And the JSON
// of its summary.
#include "train/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>
#include <utility>

#include "core/json.h"
#include "core/limits.h"
#include "core/refuse.h"
#include "longstride/pattern/flat.h"
#include "longstride/pattern/json.h"
#include "nn/json_fields.h"
#include "train/device.h"
#include "train/schedule.h"

namespace longstride {
namespace train {
namespace {

using core::Json;

struct Preset {
  const char* name;
  const char* purpose;
  const char* settings;
};

constexpr Preset kPresets[] = {
    {"demo", "two minutes on two cores, up to a context of 16,384 bytes", R"({
      "dim": 96, "layers": 2, "heads": 3, "positions": "alibi", "context_from": 512, "context": 16384,
      "step_bytes": 2048, "minutes": 2, "lr": 5e-3, "warmup": 0.1, "lr_floor": 0.1, "held_out_share": 0.1,
      "segments": [512, 1024, 16384], "rates": [1, 1, 1],
      "model": {"mixing": "head_partition", "alibi_slopes": [0.5, 0.1, 2e-4]}})"},
    {"long", "half an hour on one core; then a longer context lowers the bits per byte", R"({
      "dim": 128, "layers": 3, "heads": 4, "segments": [1024, 2048, 4096, 16384], "rates": [1, 1, 1, 1],
      "context": 16384, "steps": 1400, "lr": 4e-3, "warmup": 0.1, "precision": "bf16", "held_out_share": 0.1,
      "model": {"mixing": "head_partition"}})"},
};

// The fields of the model that are settings of their own: their names there and here.
constexpr std::array<std::pair<const char*, const char*>, 15> kModelSettings = {
    {{"dim", "dim"},
     {"layers", "layers"},
     {"heads", "heads"},
     {"kv_heads", "kv_heads"},
     {"dim_feedforward", "feed_forward"},
     {"segment_lengths", "segments"},
     {"dilation_rates", "rates"},
     {"positions", "positions"},
     {"rope_base", "rope_base"},
     {"activation", "activation"},
     {"qk_norm", "qk_norm"},
     {"tied_head", "tied_head"},
     {"dropout", "dropout"},
     {"attention_dropout", "attention_dropout"},
     {"activation_checkpointing", "checkpoint_activations"}}};

// The others.
template <class Self, class Visit>
void visit_own(Self& s, Visit&& visit) {
  visit("data", s.data);
  visit("ext", s.ext);
  visit("held_out", s.held_out);
  visit("held_out_share", s.held_out_share);
  visit("context", s.context);
  visit("context_from", s.context_from);
  visit("batch", s.batch);
  visit("step_bytes", s.step_bytes);
  visit("accumulate", s.accumulate);
  visit("steps", s.steps);
  visit("minutes", s.minutes);
  visit("lr", s.lr);
  visit("warmup", s.warmup);
  visit("lr_floor", s.lr_floor);
  visit("weight_decay", s.weight_decay);
  visit("beta2", s.beta2);
  visit("clip", s.clip);
  visit("precision", s.precision);
  visit("seed", s.seed);
}

// Unless it is said. The caches of attention and positions are sized by what is used, not by max_len; four times the
// training context leaves room to score and to generate beyond it.
int64_t default_max_len(int64_t context) {
  return std::max(int64_t{1} << 20, 4 * std::min(context, core::kMostTokens));
}

int64_t& max_len(TrainSettings& settings) { return settings.model.layer.attention.positions.max_len; }

// Of fields of the model, by their names there: what they are to be, and whose value it is in a message.
struct Said {
  std::string name;
  Json value;
};
using ModelFields = std::map<std::string, Said>;

// A pattern says all of its fields, also those that it has by default.
void say_pattern(const Json& given, ModelFields& said) {
  const Pattern pattern = pattern_from_json(core::json_text(given));
  if (!pattern.causal()) throw Error("--pattern must have \"causal\": true: a language model sees no later byte");
  const FlatPattern flat(pattern);
  FlatPattern::fields(flat, [&](const char* key, const auto& field) { said[key] = {"--pattern", nn::written(field)}; });
}

// "model": the fields that have no setting and are not said otherwise.
void say_others(const Json& given, const LongNetLMConfig& model, bool has_pattern, ModelFields& said) {
  std::vector<std::string> known;
  LongNetLMConfig::fields(model, [&](const char* key, const auto&) { known.emplace_back(key); });
  nn::refuse_unknown_keys("config key", given, known);
  for (const auto& [key, value] : given.items()) {
    const bool own = std::any_of(kModelSettings.begin(), kModelSettings.end(),
                                 [&key = key](const auto& names) { return key == names.first; });
    if (own || key == "vocab" || (has_pattern && said.contains(key))) {
      throw Error(
          fmt::format("model.{} is said by a setting of its own or by the program; leave it out of \"model\"", key));
    }
    said[key] = {key, value};
  }
}

bool says(const Json& given, const char* key) { return given.contains(key) && !given[key].empty(); }

Json object_at(const Json& given, const char* key) {
  if (!given.contains(key)) return Json::object();
  if (!given[key].is_object()) {
    core::refuse(fmt::format("setting '{}'", key), "must be an object", core::shown(given[key]));
  }
  return given[key];
}

template <class T>
void require(bool holds, std::string key, const std::string& expected, const T& got) {
  for (char& c : key) c = c == '_' ? '-' : c;
  if (!holds) throw Error(fmt::format("--{} must be {}, got {}", key, expected, got));
}

struct WholeRange {
  const char* key;
  int64_t value, least, most;
};

// Ends of ranges: beyond any use, and within them no sum or product of settings leaves its type.
constexpr int64_t kMostWidth = int64_t{1} << 24;
constexpr int64_t kMostSamples = int64_t{1} << 20;  // a step
constexpr double kMostRate = 1000, kMostBase = 1e30;

}  // namespace

Budget budget_of(const TrainSettings& settings) {
  if (settings.steps > 0) return {.steps = settings.steps, .minutes = {}};
  return {.steps = {}, .minutes = settings.minutes};
}

CorpusOptions corpus_of(const TrainSettings& s) { return {s.data, s.ext, s.held_out, s.held_out_share}; }

Json json_of(const TrainSettings& settings) {
  Json json = Json::object();
  visit_own(settings, [&](const char* key, const auto& field) { json[key] = nn::written(field); });
  Json model = nn::json_of(settings.model), usual = nn::json_of(TrainSettings().model);
  usual["max_len"] = default_max_len(settings.context);
  json["pattern"] = Json::object();
  const Pattern& pattern = settings.model.layer.attention.attention.pattern;
  if (!pattern.blocks().empty()) {
    json["pattern"] = core::parse_json("pattern", longstride::to_json(pattern));
    const FlatPattern flat(pattern);
    FlatPattern::fields(flat, [&](const std::string& key, const auto&) {
      if (key == "segment_lengths" || key == "dilation_rates") {
        model[key] = Json::array();
      } else {
        model.erase(key);
      }
    });
  }
  for (const auto& [there, here] : kModelSettings) {
    json[here] = model[there];
    model.erase(there);
  }
  json["model"] = Json::object();
  for (const auto& [key, value] : model.items()) {
    if (value != usual[key]) json["model"][key] = value;
  }
  return json;
}

TrainSettings settings_of(const Json& given, TrainSettings settings) {
  if (!given.is_object()) throw Error("settings must be a JSON object of option names and values");
  std::vector<std::string> known = {"pattern", "model"};
  visit_own(std::as_const(settings), [&](const char* key, const auto&) { known.emplace_back(key); });
  for (const auto& [there, here] : kModelSettings) known.emplace_back(here);
  std::sort(known.begin(), known.end());
  nn::refuse_unknown_keys("setting", given, known);

  const bool usual_max_len = max_len(settings) == default_max_len(settings.context);
  visit_own(settings, [&](const char* key, auto& field) {
    if (given.contains(key)) nn::read(fmt::format("setting '{}'", key), given[key], field);
  });
  // One budget takes the place of the other; two at once are refused by validate().
  if (given.contains("steps") && !given.contains("minutes")) settings.minutes = 0.0;
  if (given.contains("minutes") && !given.contains("steps")) settings.steps = 0;

  ModelFields said;
  for (const auto& [there, here] : kModelSettings) {
    if (given.contains(here)) said[there] = {fmt::format("setting '{}'", here), given[here]};
  }
  // Neither are there two patterns: the one that is given clears the other.
  const Json pattern = object_at(given, "pattern");
  const bool groups = says(given, "segments") || says(given, "rates");
  if (!pattern.empty() && groups) throw Error("--pattern says segments and rates too; give one or the other");
  if (!pattern.empty()) say_pattern(pattern, said);
  if (groups) said["blocks"] = {"blocks", Json::array()};
  say_others(object_at(given, "model"), settings.model, !pattern.empty(), said);
  LongNetLMConfig::fields(settings.model, [&](const char* key, auto& field) {
    if (const auto found = said.find(key); found != said.end())
      nn::read(found->second.name, found->second.value, field);
  });
  // Slopes are of the heads that they were said with.
  if ((said.contains("heads") || said.contains("positions")) && !said.contains("alibi_slopes")) {
    settings.model.layer.attention.positions.alibi_slopes.clear();
  }
  if (usual_max_len && !said.contains("max_len")) max_len(settings) = default_max_len(settings.context);
  return settings;
}

Json json_of(const TrainSummary& summary) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  Json json = {{"status", summary.status},
               {"steps", summary.steps},
               {"steps_this_sitting", summary.steps_this_sitting},
               {"seconds", summary.seconds},
               {"loss", number(summary.loss)},
               {"bits_per_byte", number(summary.loss / std::numbers::ln2)},
               {"held_out_bits_per_byte_before", nn::written(summary.held_out_before)},
               {"held_out_bits_per_byte", nn::written(summary.held_out)},
               {"bytes_per_second", summary.bytes_per_second},
               {"threads", summary.threads},
               {"peak_memory_bytes", peak_memory_bytes()},
               {"checkpoint", summary.checkpoint}};
  if (summary.peak_device_bytes > 0) json["peak_device_bytes"] = summary.peak_device_bytes;
  if (summary.log_lines_dropped > 0) json["log_lines_dropped"] = summary.log_lines_dropped;
  return json;
}

Json preset(const std::string& name) {
  std::vector<std::string> known;
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return core::parse_json("preset", preset.settings);
    known.push_back(preset.name);
  }
  core::refuse_unknown("preset", name, known);
}

std::string preset_list() {
  std::string text;
  for (const Preset& preset : kPresets) text += fmt::format("  {:<6} {}\n", preset.name, preset.purpose);
  return text;
}

}  // namespace train

TrainSettings::TrainSettings() {
  model.layer.attention.attention.pattern =
      Pattern::dilated({1024, 4096, 16384, 65536}, {1, 4, 16, 64}, {.causal = true});
  model.layer.attention.positions.max_len = train::default_max_len(context);
}

std::string TrainSettings::to_json() const { return core::json_text(train::json_of(*this)); }

TrainSettings TrainSettings::from_json(std::string_view text, const TrainSettings& base) {
  return train::settings_of(core::with_bytes(core::parse_json("settings", text)), base);
}

void TrainSettings::validate() const {
  using namespace train;
  const MultiheadDilatedAttentionOptions& attention = model.layer.attention;
  if (data.empty()) throw Error("no text given; name files or folders to train on: longstride train PATH...");
  require(held_out_share >= 0.0 && held_out_share < 1.0, "held_out_share", "in [0, 1)", held_out_share);
  for (const auto& [key, value, least, most] : {WholeRange{"dim", attention.embed_dim, 1, kMostWidth},
                                                {"layers", model.layers, 1, 100'000},
                                                {"heads", attention.num_heads, 1, core::kMostHeads},
                                                {"kv_heads", attention.kv_heads, 0, core::kMostHeads},
                                                {"feed_forward", model.layer.dim_feedforward, 0, kMostWidth},
                                                {"context", context, 1, core::kMostTokens},
                                                {"context_from", context_from, 0, core::kMostTokens},
                                                {"batch", batch, 1, kMostSamples},
                                                {"step_bytes", step_bytes, 0, core::kMostTokens},
                                                {"accumulate", accumulate, 1, kMostSamples},
                                                {"steps", steps, 0, core::kMostSteps}}) {
    require(value >= least, key, fmt::format("at least {}", least), value);
    require(value <= most, key, fmt::format("at most {}", most), value);
  }
  const int64_t samples = samples_at(context_at(context_from, context, 0.0), batch, step_bytes);
  if (samples > kMostSamples / accumulate) {
    throw Error(
        fmt::format("--batch x --accumulate must be at most {} samples a step, got {} x {}; take a smaller one{}",
                    kMostSamples, samples, accumulate, samples > batch ? ", or less --step-bytes" : ""));
  }
  require(minutes >= 0.0 && minutes <= kMostMinutes, "minutes",
          fmt::format("a positive number of at most {}", kMostMinutes), minutes);
  if (steps == 0 && minutes == 0.0) throw Error("no budget given; add --steps N, --minutes M or a --preset");
  if (steps > 0 && minutes > 0.0) throw Error("--steps and --minutes are two budgets; give one of them");
  require(lr > 0.0 && lr <= kMostRate, "lr", fmt::format("a positive number of at most {}", kMostRate), lr);
  // In float32, in which the angles are taken.
  const double base = attention.positions.base;
  require(base > 0.0 && base <= kMostBase, "rope_base", fmt::format("a positive number of at most {}", kMostBase),
          base);
  require(warmup >= 0.0 && warmup < 1.0, "warmup", "in [0, 1), a share of the budget", warmup);
  require(lr_floor >= 0.0 && lr_floor <= 1.0, "lr_floor", "in [0, 1], a share of --lr", lr_floor);
  require(weight_decay >= 0.0 && weight_decay <= kMostRate, "weight_decay", fmt::format("from 0 to {}", kMostRate),
          weight_decay);
  require(beta2 >= 0.0 && beta2 < 1.0, "beta2", "in [0, 1)", beta2);
  require(clip >= 0.0 && clip <= kMostBase, "clip", fmt::format("from 0 to {}", kMostBase), clip);
  if (precision != "fp32" && precision != "bf16") {
    throw Error(fmt::format("unknown --precision '{}'; one of [fp32, bf16]", precision));
  }
  if (model.vocab != 256) core::refuse("vocab", "must be 256, for text is read as bytes", model.vocab);
  model.validate();
}

}  // namespace longstride
