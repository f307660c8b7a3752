// The schedule, the settings of a run, and those that were saved before.
#include "train/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/json.h"
#include "longstride/error.h"
#include "longstride/pattern/flat.h"

namespace longstride::train {
namespace {

using core::Json;
using testing::HasSubstr;

TEST(Schedule, ClimbsThenFallsAlongACosine) {
  const Schedule schedule{1.0, 0.1, 0.05};
  EXPECT_GT(learning_rate(schedule, 0.0), 0.0);
  EXPECT_LT(learning_rate(schedule, 0.0), 0.03);
  EXPECT_NEAR(learning_rate(schedule, 0.05), 0.51, 1e-9);
  EXPECT_NEAR(learning_rate(schedule, 0.1), 1.0, 1e-9);
  EXPECT_NEAR(learning_rate(schedule, 0.55), 0.525, 1e-9);
  EXPECT_NEAR(learning_rate(schedule, 1.0), 0.05, 1e-9);
  EXPECT_NEAR(learning_rate({1.0, 0.0, 0.0}, 0.0), 1.0, 1e-9);
}

TEST(Schedule, ProgressIsTheShareOfTheBudget) {
  EXPECT_DOUBLE_EQ(progress({.steps = 8, .minutes = {}}, 2, 1e9), 0.25);
  EXPECT_DOUBLE_EQ(progress({.steps = {}, .minutes = 2.0}, 1000, 30.0), 0.25);
  EXPECT_DOUBLE_EQ(progress({.steps = 8, .minutes = {}}, 9, 0.0), 1.0);
}

TEST(Schedule, TheContextDoublesOverThreeQuartersOfTheRun) {
  const auto at = [](double progress) { return context_at(512, 4096, progress); };
  EXPECT_EQ(at(0.0), 512);
  EXPECT_EQ(at(0.24), 512);
  EXPECT_EQ(at(0.26), 1024);
  EXPECT_EQ(at(0.51), 2048);
  EXPECT_EQ(at(0.74), 2048);
  EXPECT_EQ(at(0.75), 4096);
  EXPECT_EQ(at(1.0), 4096);
  EXPECT_EQ(context_at(0, 4096, 0.0), 4096);
  EXPECT_EQ(context_at(4096, 4096, 0.0), 4096);
  EXPECT_EQ(context_at(8192, 4096, 0.0), 4096);  // a preset's, beside a shorter --context
  EXPECT_EQ(context_at(300, 1000, 0.5), 600);    // no power of two between them: the last step is shorter
  EXPECT_EQ(context_at(300, 1000, 0.8), 1000);
}

TEST(Schedule, ForwardsOfAShortContextTakeMoreSamples) {
  EXPECT_EQ(samples_at(512, 1, 2048), 4);
  EXPECT_EQ(samples_at(1000, 1, 2048), 2);
  EXPECT_EQ(samples_at(4096, 1, 2048), 1);
  EXPECT_EQ(samples_at(512, 6, 2048), 6);
  EXPECT_EQ(samples_at(512, 2, 0), 2);
}

std::vector<int64_t> segments_of(const TrainSettings& settings) {
  return FlatPattern(settings.model.layer.attention.attention.pattern).segment_lengths;
}

std::string refusal(const char* text) {
  try {
    (void)TrainSettings::from_json(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

TEST(Settings, GoToJsonAndBack) {
  TrainSettings settings = TrainSettings::from_json(
      R"({"segments": [7, 9], "rates": [1, 2], "lr": 0.1234567890123456789, "seed": 18446744073709551615,
          "model": {"mixing": "head_partition", "fused_qkv": false}})");
  EXPECT_EQ(settings.seed, 18446744073709551615ull);
  EXPECT_EQ(segments_of(settings), (std::vector<int64_t>{7, 9}));
  EXPECT_FALSE(settings.model.layer.attention.fused_qkv);
  const TrainSettings again = TrainSettings::from_json(settings.to_json());
  EXPECT_EQ(again.to_json(), settings.to_json());
  EXPECT_EQ(again.model, settings.model);
  EXPECT_THAT(refusal(R"({"dmi": 3})"), HasSubstr("did you mean 'dim'"));
  EXPECT_THAT(refusal(R"({"dim": "3"})"), HasSubstr("setting 'dim' must be an integer"));
  EXPECT_THAT(refusal(R"({"dim": 3.5})"), HasSubstr("setting 'dim'"));
  EXPECT_THAT(refusal(R"({"segments": [1, "a"]})"), HasSubstr("setting 'segments'[1]"));
  EXPECT_THAT(refusal(R"({"model": {"dim": 3}})"), HasSubstr("model.dim is said"));
  EXPECT_THROW(preset("absent"), Error);
  TrainSettings demo = settings_of(preset("demo"));
  demo.data = {"x"};
  EXPECT_NO_THROW(demo.validate());
  EXPECT_GE(demo.context, 16384);
  demo.step_bytes = int64_t{1} << 40;
  EXPECT_THROW(demo.validate(), Error);
  demo.step_bytes = 0;
  EXPECT_NO_THROW(demo.validate());
  demo.context_from = -1;
  EXPECT_THROW(demo.validate(), Error);
}

TEST(Settings, OneBudgetAndOnePatternTakeThePlaceOfTheOther) {
  TrainSettings settings = TrainSettings::from_json(R"({"minutes": 2, "segments": [8], "rates": [1]})");
  settings = TrainSettings::from_json(
      R"({"steps": 5, "pattern": {"causal": true, "blocks": [{"pattern": "local_window", "block_size": 8, "window": 16}]}})",
      settings);
  EXPECT_EQ(settings.steps, 5);
  EXPECT_EQ(settings.minutes, 0.0);
  EXPECT_TRUE(segments_of(settings).empty());
  EXPECT_EQ(TrainSettings::from_json(settings.to_json()).model, settings.model);
  settings = TrainSettings::from_json(R"({"segments": [16], "rates": [2]})", settings);
  EXPECT_EQ(segments_of(settings), std::vector<int64_t>{16});
  EXPECT_TRUE(settings.model.layer.attention.attention.pattern.blocks().empty());
}

TEST(Settings, SlopesAreOfTheHeadsThatTheyWereSaidWith) {
  const auto slopes = [](const TrainSettings& settings) {
    return settings.model.layer.attention.positions.alibi_slopes;
  };
  const TrainSettings demo = settings_of(preset("demo"));
  EXPECT_EQ(slopes(demo).size(), 3u);
  EXPECT_EQ(slopes(TrainSettings::from_json(demo.to_json())), slopes(demo));
  EXPECT_EQ(slopes(TrainSettings::from_json(R"({"layers": 3, "dim": 48})", demo)), slopes(demo));
  EXPECT_TRUE(slopes(TrainSettings::from_json(R"({"heads": 2})", demo)).empty());
  EXPECT_TRUE(slopes(TrainSettings::from_json(R"({"positions": "rope"})", demo)).empty());
  const char* both = R"({"heads": 2, "model": {"alibi_slopes": [1, 0.5]}})";
  EXPECT_EQ(slopes(TrainSettings::from_json(both, demo)), (std::vector<double>{1, 0.5}));
}

TEST(Settings, RoomForLongerContextsFollowsTheContextUnlessItIsSaid) {
  const auto max_len = [](const TrainSettings& settings) { return settings.model.layer.attention.positions.max_len; };
  EXPECT_EQ(max_len(TrainSettings::from_json(R"({"context": 1048576})")), 4 << 20);
  const TrainSettings said = TrainSettings::from_json(R"({"model": {"max_len": 4096}})");
  EXPECT_EQ(max_len(TrainSettings::from_json(R"({"context": 1048576})", said)), 4096);
  EXPECT_EQ(max_len(TrainSettings::from_json(said.to_json())), 4096);
}

// Beside each state.json is the config.json of the same checkpoint: the settings say that model.
TEST(Settings, OfRunsThatWereSavedBeforeSayTheSameModel) {
  int runs = 0;
  for (const auto& run : std::filesystem::directory_iterator(LONGSTRIDE_SAVED_SETTINGS)) {
    if (!run.is_directory()) continue;
    SCOPED_TRACE(run.path().filename());
    const Json state = core::read_json("state", run.path() / "state.json");
    const Json config = core::read_json("config", run.path() / "config.json");
    TrainSettings settings = settings_of(core::with_bytes(state["settings"]));
    EXPECT_NO_THROW(settings.validate());
    EXPECT_EQ(settings.model.to_json(), LongNetLMConfig::from_json(config["config"].dump()).to_json());
    // No key is gone, and those that have come mean what was done before.
    Json now = json_of(settings);
    EXPECT_EQ(now["context_from"], 0);
    EXPECT_EQ(now["step_bytes"], 0);
    ASSERT_EQ(now.size(), state["settings"].size() + 2);
    for (const auto& [key, value] : state["settings"].items()) EXPECT_TRUE(now.contains(key)) << key;
    ++runs;
  }
  EXPECT_EQ(runs, 3);
}

}  // namespace
}  // namespace longstride::train
