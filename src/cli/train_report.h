// What train shows of a run: how it begins, each step, each evaluation, and the summary. Called by train.cc.
#pragma once

#include <cstdint>
#include <string>

#include "longstride/train.h"

namespace longstride::cli {

void show_start(const TrainStart& start, int64_t eval_windows);
std::string status_text(const TrainStep& step, const TrainStart& start);
std::string evaluation_text(const TrainEvaluation& evaluation);
void print_summary(const TrainSummary& summary);

}  // namespace longstride::cli
