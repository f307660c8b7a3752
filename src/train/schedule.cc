// Warm-up, cosine and growing contexts, as functions of the share of the budget that is spent.
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

int64_t context_at(int64_t from, int64_t whole, double progress) {
  constexpr double kGrowingShare = 0.75;
  if (from == 0 || progress >= kGrowingShare) return whole;
  int64_t shorter = 0;  // contexts before the whole one
  for (int64_t context = from; context < whole; context *= 2) ++shorter;
  const auto doublings = static_cast<int64_t>(progress / kGrowingShare * static_cast<double>(shorter));
  return std::min(whole, from << doublings);
}

int64_t samples_at(int64_t context, int64_t batch, int64_t bytes) { return std::max(batch, bytes / context); }

}  // namespace longstride::train
