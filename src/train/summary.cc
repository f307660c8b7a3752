// The summary of a run as JSON (trainer.h).
#include <cmath>
#include <numbers>

#include "nn/json_fields.h"
#include "train/machine.h"
#include "train/trainer.h"

namespace longstride::train {

using core::Json;

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

}  // namespace longstride::train
