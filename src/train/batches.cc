// Windows of the text as tensors (batches.h).
#include "train/batches.h"

#include <fmt/format.h>

#include "core/refuse.h"
#include "train/schedule.h"
#include "train/scoring.h"

namespace longstride::train {
namespace {

// What goes by positions in whole sequences asks that each rank has these of a share of the heads.
void check_heads(const MultiheadDilatedAttentionOptions& attention, int64_t ranks) {
  const int64_t kv_heads = attention.key_value_heads();
  if (kv_heads % ranks == 0) return;
  const auto refuse_with = [&](const char* option, const char* or_else) {
    core::refuse("--context-parallel",
                 fmt::format("must divide the {} heads of keys and values with {}", kv_heads, option), ranks,
                 fmt::format("take a divisor, a --kv-heads that it divides, or {}", or_else));
  };
  if (attention.positions.kind == Positions::kAlibi) refuse_with("--positions alibi", "other --positions");
  if (attention.attention.attention_dropout > 0) refuse_with("--attention-dropout", "--dropout in its place");
}

}  // namespace

Batches::Batches(const Text& text, const TrainSettings& settings, const Ranks& ranks)
    : text_(text), settings_(settings), ranks_(ranks), context_(settings.context) {
  if (settings.batch % ranks.parts() != 0) {
    core::refuse("--batch", fmt::format("must be a multiple of {}, among which samples are shared out", ranks.parts()),
                 settings.batch, "give a larger batch, or several ranks to each sequence by --context-parallel");
  }
  check_heads(settings.model.layer.attention, ranks.context_size());
  order_ = std::make_unique<WindowOrder>(text.bytes.size(), context_, settings.seed);
}

int64_t Batches::rows(int64_t context) const { return samples_at(context, settings_.batch, settings_.step_bytes); }

Batch Batches::at(int64_t step, int64_t forward, int64_t context) {
  if (context != context_) {
    order_ = std::make_unique<WindowOrder>(text_.bytes.size(), context, settings_.seed);
    context_ = context;
  }
  const int64_t all = rows(context);
  const int64_t begin = all * ranks_.part() / ranks_.parts(), end = all * (ranks_.part() + 1) / ranks_.parts();
  std::vector<size_t> starts;
  for (int64_t row = begin; row < end; ++row)
    starts.push_back(order_->start((step * settings_.accumulate + forward) * all + row));
  const at::Tensor samples = byte_tensor(text_, starts, context + 1);  // [rows, context + 1]
  return {ranks_.own(samples.slice(1, 0, context)), ranks_.own(samples.slice(1, 1)), ranks_.call(context),
          static_cast<double>(end - begin) / static_cast<double>(all)};
}

}  // namespace longstride::train
