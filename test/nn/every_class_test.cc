// What holds for every class of the room alike: clones share nothing, a saved one loads, forwards at once are forwards
// in turn, the thousandth call is the first, options are never changed.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <fstream>
#include <set>
#include <thread>

#include "test/nn/dense_layers.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::OneThread;
using nn_test::refusal;
using nn_test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kLen = 30;

DilatedTransformerOptions small_table() {
  DilatedTransformerOptions o;
  o.d_model = 32;
  o.nhead = 4;
  o.segment_lengths = {8, 24};
  o.dilation_rates = {1, 3};
  o.dim_feedforward = 48;
  return o;
}

template <class Holder>
struct Made;

template <>
struct Made<DilatedAttention> {
  static DilatedAttention make() {
    DilatedAttentionOptions o = TransformerLayerOptions(small_table()).attention.attention;
    o.softmax_scale = 0.25;
    return DilatedAttention(o);
  }
  static Tensor run(DilatedAttention& m, const Tensor& x) {
    const Tensor heads = x.unflatten(2, {4, 8});
    return m(heads, heads, heads).out;
  }
};
template <>
struct Made<MultiheadDilatedAttention> {
  static MultiheadDilatedAttention make() {
    MultiheadDilatedAttentionOptions o = TransformerLayerOptions(small_table()).attention;
    o.positions.kind = Positions::kXpos;
    o.qk_norm = o.sub_layer_norm = true;
    o.kv_heads = 2;
    return MultiheadDilatedAttention(o);
  }
  static Tensor run(MultiheadDilatedAttention& m, const Tensor& x) { return m(x).first; }
};
template <>
struct Made<FeedForward> {
  static FeedForward make() { return FeedForward(FeedForwardOptions{32, 64, "gelu", 0.1}); }
  static Tensor run(FeedForward& m, const Tensor& x) { return m(x); }
};
template <>
struct Made<TransformerLayer> {
  static TransformerLayer make() { return TransformerLayer(small_table()); }
  static Tensor run(TransformerLayer& m, const Tensor& x) { return m(x); }
};
template <>
struct Made<DilatedTransformerDecoderLayer> {
  static DilatedTransformerDecoderLayer make() {
    DilatedTransformerOptions o = small_table();
    o.memory_causal = true;
    return DilatedTransformerDecoderLayer(o);
  }
  static Tensor run(DilatedTransformerDecoderLayer& m, const Tensor& x) { return m(x, x.flip(1)); }
};
template <>
struct Made<LongNet> {
  static LongNet make() {
    LongNetConfig c;
    c.layer.attention.embed_dim = 32;
    c.layer.attention.num_heads = 4;
    c.num_encoder_layers = c.num_decoder_layers = 2;
    c.layer.dim_feedforward = 48;
    c.layer.attention.attention.pattern = Pattern::dilated({8, 24}, {1, 3});
    c.layer.dropout = 0.1;
    c.activation_checkpointing = true;
    return LongNet(c);
  }
  static Tensor run(LongNet& m, const Tensor& x) { return m(x, x.flip(1)); }
};
template <>
struct Made<LongNetLM> {
  static LongNetLM make() { return LongNetLM(nn_test::small_config()); }
  static Tensor run(LongNetLM& m, const Tensor& x) { return m(x.select(2, 0).mul(1000).to(at::kLong).remainder(31)); }
};

template <class Holder>
class EveryClass : public testing::Test {
 protected:
  void SetUp() override {
    torch::manual_seed(1);
    x_ = at::randn({2, kLen, 32});
    model_ = Made<Holder>::make();
    model_->eval();
  }
  Tensor run(Holder& model) const { return Made<Holder>::run(model, x_); }
  static Holder clone(const Holder& model) {
    return Holder(std::dynamic_pointer_cast<typename Holder::ContainedType>(model->clone()));
  }

  Tensor x_;
  Holder model_{nullptr};
};

using Classes = testing::Types<DilatedAttention, MultiheadDilatedAttention, FeedForward, TransformerLayer,
                               DilatedTransformerDecoderLayer, LongNet, LongNetLM>;
TYPED_TEST_SUITE(EveryClass, Classes);

TYPED_TEST(EveryClass, ClonesShareNothing) {
  const Tensor before = this->run(this->model_).detach();
  TypeParam copy = this->clone(this->model_);
  TypeParam again = this->clone(copy);
  std::set<void*> storage;
  for (auto* m : {&this->model_, &copy, &again}) {
    EXPECT_FALSE((*m)->is_training());
    EXPECT_TRUE(at::equal(this->run(*m), before));
    for (const auto& [key, tensor] : weights(**m)) EXPECT_TRUE(storage.insert(tensor.data_ptr()).second) << key;
  }
  {
    const at::NoGradGuard no_grad;
    for (auto& p : copy->parameters()) p.mul_(0.5);
  }
  if (!copy->parameters().empty()) {
    EXPECT_GT(distance(this->run(copy), before), 1e-3);
  }
  EXPECT_TRUE(at::equal(this->run(this->model_), before));
  EXPECT_TRUE(at::equal(this->run(again), before));
  // A clone outlives what it was cloned from.
  this->model_ = TypeParam(nullptr);
  copy = TypeParam(nullptr);
  EXPECT_TRUE(at::equal(this->run(again), before));
}

TYPED_TEST(EveryClass, SavesAndLoadsAgainAndAgain) {
  const TemporaryFolder folder;
  const auto directory = folder.path() / "model";
  TypeParam model = this->model_;
  const Tensor before = this->run(model).detach();
  for (int round = 0; round < 3; ++round) {
    save_model(directory, model);
    EXPECT_EQ(saved_model_name(directory), TypeParam::ContainedType::kModelName);
    TypeParam loaded = load_model<TypeParam>(directory);
    EXPECT_TRUE(loaded->is_training());
    loaded->eval();
    EXPECT_EQ(nn::made_from(*loaded), nn::made_from(*model));
    EXPECT_TRUE(at::equal(this->run(loaded), before)) << round;
    std::set<void*> storage;
    for (auto* m : {&model, &loaded}) {
      for (const auto& [key, tensor] : weights(**m)) EXPECT_TRUE(storage.insert(tensor.data_ptr()).second) << key;
    }
    model = round == 0 ? this->clone(loaded) : loaded;
  }
}

TYPED_TEST(EveryClass, LoadsNoOtherClass) {
  const TemporaryFolder folder;
  save_model(folder.path() / "model", this->model_);
  const auto as = [&]<class Other>(Other*) {
    const std::string name = Other::ContainedType::kModelName;
    if (name == TypeParam::ContainedType::kModelName) return;
    EXPECT_THAT(refusal([&] { load_model<Other>(folder.path() / "model"); }),
                AllOf(HasSubstr("not the config of a " + name + " checkpoint"),
                      HasSubstr(TypeParam::ContainedType::kModelName)));
  };
  as(static_cast<LongNet*>(nullptr));
  as(static_cast<FeedForward*>(nullptr));
  as(static_cast<MultiheadDilatedAttention*>(nullptr));
  EXPECT_THAT(refusal([&] { save_model(folder.path() / "model", TypeParam(nullptr)); }), HasSubstr("empty holder"));
  EXPECT_EQ(saved_model_name(folder.path() / "model"), TypeParam::ContainedType::kModelName);
}

TYPED_TEST(EveryClass, ForwardsAtOnceAreForwardsInTurn) {
  const at::NoGradGuard no_grad;
  const Tensor expected = this->run(this->model_);
  std::array<int, 3> wrong = {};
  std::vector<std::thread> threads;
  for (int& mine : wrong) {
    threads.emplace_back([&] {
      const at::NoGradGuard inner;
      for (int i = 0; i < 20; ++i) mine += !at::equal(this->run(this->model_), expected);
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, (std::array<int, 3>{}));
}

TYPED_TEST(EveryClass, TheThousandthCallIsTheFirst) {
  const OneThread one_thread;
  const at::NoGradGuard no_grad;
  const auto made_from = nn::made_from(*this->model_);
  const Tensor first = this->run(this->model_);
  for (int i = 1; i < 1000; ++i) ASSERT_TRUE(at::equal(this->run(this->model_), first)) << i;
  EXPECT_EQ(nn::made_from(*this->model_), made_from);
}

}  // namespace
}  // namespace longstride
