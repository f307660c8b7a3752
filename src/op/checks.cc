// The checks that need no tensor.
#include "op/checks.h"

#include <cmath>

namespace longstride::op::checks {

void check_settings(const Settings& settings) {
  if (settings.scale && !std::isfinite(*settings.scale)) refuse("scale", "must be finite", *settings.scale);
  if (!(settings.dropout_p >= 0 && settings.dropout_p < 1))
    refuse("dropout_p", "must be in [0, 1)", settings.dropout_p);
}

void check_without_seed(const Settings& settings) {
  if (settings.dropout_p > 0)
    refuse("dropout_seed", "must be given when dropout_p > 0", "none",
           "draw one with draw_dropout_seed(device), or torch.randint(2**63 - 1, (), dtype=torch.int64)");
}

void check_heads(std::optional<int64_t> kv_heads, const Pattern& pattern) {
  if (!kv_heads) return;
  const int64_t groups = std::ssize(pattern.groups());
  if (pattern.options().mixing == Mixing::kHeadPartition && *kv_heads < groups)
    refuse("heads of k and v", fmt::format("must be at least the number of groups, {}, under head_partition", groups),
           *kv_heads, "use fewer groups or mixing \"joint\", which has no such limit");
  // A table of the wrong size is refused when it is read.
  if (groups > 0) pattern.offset(0, 0, *kv_heads);
}

void check_gradient_of_slopes(bool wanted) {
  if (wanted)
    refuse("alibi_slopes", "must not require a gradient: they get none", "slopes that require one",
           "pass slopes.detach()");
}

void check_one_list(const Pattern& pattern) {
  const auto lists = std::ranges::count_if(pattern.blocks(), &BlockPattern::list);
  if (lists != 1) refuse("gates", "must belong to the pattern's one list", fmt::format("{} lists", lists));
}

}  // namespace longstride::op::checks
