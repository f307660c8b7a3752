// `longstride show --ranks`: a sequence over many ranks, who sends what to whom and what that would take. Counted from
// lengths and pattern by the planner of ranks; nothing is computed, and seconds are a model's. Called by show.
// Torch-free.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/cost.h"
#include "parallel/exchange.h"
#include "parallel/survey.h"
#include "picture/picture.h"

namespace longstride::cli {

struct RankOptions {
  int64_t ranks = 0;  // 0: not asked for
  std::string layout = "contiguous";
  int64_t dim = 64;
  std::string dtype = "bfloat16";
  std::vector<std::string> measured;  // NAME=VALUE of parallel::Hardware
};

// Adds --ranks --layout --dim --dtype --measured. Whatever the command has in the groups named is of one process, and
// refused beside --ranks.
void add_rank_options(CLI::App& command, RankOptions& into, const std::vector<std::string>& of_one_process);

struct RanksShown {
  parallel::ShardedCall call;
  parallel::RowShape shape;
  parallel::Hardware hardware;
  parallel::Survey survey;
  parallel::Choice runs;                   // what cp_attention's "auto" does, beside all that could be had
  std::vector<std::vector<int64_t>> rows;  // [receiver][sender], over all KV heads
};

// Throws Error.
RanksShown plan_ranks(const Pattern&, const Extent&, const RankOptions&);

std::string ranks_text(const RanksShown&);
nlohmann::json ranks_json(const RanksShown&);
picture::Picture ranks_picture(const RanksShown&);

// What text and picture say alike.
std::string shards_words(const RanksShown&);
// "figures measured: ...", "figures assumed: ...".
std::vector<std::string> figure_words(const parallel::Hardware&);
// "2048/1" of each group, and "blocks" if there are any: the sources of rows.
std::vector<std::string> source_words(const Pattern&);

// Of the rows from each of the ranks to each, the mean in cells of `width` x `width` ranks, [cell of receivers][cell of
// senders]; a rank's own are none.
std::vector<std::vector<double>> traffic_cells(const RanksShown&, int64_t width);

}  // namespace longstride::cli
