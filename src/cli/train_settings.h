// What defines a training run: the text, the model, and how it is trained. A run's settings are saved with every
// checkpoint, and a resumed run takes them from there. Called by train, eval (to find the held-out text) and the
// checkpoints. Torch-free.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "corpus.h"
#include "schedule.h"

namespace longstride::cli {

constexpr double kMostMinutes = 1e7;  // 19 years

struct TrainSettings {
  // The text.
  std::vector<std::string> data;
  std::vector<std::string> ext;
  std::vector<std::string> held_out;
  double held_out_share = 0.05;
  // The model; see LongNetLMConfig.
  int64_t dim = 256;
  int64_t layers = 4;
  int64_t heads = 8;
  int64_t kv_heads = 0;
  int64_t feed_forward = 0;
  std::vector<int64_t> segments = {1024, 4096, 16384, 65536};
  std::vector<int64_t> rates = {1, 4, 16, 64};
  // Who sees whom as a pattern's JSON (longstride/pattern/json.h), block patterns among it, in place of segments and
  // rates; {}: unset.
  nlohmann::json pattern = nlohmann::json::object();
  std::string positions = "rope";
  double rope_base = 10000.0;
  std::string activation = "gelu";
  bool qk_norm = false;
  bool tied_head = false;
  double dropout = 0.0;
  double attention_dropout = 0.0;
  // Any other field of LongNetLMConfig, by its name there; one that is said above or is the program's to say is an
  // Error.
  nlohmann::json model = nlohmann::json::object();
  // The training.
  int64_t context = 16384;  // bytes a sample
  int64_t batch = 1;        // samples a forward
  int64_t accumulate = 1;   // forwards a step
  int64_t steps = 0;        // the budget: one of these two is > 0
  double minutes = 0.0;
  double lr = 3e-3;
  double warmup = 0.05;    // share of the budget
  double lr_floor = 0.05;  // share of lr
  double weight_decay = 0.1;
  double beta2 = 0.98;
  double clip = 1.0;  // of the gradient's norm; 0: none
  std::string precision = "fp32";
  bool checkpoint_activations = false;
  uint64_t seed = 1;

  int64_t bytes_a_step() const { return context * batch * accumulate; }
  Budget budget() const;
  Schedule schedule() const;
  CorpusOptions corpus() const;
  std::string model_json() const;  // what LongNetLMConfig::from_json reads
  void validate() const;           // throws Error naming the option; the model's own limits are LongNetLMConfig's
};

// Every field under its name. from_json takes `base` for fields that are not given and refuses unknown ones (Error).
nlohmann::json to_json(const TrainSettings& settings);
TrainSettings settings_from_json(const nlohmann::json& given, const TrainSettings& base = {});

// A named set of settings, as JSON. Throws Error with the names that exist.
nlohmann::json preset(const std::string& name);
std::string preset_list();  // one line each: name and what it is for

}  // namespace longstride::cli
