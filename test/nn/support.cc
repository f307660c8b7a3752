// Plain attention and small tools for the tests of the modules.
#include "test/nn/support.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <limits>

namespace longstride::nn_test {
namespace {

// MKL looks for the kernel of each of its vector functions at its first call; two threads that make it at once can get
// one with half the digits (pytorch issue 188792). Here one thread makes it, before any test.
const bool kFirstCallsMade = [] {
  const at::Tensor one = at::ones({1}, at::kDouble);
  return one.exp().log().item<double>() == 1;
}();

// Document of every position of a row, -1 behind the last.
std::vector<int64_t> documents(int64_t row, int64_t len, const AttentionOptions& call) {
  std::vector<int64_t> document(size_t(len), 0);
  for (int64_t p = 0; p < len; ++p) {
    if (call.lengths) document[size_t(p)] = p < (*call.lengths)[size_t(row)] ? 0 : -1;
    if (call.cu_seqlens) {
      for (size_t d = 0; d + 1 < call.cu_seqlens->size(); ++d) {
        if ((*call.cu_seqlens)[d] <= p && p < (*call.cu_seqlens)[d + 1]) document[size_t(p)] = int64_t(d);
      }
    }
  }
  return document;
}

}  // namespace

AttentionResult dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern,
                                const AttentionOptions& call) {
  const int64_t batch = q.size(0), len_q = q.size(1), heads = q.size(2), len_k = k.size(1), kv_heads = k.size(2);
  const int64_t query_start = call.query_start.value_or(0);
  const double scale = call.scale.value_or(1 / std::sqrt(double(q.size(3))));
  const at::Tensor m = at::zeros({batch, heads, len_q, len_k}, at::kDouble);
  auto cell = m.accessor<double, 4>();
  for (int64_t b = 0; b < batch; ++b) {
    const auto document = documents(b, len_k, call);
    std::vector<int64_t> position(size_t(len_k), 0);
    for (int64_t p = 0; p < len_k; ++p) {
      const bool starts = p == 0 || document[size_t(p)] != document[size_t(p - 1)];
      position[size_t(p)] = starts ? 0 : position[size_t(p - 1)] + 1;
    }
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < len_q; ++i) {
        const int64_t p = query_start + i;
        for (int64_t j = 0; j < len_k; ++j) {
          if (document[size_t(p)] < 0 || document[size_t(p)] != document[size_t(j)]) continue;
          if (pattern.causal() && j > p) continue;
          for (const auto& [w, r] : pattern.groups()) {
            const int64_t a = position[size_t(p)], c = position[size_t(j)];
            const int64_t offset = (h / (heads / kv_heads)) % r;
            if (a / w == c / w && (a % w) % r == offset && (c % w) % r == offset) cell[b][h][i][j] += 1;
          }
        }
      }
    }
  }
  const int64_t share = heads / kv_heads;
  const at::Tensor keys = k.repeat_interleave(share, 2).transpose(1, 2);    // [batch, heads, len_k, dim]
  const at::Tensor values = v.repeat_interleave(share, 2).transpose(1, 2);  // [batch, heads, len_k, dim]
  at::Tensor logits = at::matmul(q.transpose(1, 2), keys.transpose(2, 3)) * scale;
  if (call.alibi_slopes) {
    const at::Tensor places = at::arange(len_k, at::kDouble);
    const at::Tensor away = (places.narrow(0, query_start, len_q).unsqueeze(1) - places).abs();
    logits = logits - call.alibi_slopes->to(at::kDouble).view({heads, 1, 1}) * away;
  }
  // No infinity on the way of a gradient: a row that sees nothing would get NaN from it.
  const at::Tensor weights = m.to(q.scalar_type()), seen = m > 0;
  at::Tensor top = logits.detach().masked_fill(seen.logical_not(), -HUGE_VAL).amax(3, true);
  top = top.masked_fill(top.isinf(), 0);
  const at::Tensor p = weights * at::exp(at::where(seen, logits - top, at::zeros_like(logits)));
  const at::Tensor sum = p.sum(3, true);  // [batch, heads, len_q, 1]
  const at::Tensor some = at::where(sum > 0, sum, at::ones_like(sum));
  const at::Tensor lse = (some.log() + top).masked_fill(sum == 0, -HUGE_VAL).squeeze(3);
  return {at::matmul(p / some, values).transpose(1, 2), lse};
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return std::numeric_limits<double>::quiet_NaN();
  return a.numel() == 0 ? 0 : (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

LongNetLMConfig small_config() {
  LongNetLMConfig c;
  c.vocab = 31;
  c.layers = 3;
  c.layer.dim_feedforward = 48;
  MultiheadDilatedAttentionOptions& o = c.layer.attention;
  o.embed_dim = 32;
  o.num_heads = 4;
  o.kv_heads = 2;
  o.attention.pattern = Pattern::dilated({8, 24, 64}, {1, 2, 3}, {.causal = true});
  o.positions.max_len = 512;
  return c;
}

at::Tensor mask_of(const BlockChoice& choice) {
  const at::Tensor mask = at::zeros(choice.scores.sizes(), at::kBool);
  const auto cells = choice.blocks.to(at::kLong).unbind(1);
  return mask.index_put_({cells[0], cells[1], cells[2], cells[3]}, at::ones({}, at::kBool));
}

at::Tensor random_tokens(int64_t batch, int64_t len, int64_t vocab, uint64_t seed) {
  return at::randint(0, vocab, {batch, len}, at::make_generator<at::CPUGeneratorImpl>(seed), at::kLong);
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "expected longstride::Error";
  return "";
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "longstride-nn-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace longstride::nn_test
