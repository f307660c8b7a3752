// What one small warm call costs on the host: 256 tokens, one thread, with and without gradients and options. The
// engine's own work is in these figures and is the same before and after a change of the rooms above it.
// usage: op_call_bench [rounds [calls a round]]
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "longstride/attention.h"

namespace {

using longstride::AttentionOptions;
using longstride::Pattern;

// Microseconds a call: the least round, which is what a busy machine disturbs least, and the median.
void line(const std::string& name, int rounds, int calls, const std::function<void()>& call) {
  std::vector<double> us;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / calls);
  }
  std::sort(us.begin(), us.end());
  fmt::print("{:<34} {:8.2f} {:8.2f}\n", name, us.front(), us[us.size() / 2]);
  std::cout.flush();
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::stoi(argv[1]) : 200, calls = argc > 2 ? std::stoi(argv[2]) : 50;
  torch::set_num_threads(1);
  constexpr int64_t kLen = 256;
  const at::Tensor q = torch::randn({1, kLen, 1, 8}), k = torch::randn({1, kLen, 1, 8}),
                   v = torch::randn({1, kLen, 1, 8});
  const at::Tensor a = q.clone().requires_grad_(), b = k.clone().requires_grad_(), c = v.clone().requires_grad_();
  const at::Tensor d_out = torch::ones_like(q);
  const Pattern pattern = Pattern::dilated({64, 256}, {1, 4}, {.causal = true});
  AttentionOptions documents;
  documents.cu_seqlens = {{0, 100, 100, kLen}};
  fmt::print("us a call of {} tokens, 1 head, dim 8      least   median\n", kLen);
  for (const auto& [name, options] :
       std::vector<std::pair<std::string, AttentionOptions>>{{"", {}}, {", documents", documents}}) {
    line("forward without grad" + name, rounds, calls, [&] {
      const torch::NoGradGuard no_grad;
      longstride::attention(q, k, v, pattern, options);
    });
    line("forward with grad" + name, rounds, calls, [&] { longstride::attention(a, b, c, pattern, options); });
    line("forward and backward" + name, rounds, calls, [&] {
      torch::autograd::grad({longstride::attention(a, b, c, pattern, options).out}, {a, b, c}, {d_out});
    });
  }
}
