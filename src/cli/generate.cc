// `longstride generate`: continues a prompt byte by byte and prints it as it comes.
#include <fmt/format.h>
#include <torch/types.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <random>

#include "commands.h"
#include "core/files.h"
#include "core/json.h"
#include "core/text_stream.h"
#include "longstride/error.h"
#include "options.h"
#include "standard_streams.h"
#include "train/checkpoint_store.h"
#include "train/corpus.h"
#include "train/device.h"
#include "train/run_checkpoint.h"

namespace longstride::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  longstride generate runs/demo --prompt 'def main(' --length 400
  longstride generate runs/demo --prompt-file module.py --temperature 0.6 --top-p 0.95 --seed 7
  git show HEAD | longstride generate runs/demo --prompt-file - --raw > continued.txt

CHECKPOINT is the folder of a run or one checkpoint in it. Without a prompt the model begins a file. What is printed is
the continuation (with --echo behind the prompt): whole UTF-8 characters, other bytes as U+FFFD; --raw prints bytes as
they are. The same seed gives the same text on the same machine.
)";

struct GenerateCommand {
  std::string checkpoint;
  std::string prompt;
  std::string prompt_file;
  int64_t length = 512;
  double temperature = 0.8;
  int64_t top_k = 0;
  double top_p = 1.0;
  uint64_t seed = 0;
  bool seed_given = false;
  bool to_file_end = false;
  bool echo = false;
  bool raw = false;
  std::string precision = "fp32";
  std::string device = "cpu";
  int64_t threads = 0;
  bool json = false;
  bool quiet = false;

  int run();
  std::string prompt_bytes() const;
};

std::string GenerateCommand::prompt_bytes() const {
  if (prompt_file.empty()) return prompt;
  return prompt_file == "-" ? core::read_standard_input("--prompt-file")
                            : core::read_input("--prompt-file", prompt_file);
}

void print(const std::string& text) {
  if (text.empty()) return;
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

int GenerateCommand::run() {
  GenerateOptions options;
  options.max_tokens = length;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = seed_given ? seed : std::random_device{}();
  if (to_file_end) options.stop_token = static_cast<unsigned char>(train::kFileSeparator);
  options.validate();
  const at::Device where = train::use_device(device);
  const std::filesystem::path folder = train::find_checkpoint(checkpoint);
  const std::string given = prompt_bytes();
  train::use_threads(threads);
  LongNetLM model = train::load_model(folder);
  model->to(where);
  if (model->config.vocab != 256) {
    throw Error(fmt::format("'{}' is no model over bytes: its vocabulary has {} entries", folder.string(),
                            model->config.vocab));
  }
  const std::string read =
      given.empty() ? std::string(1, train::kFileSeparator) : given;  // a file begins behind a separator
  const int64_t longest = model->config.layer.attention.positions.max_len;
  if (static_cast<int64_t>(read.size()) > longest || length > longest - static_cast<int64_t>(read.size())) {
    throw Error(fmt::format("the prompt and --length must not exceed the model's max_len of {}, got {} and {}", longest,
                            read.size(), length));
  }
  model->eval();
  if (!quiet && !json) {
    tell("{}; seed {}",
         train::machine_line(model->config, static_cast<int64_t>(given.size()) + 1, precision == "bf16", where),
         *options.seed);
  }

  at::Tensor tokens = torch::empty({1, static_cast<int64_t>(read.size())}, torch::kInt64);
  for (size_t i = 0; i < read.size(); ++i) tokens[0][static_cast<int64_t>(i)] = static_cast<unsigned char>(read[i]);

  const bool stream = !json;
  if (stream && echo) print(raw ? given : core::readable(given));
  core::TextStream text;
  std::string bytes;
  const auto start = std::chrono::steady_clock::now();
  {
    train::AutocastGuard autocast(precision == "bf16", where.type());
    generate(model, tokens.to(where), options, [&](const std::vector<int64_t>& row) {
      if (options.stop_token && row[0] == *options.stop_token) return false;
      const unsigned char byte = static_cast<unsigned char>(row[0]);
      bytes.push_back(static_cast<char>(byte));
      if (stream) print(raw ? bytes.substr(bytes.size() - 1) : text.push(byte));
      return true;
    });
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (stream && !raw) print(text.flush() + "\n");
  if (json) {
    fmt::print("{}\n", core::json_text({{"checkpoint", folder.string()},
                                        {"prompt_bytes", given.size()},
                                        {"text", core::readable(bytes)},
                                        {"bytes", bytes.size()},
                                        {"seed", *options.seed},
                                        {"seconds", seconds}}));
  } else if (!quiet) {
    tell("{} bytes in {:.2f} s", bytes.size(), seconds);
  }
  return kOk;
}

}  // namespace

void add_generate(CLI::App& app, int& exit_code) {
  CLI::App* sub = app.add_subcommand("generate", "continue a prompt with a trained model");
  auto command = std::make_shared<GenerateCommand>();
  GenerateCommand& c = *command;
  sub->add_option("CHECKPOINT", c.checkpoint, "folder of a run or of a checkpoint")->required();
  auto* prompt = sub->add_option("--prompt", c.prompt, "text to continue");
  sub->add_option("--prompt-file", c.prompt_file, "file to continue; - is stdin")->check(not_empty())->excludes(prompt);
  add(*sub, "--length", c.length, "bytes to generate", whole_number(1, kMostTokens))->capture_default_str();
  add(*sub, "--temperature", c.temperature, "0 takes the likeliest byte", real_number(0, 1e6))->capture_default_str();
  add(*sub, "--top-k", c.top_k, "sample among the k likeliest; 0: all", whole_number(0, kMostWhole))
      ->capture_default_str();
  add(*sub, "--top-p", c.top_p, "sample among the likeliest that reach this mass", positive_number(1))
      ->capture_default_str();
  auto* seed = add(*sub, "--seed", c.seed, "of the sampling [drawn, and shown]", seed_number());
  sub->add_flag("--to-file-end", c.to_file_end, "stop where the model ends the file");
  sub->add_flag("--echo", c.echo, "print the prompt first");
  sub->add_flag("--raw", c.raw, "print bytes as they are");
  add_model_run(*sub, c.precision, c.device, c.threads);
  sub->add_flag("--json", c.json, "print one JSON object in place of the text");
  sub->add_flag("--quiet", c.quiet, "only the text");
  sub->footer(kFooter);
  sub->callback([command, seed, &exit_code] {
    command->seed_given = seed->count() > 0;
    exit_code = command->run();
  });
}

}  // namespace longstride::cli
