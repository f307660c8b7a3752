// What block-sparse attention costs at densities from 1 % to 100 %, beside torch's dense attention: one table.
// usage: block_density [len [dim [heads [block_size]]]]
#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <vector>

#include "longstride/attention.h"

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Median, least and most of several runs after a warm one.
std::string timed(int repeats, const std::function<void()>& run) {
  run();
  std::vector<double> ms;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    ms.push_back(seconds_since(start) * 1e3);
  }
  std::sort(ms.begin(), ms.end());
  return fmt::format("{:8.1f} ({:.1f} - {:.1f})", ms[ms.size() / 2], ms.front(), ms.back());
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int n, int64_t otherwise) { return argc > n ? std::stoll(argv[n]) : otherwise; };
  const int64_t len = argument(1, 16384), dim = argument(2, 64), heads = argument(3, 1), block = argument(4, 64);
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    torch::manual_seed(1);
    const auto make = [&] { return torch::randn({1, len, heads, dim}).to(dtype); };
    const at::Tensor q = make(), k = make(), v = make(), d_out = make();
    fmt::print("{} tokens, dim {}, {} heads, blocks of {}, {}, {} threads\n", len, dim, heads, block,
               c10::toString(dtype), torch::get_num_threads());
    fmt::print("{:>24}  {:>26}  {:>26}\n", "", "forward ms", "forward + backward ms");
    const auto line = [&](const std::string& name, int repeats,
                          const std::function<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>& f) {
      const std::string forward = timed(repeats, [&] {
        const torch::NoGradGuard no_grad;
        f(q, k, v);
      });
      const std::string both = timed(repeats, [&] {
        const at::Tensor a = q.detach().requires_grad_(), b = k.detach().requires_grad_(),
                         c = v.detach().requires_grad_();
        f(a, b, c).backward(d_out);
      });
      fmt::print("{:>24}  {:>26}  {:>26}\n", name, forward, both);
      std::cout.flush();
    };
    for (const double density : {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0}) {
      const auto pattern =
          longstride::Pattern::block_sparse({longstride::BlockPattern(block, longstride::RandomBlocks{density, 1})});
      line(fmt::format("random, {:.0f} %", density * 100), density < 0.3 ? 5 : 3,
           [&](const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
             return longstride::attention(a, b, c, pattern).out;
           });
    }
    line("dense, torch", 3, [&](const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
      return at::scaled_dot_product_attention(a.transpose(1, 2), b.transpose(1, 2), c.transpose(1, 2)).transpose(1, 2);
    });
  }
}
