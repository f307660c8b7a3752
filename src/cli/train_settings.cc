// Settings of a run, their JSON and the presets: see train_settings.h.
#include "train_settings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/json.h"
#include "core/refuse.h"
#include "json_text.h"
#include "longstride/error.h"
#include "longstride/pattern/json.h"
#include "number_options.h"

namespace longstride::cli {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainSettings, data, ext, held_out, held_out_share, dim, layers, heads, kv_heads,
                                   feed_forward, segments, rates, pattern, positions, rope_base, activation, qk_norm,
                                   tied_head, dropout, attention_dropout, model, context, batch, accumulate, steps,
                                   minutes, lr, warmup, lr_floor, weight_decay, beta2, clip, precision,
                                   checkpoint_activations, seed)

namespace {

struct Preset {
  const char* name;
  const char* purpose;
  const char* settings;
};

constexpr Preset kPresets[] = {
    {"demo", "two minutes on two cores at a context of 16,384 bytes", R"({
      "dim": 128, "layers": 2, "heads": 4, "segments": [64, 512, 4096, 16384], "rates": [1, 4, 16, 64],
      "rope_base": 100, "context": 16384, "minutes": 2, "lr": 8e-3, "warmup": 0.15, "held_out_share": 0.1})"},
    {"long", "half an hour on one core; then a longer context lowers the bits per byte", R"({
      "dim": 128, "layers": 3, "heads": 4, "segments": [1024, 2048, 4096, 16384], "rates": [1, 1, 1, 1],
      "context": 16384, "steps": 1400, "lr": 4e-3, "warmup": 0.1, "precision": "bf16", "held_out_share": 0.1,
      "model": {"mixing": "head_partition"}})"},
};

std::string option_name(std::string key) {
  for (char& c : key) c = c == '_' ? '-' : c;
  return "--" + key;
}

template <class T>
void require(bool holds, const char* key, const std::string& expected, const T& got) {
  if (!holds) throw Error(fmt::format("{} must be {}, got {}", option_name(key), expected, got));
}

// What a field takes, told by its default. nlohmann's own conversions round, wrap and clamp without a word.
struct Kind {
  const char* name;
  bool (*takes)(const nlohmann::json& value);
};

bool is_whole(const nlohmann::json& value) {
  return value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
}

template <bool (*kTakes)(const nlohmann::json&)>
bool is_list_of(const nlohmann::json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), kTakes);
}

bool is_word(const nlohmann::json& value) { return value.is_string(); }

Kind kind_of(const nlohmann::json& field) {
  if (field.is_number_unsigned()) {
    return {"an integer from 0 to 2^64 - 1", [](const nlohmann::json& value) { return value.is_number_unsigned(); }};
  }
  if (field.is_number_integer()) return {"an integer below 2^63", is_whole};
  if (field.is_number()) return {"a number", [](const nlohmann::json& value) { return value.is_number(); }};
  if (field.is_string()) return {"a word", is_word};
  if (field.is_boolean()) return {"true or false", [](const nlohmann::json& value) { return value.is_boolean(); }};
  if (field.is_object()) return {"an object", [](const nlohmann::json& value) { return value.is_object(); }};
  // Lists of words are empty by default.
  if (field.empty()) return {"a list of words", is_list_of<is_word>};
  return {"a list of integers below 2^63", is_list_of<is_whole>};
}
struct WholeRange {
  const char* key;
  int64_t value, least, most;
};

// Ends of ranges: beyond any use, and within them no sum or product of settings leaves its type.
constexpr int64_t kMostWidth = int64_t{1} << 24;
constexpr int64_t kMostSamples = int64_t{1} << 20;  // a step
constexpr double kMostRate = 1000, kMostBase = 1e30;

// The fields of LongNetLMConfig that say who sees whom.
nlohmann::json attention_fields(const nlohmann::json& given) {
  const Pattern pattern = pattern_from_json(json_text(given));
  if (!pattern.causal()) throw Error("--pattern must have \"causal\": true: a language model sees no later byte");
  const nlohmann::json said = core::parse_json("--pattern", longstride::to_json(pattern));
  nlohmann::json fields = {{"segment_lengths", nlohmann::json::array()},
                           {"dilation_rates", nlohmann::json::array()},
                           {"blocks", nlohmann::json::array()}};
  if (said.contains("dilated")) fields.update(said["dilated"]);
  if (said.contains("blocks")) fields["blocks"] = said["blocks"];
  return fields;
}

}  // namespace

Budget TrainSettings::budget() const {
  Budget budget;
  if (steps > 0) budget.steps = steps;
  if (steps <= 0) budget.minutes = minutes;
  return budget;
}

Schedule TrainSettings::schedule() const { return {lr, warmup, lr_floor}; }

CorpusOptions TrainSettings::corpus() const { return {data, ext, held_out, held_out_share}; }

std::string TrainSettings::model_json() const {
  // The caches of attention and positions are sized by what is used, not by max_len; four times the training context
  // leaves room to score and to generate beyond it.
  nlohmann::json json = {{"vocab", 256},
                         {"dim", dim},
                         {"layers", layers},
                         {"heads", heads},
                         {"kv_heads", kv_heads},
                         {"dim_feedforward", feed_forward},
                         {"positions", positions},
                         {"rope_base", rope_base},
                         {"activation", activation},
                         {"qk_norm", qk_norm},
                         {"tied_head", tied_head},
                         {"dropout", dropout},
                         {"attention_dropout", attention_dropout},
                         {"max_len", std::max<int64_t>(int64_t{1} << 20, 4 * context)},
                         {"activation_checkpointing", checkpoint_activations}};
  json.update(pattern.empty() ? nlohmann::json{{"segment_lengths", segments}, {"dilation_rates", rates}}
                              : attention_fields(pattern));
  for (const auto& [key, value] : model.items()) {
    if (json.contains(key) && key != "max_len") {
      throw Error(
          fmt::format("model.{} is said by a setting of its own or by the program; leave it out of \"model\"", key));
    }
    json[key] = value;
  }
  return json_text(json);
}

void TrainSettings::validate() const {
  if (data.empty()) throw Error("no text given; name files or folders to train on: longstride train PATH...");
  require(held_out_share >= 0.0 && held_out_share < 1.0, "held_out_share", "in [0, 1)", held_out_share);
  for (const auto& [key, value, least, most] : {WholeRange{"dim", dim, 1, kMostWidth},
                                                {"layers", layers, 1, 100'000},
                                                {"heads", heads, 1, kMostHeads},
                                                {"kv_heads", kv_heads, 0, kMostHeads},
                                                {"feed_forward", feed_forward, 0, kMostWidth},
                                                {"context", context, 1, kMostTokens},
                                                {"batch", batch, 1, kMostSamples},
                                                {"accumulate", accumulate, 1, kMostSamples},
                                                {"steps", steps, 0, kMostSteps}}) {
    require(value >= least, key, fmt::format("at least {}", least), value);
    require(value <= most, key, fmt::format("at most {}", most), value);
  }
  if (batch > kMostSamples / accumulate) {
    throw Error(fmt::format("--batch x --accumulate must be at most {} samples a step, got {} x {}; take a smaller one",
                            kMostSamples, batch, accumulate));
  }
  require(minutes >= 0.0 && minutes <= kMostMinutes, "minutes",
          fmt::format("a positive number of at most {}", kMostMinutes), minutes);
  if (steps == 0 && minutes == 0.0) throw Error("no budget given; add --steps N, --minutes M or a --preset");
  if (steps > 0 && minutes > 0.0) throw Error("--steps and --minutes are two budgets; give one of them");
  require(lr > 0.0 && lr <= kMostRate, "lr", fmt::format("a positive number of at most {}", kMostRate), lr);
  // In float32, in which the angles are taken.
  require(rope_base > 0.0 && rope_base <= kMostBase, "rope_base",
          fmt::format("a positive number of at most {}", kMostBase), rope_base);
  require(warmup >= 0.0 && warmup < 1.0, "warmup", "in [0, 1), a share of the budget", warmup);
  require(lr_floor >= 0.0 && lr_floor <= 1.0, "lr_floor", "in [0, 1], a share of --lr", lr_floor);
  require(weight_decay >= 0.0 && weight_decay <= kMostRate, "weight_decay", fmt::format("from 0 to {}", kMostRate),
          weight_decay);
  require(beta2 >= 0.0 && beta2 < 1.0, "beta2", "in [0, 1)", beta2);
  require(clip >= 0.0 && clip <= kMostBase, "clip", fmt::format("from 0 to {}", kMostBase), clip);
  if (precision != "fp32" && precision != "bf16") {
    throw Error(fmt::format("unknown --precision '{}'; one of [fp32, bf16]", precision));
  }
}

nlohmann::json to_json(const TrainSettings& settings) {
  nlohmann::json json;
  to_json(json, settings);
  return json;
}

TrainSettings settings_from_json(const nlohmann::json& given, const TrainSettings& base) {
  nlohmann::json all = to_json(base);
  const nlohmann::json defaults = to_json(TrainSettings());
  if (!given.is_object()) throw Error("settings must be a JSON object of option names and values");
  for (const auto& [key, value] : given.items()) {
    if (!all.contains(key)) {
      std::vector<std::string> known;
      for (const auto& item : all.items()) known.push_back(item.key());
      core::refuse_unknown("setting", key, known);
    }
    const Kind kind = kind_of(defaults[key]);
    if (!kind.takes(value)) {
      throw Error(fmt::format("setting '{}' must be {}, got {}", key, kind.name, core::shown(value)));
    }
    all[key] = value;
  }
  // One budget takes the place of the other; two at once are refused by validate().
  if (given.contains("steps") && !given.contains("minutes")) all["minutes"] = 0.0;
  if (given.contains("minutes") && !given.contains("steps")) all["steps"] = 0;
  // Neither are there two patterns: the one that is given clears the other.
  const auto said = [&](const char* key) { return given.contains(key) && !given[key].empty(); };
  const bool groups = said("segments") || said("rates");
  if (said("pattern") && groups) throw Error("--pattern says segments and rates too; give one or the other");
  if (said("pattern")) all["segments"] = all["rates"] = nlohmann::json::array();
  if (groups) all["pattern"] = nlohmann::json::object();
  TrainSettings settings;
  try {
    from_json(all, settings);
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("bad settings: {}", error.what()));
  }
  return settings;
}

nlohmann::json preset(const std::string& name) {
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

}  // namespace longstride::cli
