// The words of train (train_report.h).
#include "train_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "picture/chart.h"
#include "standard_streams.h"
#include "train/device.h"

namespace longstride::cli {
namespace {

double gibibytes(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

// "0:07", "12:34", "1:02:03".
std::string clock_text(double seconds) {
  const int64_t whole = std::max<int64_t>(0, std::llround(seconds));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

// "812", "7.9k", "1.2M".
std::string rate_text(double per_second) {
  if (per_second >= 1e6) return fmt::format("{:.1f}M", per_second / 1e6);
  if (per_second >= 1e3) return fmt::format("{:.1f}k", per_second / 1e3);
  return fmt::format("{:.0f}", per_second);
}

}  // namespace

void show_start(const TrainStart& start, int64_t eval_windows) {
  if (start.threads_before > 0 && start.threads != start.threads_before) {
    tell("note: {} threads, the run had {}: it goes on, but not bit for bit", start.threads, start.threads_before);
  }
  tell("{}", start.machine);
  const auto length = [](int64_t bytes) { return picture::length_label(static_cast<double>(bytes)); };
  const std::string from =
      start.context_from < start.context ? fmt::format("from {} to ", length(start.context_from)) : "";
  tell("{:.2f}M parameters, context {}{}, {} bytes a step; text {:.1f} MB in {} files, held out {:.1f} MB in {}",
       static_cast<double>(start.parameters) * 1e-6, from, length(start.context), length(start.bytes_per_step),
       static_cast<double>(start.train_bytes) * 1e-6, start.train_files,
       static_cast<double>(start.held_out_bytes) * 1e-6, start.held_out_files);
  if (eval_windows > 0 && start.eval_windows == 0) {
    tell("no held-out evaluation: the held-out text is shorter than the context");
  }
  if (start.ranks > 1) {
    tell("{} ranks: the samples of a step are cut in {}, each sequence in {}", start.ranks,
         start.ranks / start.context_parallel, start.context_parallel);
  }
  if (start.threads_before > 0) {
    tell("resumed behind step {}, {} of training so far", start.step, clock_text(start.seconds));
  }
}

std::string status_text(const TrainStep& step, const TrainStart& start) {
  const int64_t steps = start.budget_steps;
  const double left = steps > 0 ? step.step_seconds * static_cast<double>(steps - step.step)
                                : 60.0 * start.budget_minutes - step.seconds;
  // What matters least stands last, where a narrow terminal cuts it off.
  const int64_t bytes = start.bytes_per_step / start.context * step.context;
  return fmt::format("{} left  step {}{}  loss {:.3f}  {:.3f} bits/byte  {}B/s{}", clock_text(left), step.step,
                     steps > 0 ? fmt::format("/{}", steps) : "", step.mean_loss, step.mean_loss / std::numbers::ln2,
                     rate_text(static_cast<double>(bytes) / step.step_seconds),
                     step.held_out ? fmt::format("  held out {:.3f}", *step.held_out) : "");
}

std::string evaluation_text(const TrainEvaluation& evaluation) {
  return fmt::format("{:>8}  step {:<6} held out {:.3f} bits/byte{}", clock_text(evaluation.seconds), evaluation.step,
                     evaluation.held_out,
                     evaluation.training ? fmt::format("   training {:.3f}", *evaluation.training) : "");
}

void print_summary(const TrainSummary& summary) {
  fmt::print(
      "{} behind step {}: {} of training in all, {}B/s, peak memory {:.2f} GiB{}\n", summary.status, summary.steps,
      clock_text(summary.seconds), rate_text(summary.bytes_per_second), gibibytes(train::peak_memory_bytes()),
      summary.peak_device_bytes > 0 ? fmt::format(", of the GPU {:.2f}", gibibytes(summary.peak_device_bytes)) : "");
  if (summary.held_out) {
    fmt::print("held-out bits per byte: {}{:.3f}\n",
               summary.held_out_before ? fmt::format("{:.3f} -> ", *summary.held_out_before) : "", *summary.held_out);
  }
  fmt::print("checkpoint: {}\n", summary.checkpoint);
  if (summary.log_lines_dropped > 0) fmt::print("log: {} lines could not be written\n", summary.log_lines_dropped);
}

}  // namespace longstride::cli
