// What an exchange would cost: a model, as good as its figures, each of which says whether it was measured. Called by
// the choice of a plan and by the program's show. A pure function of what all ranks agree on, so that ranks of one
// build choose alike.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "parallel/call.h"
#include "parallel/exchange.h"
#include "parallel/survey.h"

namespace longstride::parallel {

struct Figure {
  double value = 0;
  bool measured = false;  // on the machine that the model is asked of; else it is assumed
};

// Of one rank and its links. The defaults are assumed: an H200's shares of its data sheet, and the links of a node of
// eight and of a network between nodes as they are usual.
struct Hardware {
  Figure forward_flops = {400e12};   // a second, in attention
  Figure backward_flops = {300e12};  // the same
  Figure memory_bytes = {3.6e12};    // a second
  Figure near_bytes = {300e9};       // a second and direction, between ranks of one node
  Figure near_latency_s = {12e-6};
  Figure far_bytes = {42e9};  // between nodes
  Figure far_latency_s = {25e-6};
  Figure message_s = {1.5e-6};  // for every peer of one exchange
  Figure launch_s = {6e-6};     // of one kernel
  Figure launches = {3};        // kernels for each source and direction
  Figure ranks_per_node = {8};
};

// Two H200 of one host, joined by NVLink, as python/tests/cuda_ranks.py found them. Products: LongNet's growing
// configuration of 1,048,576 tokens, 16 heads of 128, bfloat16, 46.9 ms forward and 138.7 backward, pairs of each group
// counted by themselves as the model counts them; causal masks reach two thirds of these rates. Links: an all-to-all of
// which one rank sends 4 KB to 256 MB to the other. What is not here is assumed.
Hardware h200();

// Every figure with its name, in order: visit(name, figure).
template <class Self, class Visit>
void for_each_figure(Self& hardware, Visit&& visit) {
  visit("forward_flops", hardware.forward_flops);
  visit("backward_flops", hardware.backward_flops);
  visit("memory_bytes", hardware.memory_bytes);
  visit("near_bytes", hardware.near_bytes);
  visit("near_latency_s", hardware.near_latency_s);
  visit("far_bytes", hardware.far_bytes);
  visit("far_latency_s", hardware.far_latency_s);
  visit("message_s", hardware.message_s);
  visit("launch_s", hardware.launch_s);
  visit("launches", hardware.launches);
  visit("ranks_per_node", hardware.ranks_per_node);
}

// Seconds of one direction on the rank that takes longest.
struct Predicted {
  double total_s = 0;
  double exchange_s = 0;  // of that rank, beside whatever runs meanwhile
  double exposed_s = 0;   // the part of total_s in which it only waits
};

struct Prediction {
  Predicted forward;
  Predicted backward;
  double total_s() const { return forward.total_s + backward.total_s; }
};

// Of one layer, under a plan that can be had. Throws Error: a figure that is not positive and finite, dim < 1.
Prediction predict(const ExchangePlan&, const ShardedCall&, const Survey&, const RowShape&, const Hardware&);

// The plan that is taken, beside the others that could be.
struct Choice {
  ExchangePlan plan;
  Prediction prediction;
  std::vector<std::pair<ExchangePlan, Prediction>> feasible;
};

// The least predicted time, or the plan of that name. Throws Error: an unknown name, or a plan that cannot be had, with
// the reason and those that can.
Choice choose(const ShardedCall&, const Survey&, const RowShape&, const Hardware&,
              const std::string& exchange = "auto");

}  // namespace longstride::parallel
