// MultiheadDilatedAttention against straightforward torch code, with positions by complex arithmetic.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <set>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::refusal;
using testing::AllOf;
using testing::HasSubstr;

MultiheadDilatedAttentionOptions small_options() {
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 32;
  o.num_heads = 4;
  o.attention.pattern = Pattern::dilated({8, 24}, {1, 3});
  return o;
}

MultiheadDilatedAttention make_double(const MultiheadDilatedAttentionOptions& o) {
  MultiheadDilatedAttention module(o);
  module->to(at::kDouble);
  const at::NoGradGuard no_grad;
  // Biases and norms away from their trivial start.
  for (auto& p : module->parameters()) p.add_(at::randn_like(p), 0.1);
  return module;
}

Tensor apply_norm(const Tensor& x, const std::map<std::string, Tensor>& w, const std::string& key, double eps) {
  return at::layer_norm(x, {x.size(-1)}, w.at(key + ".weight"), w.at(key + ".bias"), eps);
}

// The module's formula, written out on its split weights with dense attention.
Tensor straightforward(MultiheadDilatedAttention& module, const Tensor& query, const Tensor& key, const Tensor& value,
                       const AttentionOptions& call = {}, int64_t position0 = 0) {
  MultiheadDilatedAttentionOptions o = module->options;
  o.fused_qkv = false;
  MultiheadDilatedAttention split(o);
  split->to(at::kDouble);
  load_weights(*split, weights(*module));
  const auto w = weights(*split);
  const auto project = [&](const Tensor& x, const std::string& name, int64_t heads) {
    Tensor y = at::matmul(x, w.at(name + ".weight").t());
    if (o.bias) y = y + w.at(name + ".bias");
    return y.view({x.size(0), x.size(1), heads, o.head_dim()});
  };
  Tensor q = project(query, "q_proj", o.num_heads);
  Tensor k = project(key, "k_proj", o.key_value_heads());
  const Tensor v = project(value, "v_proj", o.key_value_heads());
  if (o.qk_norm) {
    q = apply_norm(q, w, "q_norm", o.layer_norm_eps);
    k = apply_norm(k, w, "k_norm", o.layer_norm_eps);
  }
  if (o.positions.kind != Positions::kNone) {
    const auto turn = [&](const Tensor& x, double sign) {
      const Tensor y = x.clone();
      auto in = x.accessor<double, 4>();
      auto out = y.accessor<double, 4>();
      for (int64_t b = 0; b < x.size(0); ++b) {
        for (int64_t n = 0; n < x.size(1); ++n) {
          for (int64_t h = 0; h < x.size(2); ++h) {
            for (int64_t c = 0; c < x.size(3) / 2; ++c) {
              const double at = double(n + position0), part = 2.0 * double(c) / double(x.size(3));
              const double zeta = (part + 0.4) / 1.4;
              const double size =
                  o.positions.kind == Positions::kXpos ? std::pow(zeta, sign * at / o.positions.scale_base()) : 1.0;
              const std::complex<double> turned = std::complex<double>(in[b][n][h][2 * c], in[b][n][h][2 * c + 1]) *
                                                  std::polar(size, at * std::pow(o.positions.base, -part));
              out[b][n][h][2 * c] = turned.real();
              out[b][n][h][2 * c + 1] = turned.imag();
            }
          }
        }
      }
      return y;
    };
    q = turn(q, 1);
    k = turn(k, -1);
  }
  Tensor out = nn_test::dense_attention(q, k, v, o.attention.pattern, call).out.flatten(2);
  if (o.sub_layer_norm) out = apply_norm(out, w, "inner_norm", o.layer_norm_eps);
  out = at::matmul(out, w.at("out_proj.weight").t());
  return o.bias ? out + w.at("out_proj.bias") : out;
}

TEST(Multihead, EqualsStraightforwardTorchCode) {
  const at::NoGradGuard no_grad;
  for (int variant = 0; variant < 12; ++variant) {
    SCOPED_TRACE(variant);
    torch::manual_seed(variant);
    auto o = small_options();
    o.kv_heads = variant % 3 == 0 ? 2 : 0;
    o.fused_qkv = variant % 2 == 0;
    o.bias = variant % 4 != 1;
    o.sub_layer_norm = variant % 3 == 1;
    o.qk_norm = variant % 4 >= 2;
    o.attention.pattern = o.attention.pattern.with_causal(variant % 5 < 3);
    o.positions.kind = static_cast<Positions>(variant % 3);
    if (variant % 2 == 1) o.attention.softmax_scale = 0.3;
    auto module = make_double(o);
    const Tensor x = at::randn({2, 29, 32}, at::kDouble);
    const Tensor y = at::randn({2, 29, 32}, at::kDouble);
    const Tensor z = at::randn({2, 29, 32}, at::kDouble);
    AttentionOptions call;
    call.scale = o.attention.softmax_scale;
    EXPECT_LT(distance(module(x).first, straightforward(module, x, x, x, call)), 1e-11);
    EXPECT_LT(distance(module->forward_cross(x, y, z).first, straightforward(module, x, y, z, call)), 1e-11);
    MultiheadCall shifted;
    shifted.position0 = 100;
    EXPECT_LT(distance(module(x, shifted).first, straightforward(module, x, x, x, call, 100)), 1e-11);
  }
}

TEST(Multihead, LengthsMasksAndDocuments) {
  const at::NoGradGuard no_grad;
  auto o = small_options();
  auto module = make_double(o);
  const Tensor x = at::randn({2, 30, 32}, at::kDouble);
  MultiheadCall call;
  call.lengths = {17, 30};
  AttentionOptions plain;
  plain.lengths = call.lengths;
  const Tensor expected = straightforward(module, x, x, x, plain);
  EXPECT_LT(distance(module(x, call).first, expected), 1e-11);
  MultiheadCall masked;
  masked.key_padding_mask = at::arange(30).unsqueeze(0) >= at::tensor({17, 30}, at::kLong).unsqueeze(1);
  EXPECT_LT(distance(module(x, masked).first, expected), 1e-11);
  MultiheadCall packed;
  packed.cu_seqlens = {0, 5, 5, 21, 30};
  AttentionOptions documents;
  documents.cu_seqlens = packed.cu_seqlens;
  EXPECT_LT(distance(module(x, packed).first, straightforward(module, x, x, x, documents)), 1e-11);

  masked.key_padding_mask = at::zeros({2, 30}, at::kBool).index_put_({0, 3}, true);
  EXPECT_THAT(refusal([&] { module(x, masked); }), AllOf(HasSubstr("key_padding_mask"), HasSubstr("lengths")));
  masked.key_padding_mask = at::zeros({30, 30}, at::kFloat);
  EXPECT_THAT(refusal([&] { module(x, masked); }), AllOf(HasSubstr("bool [2, 30]"), HasSubstr("cu_seqlens")));
  masked.key_padding_mask = at::zeros({2, 30}, at::kBool);
  masked.lengths = {1, 2};
  EXPECT_THAT(refusal([&] { module(x, masked); }), HasSubstr("must not come together"));
}

TEST(Multihead, ReturnsLseWhenAskedAndGradients) {
  auto module = make_double(small_options());
  const Tensor x = at::randn({1, 20, 32}, at::kDouble).requires_grad_();
  EXPECT_FALSE(module(x).second.has_value());
  MultiheadCall call;
  call.need_lse = true;
  const auto [out, lse] = module(x, call);
  EXPECT_EQ(lse.value().sizes(), (std::vector<int64_t>{1, 4, 20}));
  out.sum().backward();
  EXPECT_GT(x.grad().abs().sum().item<double>(), 0);
  for (const auto& p : module->named_parameters()) EXPECT_TRUE(p.value().grad().defined()) << p.key();
}

TEST(Multihead, EmptyAndSingleTokenAndSingleHead) {
  auto o = small_options();
  o.num_heads = 1;
  o.embed_dim = 16;
  auto module = make_double(o);
  EXPECT_EQ(module(at::randn({2, 0, 16}, at::kDouble)).first.sizes(), (std::vector<int64_t>{2, 0, 16}));
  EXPECT_EQ(module(at::randn({0, 5, 16}, at::kDouble)).first.sizes(), (std::vector<int64_t>{0, 5, 16}));
  const Tensor x = at::randn({2, 1, 16}, at::kDouble);
  EXPECT_LT(distance(module(x).first, straightforward(module, x, x, x)), 1e-12);
}

TEST(Multihead, FusedAndSplitLoadEachOther) {
  auto o = small_options();
  o.kv_heads = 2;
  auto fused = make_double(o);
  o.fused_qkv = false;
  auto split = make_double(o);
  const Tensor x = at::randn({2, 13, 32}, at::kDouble);
  EXPECT_GT(distance(fused(x).first, split(x).first), 0.01);
  load_weights(*split, weights(*fused));
  EXPECT_LT(distance(fused(x).first, split(x).first), 1e-12);
  auto other = make_double(o);
  load_weights(*fused, weights(*other));
  EXPECT_LT(distance(fused(x).first, other(x).first), 1e-12);
}

TEST(Multihead, MagnetoInitialisation) {
  auto o = small_options();
  o.embed_dim = 512;
  o.num_heads = 8;
  o.kv_heads = 4;
  o.gamma_init = 1.7;
  for (const bool fused : {true, false}) {
    o.fused_qkv = fused;
    torch::manual_seed(5);
    MultiheadDilatedAttention module(o);
    auto as_split = o;
    as_split.fused_qkv = false;
    MultiheadDilatedAttention split(as_split);
    load_weights(*split, weights(*module));
    const auto check = [](const Tensor& w, double gain) {
      const double bound = gain * std::sqrt(6.0 / double(w.size(0) + w.size(1)));
      EXPECT_LE(w.abs().max().item<double>(), bound * (1 + 1e-6));
      EXPECT_GT(w.abs().max().item<double>(), bound * 0.999);
      EXPECT_NEAR(w.std().item<double>(), bound / std::sqrt(3.0), bound * 0.01);
      EXPECT_NEAR(w.mean().item<double>(), 0, bound * 0.01);
    };
    check(split->q_proj->weight, 1);
    check(split->k_proj->weight, 1);
    check(split->v_proj->weight, 1.7);
    check(split->out_proj->weight, 1.7);
    for (const auto& p : split->named_parameters()) {
      if (!p.key().ends_with("bias")) continue;
      EXPECT_EQ(p.value().abs().max().item<double>(), 0) << p.key();
    }
  }
}

TEST(Multihead, AttentionDropoutOnlyWhileTrainingAndSeeded) {
  auto o = small_options();
  auto plain = make_double(o);
  o.attention.attention_dropout = 0.4;
  auto module = make_double(o);
  load_weights(*module, weights(*plain));
  const Tensor x = at::randn({1, 24, 32}, at::kDouble);
  torch::manual_seed(1);
  const Tensor first = module(x).first;
  const Tensor second = module(x).first;
  EXPECT_GT(distance(first, second), 1e-3);
  EXPECT_GT(distance(first, plain(x).first), 1e-3);
  torch::manual_seed(1);
  EXPECT_TRUE(at::equal(module(x).first, first));
  module->eval();
  EXPECT_TRUE(at::equal(module(x).first, plain(x).first));
}

TEST(Multihead, UsesTheAttentionFnItIsGiven) {
  int calls = 0;
  AttentionOptions seen;
  auto o = small_options();
  o.attention.softmax_scale = 0.0;
  const AttentionFn zero = [&](const Tensor& q, const Tensor&, const Tensor&, const AttentionOptions& call) {
    ++calls;
    seen = call;
    return AttentionResult{at::zeros_like(q), at::zeros({q.size(0), q.size(2), q.size(1)})};
  };
  MultiheadDilatedAttention module(o, zero);
  MultiheadCall call;
  call.lengths = {3, 2};
  EXPECT_EQ(module(at::randn({2, 4, 32}), call).first.abs().max().item<float>(), 0);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(seen.scale, 0.0);
  EXPECT_EQ(seen.lengths, call.lengths);
  auto copy = std::dynamic_pointer_cast<MultiheadDilatedAttentionImpl>(module->clone());
  copy->forward(at::randn({2, 4, 32}));
  EXPECT_EQ(calls, 2);
}

TEST(Multihead, ClonesShareNothing) {
  auto o = small_options();
  o.qk_norm = o.sub_layer_norm = true;
  auto module = make_double(o);
  const Tensor x = at::randn({1, 17, 32}, at::kDouble);
  const Tensor before = module(x).first.detach();
  auto copy = std::dynamic_pointer_cast<MultiheadDilatedAttentionImpl>(module->clone());
  auto again = std::dynamic_pointer_cast<MultiheadDilatedAttentionImpl>(copy->clone());
  ASSERT_TRUE(copy && again);
  EXPECT_TRUE(at::equal(copy->forward(x).first, before));
  EXPECT_TRUE(at::equal(again->forward(x).first, before));
  std::set<void*> storage;
  for (auto* m : {module.get(), copy.get(), again.get()}) {
    for (const auto& p : m->parameters()) EXPECT_TRUE(storage.insert(p.data_ptr()).second);
  }
  {
    const at::NoGradGuard no_grad;
    for (auto& p : copy->parameters()) p.mul_(0.5);
  }
  EXPECT_GT(distance(copy->forward(x).first, before), 1e-3);
  EXPECT_TRUE(at::equal(module(x).first, before));
  EXPECT_TRUE(at::equal(again->forward(x).first, before));
}

TEST(Multihead, ThousandthCallIsTheFirst) {
  const at::NoGradGuard no_grad;
  auto o = small_options();
  o.positions.kind = Positions::kRope;
  MultiheadDilatedAttention module(o);
  const Tensor x = at::randn({1, 16, 32});
  const Tensor first = module(x).first;
  for (int i = 1; i < 1000; ++i) ASSERT_TRUE(at::equal(module(x).first, first)) << i;
}

TEST(Multihead, RefusesBadOptions) {
  const auto message = [](const std::function<void(MultiheadDilatedAttentionOptions&)>& change) {
    return refusal([&] {
      auto o = small_options();
      change(o);
      MultiheadDilatedAttention module(o);
    });
  };
  EXPECT_THAT(message([](auto& o) { o.attention.pattern = Pattern(); }), HasSubstr("cannot be empty"));
  const Tensor x = at::zeros({1, 4, 1, 8});
  EXPECT_THAT(refusal([&] { attention(x, x, x, Pattern()); }), HasSubstr("pattern must have"));
  EXPECT_THAT(message([](auto& o) { o.attention.pattern = Pattern::dilated({8, 24}, {1}); }), HasSubstr("same length"));
  EXPECT_THAT(message([](auto& o) {
                o.attention.pattern = Pattern::dilated({8, 24}, {1, 0});
              }),
              HasSubstr("must be positive, got 0"));
  EXPECT_THAT(message([](auto& o) { o.attention.attention_dropout = 1.0; }), HasSubstr("must be in [0, 1), got 1"));
  EXPECT_THAT(message([](auto& o) { o.attention.attention_dropout = NAN; }), HasSubstr("must be in [0, 1), got nan"));
  EXPECT_THAT(message([](auto& o) { o.attention.softmax_scale = NAN; }), HasSubstr("softmax_scale must be finite"));
  EXPECT_THAT(message([](auto& o) { o.embed_dim = 0; }), HasSubstr("embed_dim must be positive, got 0"));
  EXPECT_THAT(message([](auto& o) { o.num_heads = -1; }), HasSubstr("num_heads must be positive, got -1"));
  EXPECT_THAT(message([](auto& o) { o.embed_dim = 33; }), HasSubstr("must be a multiple of num_heads 4, got 33"));
  EXPECT_THAT(message([](auto& o) { o.kv_heads = 3; }), HasSubstr("kv_heads must divide num_heads 4"));
  EXPECT_THAT(message([](auto& o) { o.layer_norm_eps = 0; }), HasSubstr("layer_norm_eps must be positive"));
  EXPECT_THAT(message([](auto& o) { o.gamma_init = -1; }), HasSubstr("gamma_init must be positive"));
  EXPECT_THAT(message([](auto& o) { o.positions.base = 1; }), HasSubstr("rope_base"));
  EXPECT_THAT(message([](auto& o) {
                o.attention.pattern = Pattern::dilated({8, 24}, {1, 3}, {.offsets = {{1, 2}}});
              }),
              HasSubstr("offsets must have groups x kv_heads"));
  EXPECT_THAT(message([](auto& o) {
                o.attention.pattern = Pattern::dilated({8, 24}, {1, 3}, {.mixing = Mixing::kHeadPartition});
                o.kv_heads = 1;
              }),
              AllOf(HasSubstr("number of groups 2"), HasSubstr("got 1"), HasSubstr("joint")));
  EXPECT_THAT(message([](auto& o) {
                o.embed_dim = 12;
                o.positions.kind = Positions::kRope;
              }),
              HasSubstr("must be even for rope positions, got 3"));
}

TEST(Multihead, RefusesBadInput) {
  MultiheadDilatedAttention module(small_options());
  const Tensor x = at::randn({2, 9, 32});
  EXPECT_THAT(refusal([&] { module(at::randn({9, 32})); }), HasSubstr("query must be [batch, len, 32], got [9, 32]"));
  EXPECT_THAT(refusal([&] { module(at::randn({2, 9, 31})); }), HasSubstr("got [2, 9, 31]"));
  EXPECT_THAT(refusal([&] { module(x.to(at::kDouble)); }), HasSubstr("dtype"));
  EXPECT_THAT(refusal([&] { module(x.to(at::kLong)); }), HasSubstr("dtype"));
  EXPECT_THAT(refusal([&] { module(Tensor()); }), HasSubstr("undefined"));
  EXPECT_THAT(refusal([&] { module->forward_cross(x, x.narrow(1, 0, 8), x.narrow(1, 0, 8)); }),
              AllOf(HasSubstr("[2, 9, 32]"), HasSubstr("[2, 8, 32]")));
  MultiheadCall call;
  call.lengths = {1, 2, 3};
  EXPECT_THAT(refusal([&] { module(x, call); }), HasSubstr("lengths"));
  DilatedAttention inner(small_options().attention);
  AttentionOptions own;
  own.scale = 1.0;
  const Tensor q = at::randn({1, 4, 2, 8});
  EXPECT_THAT(refusal([&] { inner(q, q, q, own); }), HasSubstr("softmax_scale"));
  own = {};
  own.dropout_p = 0.1;
  EXPECT_THAT(refusal([&] { inner(q, q, q, own); }), HasSubstr("attention_dropout"));
}

TEST(Multihead, CacheRefusals) {
  MultiheadDilatedAttention module(small_options());
  const Tensor x = at::randn({1, 4, 32});
  KeyValueCache cache = module->make_cache(1, 6);
  MultiheadCall call;
  call.cache = &cache;
  EXPECT_THAT(refusal([&] { module(x, call); }), HasSubstr("NoGradGuard"));
  const at::NoGradGuard no_grad;
  EXPECT_THAT(refusal([&] { module(at::randn({2, 4, 32}), call); }), HasSubstr("make_cache"));
  EXPECT_THAT(refusal([&] { module->forward_cross(x, at::randn({1, 4, 32}), x, call); }), HasSubstr("self-attention"));
  module(x, call);
  EXPECT_EQ(cache.length, 4);
  EXPECT_THAT(refusal([&] { module(x, call); }), AllOf(HasSubstr("room for 4"), HasSubstr("4 of 6")));
  EXPECT_EQ(cache.length, 4);
  call.lengths = {4};
  EXPECT_THAT(refusal([&] { module(x, call); }), HasSubstr("lengths"));
  EXPECT_THAT(refusal([&] { module->make_cache(1, 0); }), HasSubstr("capacity must be positive"));
}

// Counts warnings of this library.
class Counter : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { count += warning.msg().find("head dim") != std::string::npos; }
  int count = 0;
};

TEST(Multihead, OddHeadDimWarnsOnce) {
  // Every other test of this executable has head dims that are multiples of 8.
  Counter counter;
  const c10::WarningUtils::WarningHandlerGuard guard(&counter);
  auto o = small_options();
  o.embed_dim = 48;
  MultiheadDilatedAttention module(o);
  for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(module(at::randn({1, 5, 48})));
  EXPECT_EQ(counter.count, 1);
}

}  // namespace
}  // namespace longstride
