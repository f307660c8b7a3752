// Warm-up and cosine: see schedule.h.
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace longstride::train {

double progress(const Budget& budget, int64_t steps_done, double seconds) {
  if (budget.steps) return std::clamp(static_cast<double>(steps_done) / static_cast<double>(*budget.steps), 0.0, 1.0);
  return std::clamp(seconds / (60.0 * *budget.minutes), 0.0, 1.0);
}

double learning_rate(const Schedule& schedule, double progress) {
  // The first step must move something, so the climb starts above zero.
  constexpr double kStartShare = 0.02;
  if (progress < schedule.warmup_share) {
    return schedule.peak * (kStartShare + (1.0 - kStartShare) * progress / schedule.warmup_share);
  }
  const double along = (progress - schedule.warmup_share) / (1.0 - schedule.warmup_share);
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(along, 1.0)));
  return schedule.peak * (schedule.floor_share + (1.0 - schedule.floor_share) * cosine);
}

}  // namespace longstride::train
