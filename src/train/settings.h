// The settings of a run (longstride/train.h) as the rest of this room has them: JSON values, presets, and the parts
// that others read. Called by the trainer, the checkpoints and `longstride train`.
#pragma once

#include <string>

#include "core/json.h"
#include "longstride/train.h"
#include "train/corpus.h"
#include "train/schedule.h"

namespace longstride::train {

constexpr double kMostMinutes = 1e7;  // 19 years

// Strings hold any bytes here: they become UTF-8 when JSON becomes text (core/json.h).
core::Json json_of(const TrainSettings& settings);
TrainSettings settings_of(const core::Json& given, TrainSettings base = {});
// The summary as the log and `longstride train --json` have it.
core::Json json_of(const TrainSummary& summary);

Budget budget_of(const TrainSettings& settings);
CorpusOptions corpus_of(const TrainSettings& settings);

// A named set of settings, as JSON. Throws Error with the names that exist.
core::Json preset(const std::string& name);
std::string preset_list();  // one line each: name and what it is for

}  // namespace longstride::train
