// Every tensor that a public function of the modules takes, in every form that LibTorch has: those that hold the same
// values some other way give the same results, the others are refused by name, and nothing but longstride::Error comes
// out.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nested.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include <functional>
#include <typeinfo>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::TemporaryFolder;

using Change = std::function<Tensor(const Tensor&)>;
struct Form {
  std::string name;
  Change of;
};

// The same values in another form; undefined where a form cannot hold them.
std::vector<Form> same_values() {
  return {
      {"transposed", [](const Tensor& t) { return t.t().contiguous().t(); }},
      {"every second",
       [](const Tensor& t) {
         return at::stack({t, t}, -1).select(-1, 1);
       }},
      {"at an odd offset",
       [](const Tensor& t) {
         const Tensor wide = at::empty({t.numel() + 1}, t.options());
         return wide.narrow(0, 1, t.numel()).copy_(t.flatten()).view(t.sizes());
       }},
      {"odd strides of sizes of 1",
       [](const Tensor& t) {
         std::vector<int64_t> strides = t.contiguous().strides().vec();
         for (int64_t d = 0; d < t.dim(); ++d) strides[size_t(d)] += t.size(d) == 1 ? 1 : 0;
         return t.contiguous().as_strided(t.sizes(), strides);
       }},
      {"lazily negated", [](const Tensor& t) { return t.scalar_type() == at::kBool ? Tensor() : at::_neg_view(-t); }},
      {"lazily conjugated", [](const Tensor& t) { return t.is_complex() ? t.conj().resolve_conj().conj() : Tensor(); }},
      {"wants a gradient",
       [](const Tensor& t) { return t.is_floating_point() ? t.clone().requires_grad_() : Tensor(); }},
      {"an inference tensor",
       [](const Tensor& t) {
         const c10::InferenceMode guard;
         return t.clone();
       }},
  };
}

// What no function here can work with.
std::vector<Form> others() {
  const auto real = [](const Tensor& t) { return t.is_floating_point() ? t : at::rand(t.sizes()); };
  return {
      {"undefined", [](const Tensor&) { return Tensor(); }},
      {"meta", [](const Tensor& t) { return t.to(at::kMeta); }},
      {"sparse", [](const Tensor& t) { return t.to_sparse(); }},
      {"sparse in rows",
       [](const Tensor& t) {
         return t.dim() == 2 ? t.to_sparse(at::kSparseCsr) : at::rand({4, 4}).to_sparse(at::kSparseCsr);
       }},
      {"in mkldnn's layout", [real](const Tensor& t) { return real(t).to(at::kFloat).to_mkldnn(); }},
      {"quantized",
       [real](const Tensor& t) { return at::quantize_per_tensor(real(t).to(at::kFloat), 0.1, 0, at::kQInt8); }},
      {"nested",
       [real](const Tensor& t) {
         return torch::nested::nested_tensor({real(t), real(t)});
       }},
      {"without its memory",
       [](const Tensor& t) {
         Tensor freed = t.clone();
         freed.storage().unsafeGetStorageImpl()->set_nbytes(0);
         return freed;
       }},
      {"a number", [](const Tensor& t) { return at::ones({}, t.options()); }},
      {"of no dimension but one, empty", [](const Tensor& t) { return at::empty({0}, t.options()); }},
      {"of five dimensions",
       [](const Tensor& t) {
         return at::ones({1, 1, 1, 1, 1}, t.options());
       }},
  };
}

// A function of one tensor; its result is compared.
struct Entrance {
  std::string name;
  std::string argument;  // as its refusal begins
  Tensor plain;
  Change call;
  enum { kThisShape, kAnyShape, kTheseStrides } takes = kThisShape;
};

MultiheadDilatedAttentionOptions attention_options() {
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 16;
  o.num_heads = 2;
  o.attention.pattern = Pattern::dilated({2, 4}, {1, 2});
  o.positions.kind = Positions::kRope;
  return o;
}

LearnedBlocks learned() {
  LearnedBlocks o;
  o.block_size = 2;
  o.density = 0.6;
  o.head_dim = 8;
  o.kv_heads = 2;
  return o;
}

std::vector<Entrance> entrances(const std::filesystem::path& folder) {
  torch::manual_seed(3);
  const int64_t len = 6;
  const Tensor x = at::randn({2, len, 16}), heads = at::randn({1, len, 2, 8});
  const Tensor ids = at::randint(0, 31, {2, len}, at::kLong);
  const RotaryFactors factors = rotary_factors(attention_options().positions, 3, len, 8, at::kFloat, at::kCPU);

  FeedForward feed_forward(FeedForwardOptions{.dim = 16, .hidden = 12});
  MultiheadDilatedAttention attention(attention_options());
  BlockScorer scorer(learned(), true);
  TransformerLayerOptions layer_options;
  layer_options.attention = attention_options();
  layer_options.dim_feedforward = 12;
  TransformerLayer layer(layer_options);
  DilatedTransformerDecoderLayer decoder_layer(DecoderLayerOptions{layer_options, false});
  LongNetConfig config;
  config.num_encoder_layers = config.num_decoder_layers = 1;
  config.layer.dim_feedforward = 12;
  config.layer.attention.embed_dim = 16;
  config.layer.attention.num_heads = 2;
  config.layer.attention.attention.pattern = Pattern::dilated({4}, {1});
  LongNet longnet(config);
  LongNetLM model(nn_test::small_config());
  for (torch::nn::Module* module :
       std::initializer_list<torch::nn::Module*>{feed_forward.get(), attention.get(), scorer.get(), layer.get(),
                                                 decoder_layer.get(), longnet.get(), model.get()}) {
    module->eval();
  }

  const std::filesystem::path file = folder / "one.safetensors";
  const Change saved = [file](const Tensor& t) {
    save_tensors(file, {{"one", t}});
    return load_tensors(file).tensors.at("one");
  };
  const Change loaded = [feed_forward](const Tensor& t) mutable {
    auto tensors = weights(*feed_forward);
    tensors["fc1.weight"] = t;
    load_weights(*feed_forward, tensors);
    return feed_forward->fc1->weight.detach().clone();
  };
  const Change masked = [attention, x](const Tensor& t) mutable {
    MultiheadCall call;
    call.key_padding_mask = t;
    return attention->forward(x, call).first;
  };
  const Change cached = [attention, x](const Tensor& t) mutable {
    const at::NoGradGuard no_grad;
    KeyValueCache cache = attention->make_cache(2, 6);
    cache.v = t;
    MultiheadCall call;
    call.cache = &cache;
    return attention->forward(x, call).first;
  };
  const Change rotated = [attention, x](const Tensor& t) mutable {
    const RotaryFactors given{t, t};
    MultiheadCall call;
    call.rotary = &given;
    return attention->forward(x, call).first;
  };
  const Change generated = [model](const Tensor& t) mutable {
    return generate(model, t, {.max_tokens = 3, .temperature = 0});
  };
  const Change decoded = [model](const Tensor& t) mutable {
    DecodeState state = model->start_decoding(2, 9);
    return model->decode(t, state);
  };
  const Change sampled = [](const Tensor& t) { return at::scalar_tensor(sample_token(t, {.top_k = 3}, 0.7)); };
  return {
      {"rotate", "x", heads, [factors](const Tensor& t) { return rotate(t, factors.q); }},
      {"rotate in double", "x", heads.to(at::kDouble), [factors](const Tensor& t) { return rotate(t, factors.q); }},
      {"rotate one row", "x", heads.narrow(1, 2, 1),
       [factors](const Tensor& t) { return rotate(t, factors.q.narrow(0, 2, 1)); }},
      {"rotate by", "factors", factors.q, [heads](const Tensor& t) { return rotate(heads, t); }},
      {"rotary", "factors", factors.q, rotated},
      {"save", "tensor 'one'", heads, saved, Entrance::kAnyShape},
      {"save integers", "tensor 'one'", ids, saved, Entrance::kAnyShape},
      {"save bools", "tensor 'one'", ids > 15, saved, Entrance::kAnyShape},
      {"load", "the weights do not fit the module: fc1.weight", feed_forward->fc1->weight.detach().clone(), loaded},
      {"feed-forward", "x", x, [feed_forward](const Tensor& t) mutable { return feed_forward->forward(t); }},
      {"attention", "query", x, [attention](const Tensor& t) mutable { return attention->forward(t).first; }},
      {"cross key", "key", x,
       [attention, x](const Tensor& t) mutable { return attention->forward_cross(x, t, x).first; }},
      {"cross value", "value", x,
       [attention, x](const Tensor& t) mutable { return attention->forward_cross(x, x, t).first; }},
      {"mask", "key_padding_mask", at::arange(len).expand({2, len}).contiguous() >= 4, masked},
      {"cache", "cache", at::zeros({2, 6, 2, 8}), cached, Entrance::kTheseStrides},
      {"layer", "x", x, [layer](const Tensor& t) mutable { return layer->forward(t); }},
      {"decoder layer", "x", x, [decoder_layer, x](const Tensor& t) mutable { return decoder_layer->forward(t, x); }},
      {"decoder memory", "memory", x,
       [decoder_layer, x](const Tensor& t) mutable { return decoder_layer->forward(x, t); }},
      {"encode", "source", x, [longnet](const Tensor& t) mutable { return longnet->encode(t); }},
      {"decode", "target", x, [longnet, x](const Tensor& t) mutable { return longnet->decode(t, x); }},
      {"memory", "memory", x, [longnet, x](const Tensor& t) mutable { return longnet->decode(x, t); }},
      {"model", "tokens", ids, [model](const Tensor& t) mutable { return model->forward(t); }},
      {"losses", "tokens", ids, [model, ids](const Tensor& t) mutable { return model->token_losses(t, ids); }},
      {"targets", "targets", ids, [model, ids](const Tensor& t) mutable { return model->token_losses(ids, t); }},
      {"loss", "targets", ids, [model, ids](const Tensor& t) mutable { return model->loss(ids, t); }},
      {"decode a step", "tokens", ids, decoded},
      {"generate", "prompt", ids, generated},
      {"sample", "logits", at::randn({9}), sampled},
      {"scorer's q", "q", heads, [scorer, heads](const Tensor& t) { return scorer->forward(t, heads).scores; }},
      {"scorer's k", "k", heads, [scorer, heads](const Tensor& t) { return scorer->forward(heads, t).scores; }},
  };
}

class OddTensors : public testing::Test {
 protected:
  const TemporaryFolder folder_;
  const std::vector<Entrance> all_ = entrances(folder_.path());
};

TEST_F(OddTensors, OtherFormsOfTheSameValuesGiveTheSame) {
  for (const Entrance& entrance : all_) {
    if (entrance.takes == Entrance::kTheseStrides) continue;  // it is written to, as it was made
    const Tensor expected = entrance.call(entrance.plain);
    for (const Form& form : same_values()) {
      SCOPED_TRACE(entrance.name + ", " + form.name);
      if (form.name == "transposed" && entrance.plain.dim() != 2) continue;
      const Tensor given = form.of(entrance.plain);
      if (!given.defined()) continue;
      ASSERT_TRUE(at::equal(given.detach().clone().resolve_neg().resolve_conj(), entrance.plain));
      try {
        const at::NoGradGuard no_grad;
        EXPECT_LT(nn_test::distance(entrance.call(given).to(at::kDouble), expected.to(at::kDouble)), 1e-6);
      } catch (const std::exception& e) {
        ADD_FAILURE() << e.what();
      }
    }
  }
}

TEST_F(OddTensors, WhatCannotBeUsedIsRefusedByName) {
  for (const Entrance& entrance : all_) {
    for (const Form& form : others()) {
      SCOPED_TRACE(entrance.name + ", " + form.name);
      const bool is_shape = form.name.starts_with("of ") || form.name == "a number";
      if (is_shape && entrance.takes == Entrance::kAnyShape) continue;
      try {
        entrance.call(form.of(entrance.plain));
        ADD_FAILURE() << "was taken";
      } catch (const Error& e) {
        EXPECT_THAT(std::string(e.what()), testing::AnyOf(testing::StartsWith(entrance.argument),
                                                          testing::StartsWith("x and factors must be on one device")));
      } catch (const std::exception& e) {
        ADD_FAILURE() << typeid(e).name() << ": " << std::string(e.what()).substr(0, 200);
      }
    }
  }
}

TEST_F(OddTensors, TypesThatDoNotFitAreRefused) {
  for (const Entrance& entrance : all_) {
    if (entrance.takes == Entrance::kAnyShape) continue;  // a file takes every type that the format has
    for (const at::ScalarType type : {at::kBool, at::kByte, at::kInt, at::kComplexFloat, at::kQInt8}) {
      SCOPED_TRACE(entrance.name + ", " + c10::toString(type));
      if (entrance.plain.scalar_type() == type || (entrance.name == "sample" && type != at::kComplexFloat)) continue;
      const Tensor given = type == at::kQInt8 ? at::quantize_per_tensor(at::rand(entrance.plain.sizes()), 0.1, 0, type)
                                              : at::zeros(entrance.plain.sizes(), at::kFloat).to(type);
      try {
        entrance.call(given);
        ADD_FAILURE() << "was taken";
      } catch (const Error&) {
      } catch (const std::exception& e) {
        ADD_FAILURE() << typeid(e).name() << ": " << std::string(e.what()).substr(0, 200);
      }
    }
  }
}

// Zero batch rows, no tokens: nothing to do is no error.
TEST_F(OddTensors, NoElementsAreTaken) {
  const Tensor factors = rotary_factors(attention_options().positions, 0, 0, 8, at::kFloat, at::kCPU).q;
  EXPECT_EQ(rotate(at::empty({2, 0, 3, 8}), factors).sizes(), at::IntArrayRef({2, 0, 3, 8}));
  const Tensor none = at::empty({4, 0, 1, 0}, at::kHalf);
  EXPECT_EQ(rotate(none, at::empty({0, 1, 0}, at::kComplexFloat)).scalar_type(), at::kHalf);
  MultiheadDilatedAttention attention(attention_options());
  EXPECT_EQ(attention->forward(at::empty({0, 5, 16})).first.numel(), 0);
  EXPECT_EQ(attention->forward(at::empty({2, 0, 16})).first.numel(), 0);
  const auto path = folder_.path() / "none.safetensors";
  save_tensors(path,
               {{"a", at::empty({0})}, {"b", at::empty({3, 0, 2}, at::kLong).transpose(0, 2)}, {"c", at::ones({})}});
  const TensorFile file = load_tensors(path);
  EXPECT_EQ(file.tensors.at("b").sizes(), at::IntArrayRef({2, 0, 3}));
  EXPECT_EQ(file.tensors.at("c").dim(), 0);
}

}  // namespace
}  // namespace longstride
