// Tensors that are no array in memory, or whose memory is gone: each is refused by name wherever it is handed in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longstride/attention/weights.h"
#include "longstride/pattern/json.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

const std::string kList = R"({"blocks": [{"pattern": "list", "block_size": 4}]})";

// As t.untyped_storage().resize_(0) in Python leaves it: sizes, but no memory.
Tensor freed(const Tensor& t) {
  Tensor copy = t.detach().clone();
  copy.storage().unsafeGetStorageImpl()->set_nbytes(0);
  (void)copy.storage().unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, t.device()));
  return copy;
}

class HandedIn : public testing::Test {
 protected:
  std::string call(const Tensor& a, const Tensor& b, const Tensor& c) {
    return refusal([&] { attention(a, b, c, pattern, options); });
  }

  const Tensor q = normal(1, {2, 10, 4, 8}), k = normal(2, {2, 10, 2, 8}), v = normal(3, {2, 10, 2, 8});
  const Pattern pattern = Pattern::dilated({4, 8}, {1, 2});
  const Tensor blocks = torch::tensor({0, -1, 0, 0, 1, -1, 2, 1}, at::kInt).reshape({2, 4});
  AttentionOptions options;
};

// Every argument of the operator in turn replaced by `make` of it, forward and backward, under each way to call it.
void each_argument(const std::function<Tensor(const Tensor&)>& make, const std::string& message) {
  const Tensor q = normal(1, {2, 10, 4, 8}), k = normal(2, {2, 10, 2, 8}), v = normal(3, {2, 10, 2, 8});
  const auto blocks = torch::tensor({0, -1, 0, 0, 1, -1, 2, 1}, at::kInt).reshape({2, 4});
  const Tensor gates = at::ones({2}), lengths = torch::tensor({10, 3}, at::kLong), seed = torch::tensor({7}, at::kLong),
               cu_seqlens = torch::tensor({0, 4, 10}, at::kLong),
               slopes = torch::tensor({0.5, 0.25, 0.0, -0.1}, at::kFloat);
  const Tensor out = at::zeros_like(q), lse = at::zeros({2, 4, 10});
  struct Argument {
    std::string name;
    c10::IValue value;
  };
  const auto rest = [&](bool documents) -> std::vector<Argument> {
    const std::string text = documents ? R"({"dilated": {"segment_lengths": [4], "dilation_rates": [1]}})" : kList;
    return {{"", text},
            {"blocks", documents ? c10::IValue() : blocks},
            {"gates", documents ? c10::IValue() : gates},
            {"alibi_slopes", slopes},
            {"cu_seqlens", documents ? cu_seqlens : c10::IValue()},
            {"lengths", documents ? c10::IValue() : lengths},
            {"dropout_seed", seed},
            {"", c10::IValue()},
            {"", c10::IValue()},
            {"", 0.25},
            {"", false}};
  };
  const auto try_all = [&](const std::string& name, std::vector<Argument> arguments) {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
    torch::jit::Stack good;
    for (const Argument& argument : arguments) good.push_back(argument.value);
    EXPECT_NO_THROW(op.callBoxed(good));
    int tried = 0;
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].name.empty() || !arguments[i].value.isTensor()) continue;
      Tensor bad;
      try {
        bad = make(arguments[i].value.toTensor());
      } catch (const c10::Error&) {
        continue;  // torch makes no such tensor of this dtype
      }
      ++tried;
      const std::string text = refusal([&] {
        torch::jit::Stack stack;
        for (size_t j = 0; j < arguments.size(); ++j) stack.push_back(i == j ? c10::IValue(bad) : arguments[j].value);
        op.callBoxed(stack);
      });
      EXPECT_THAT(text, HasSubstr(arguments[i].name + " must")) << name;
      EXPECT_THAT(text, HasSubstr(message)) << name << " " << arguments[i].name;
    }
    EXPECT_GE(tried, 3) << name;
  };
  for (const bool documents : {false, true}) {
    std::vector<Argument> forward = {{"q", q}, {"k", k}, {"v", v}};
    std::vector<Argument> backward = {{"d_out", out}, {"d_lse", lse}, {"q", q},    {"k", k},
                                      {"v", v},       {"out", out},   {"lse", lse}};
    for (const Argument& argument : rest(documents)) {
      forward.push_back(argument);
      backward.push_back(argument);
    }
    for (const bool inference : {false, true}) {
      const c10::InferenceMode mode(inference);
      try_all("longstride::attention", forward);
      try_all("longstride::attention_backward", backward);
    }
  }
}

TEST(HandedInEverywhere, SparseTensors) {
  each_argument([](const Tensor& t) { return t.to_sparse(); }, "must be a dense tensor, got one of layout Sparse");
}

TEST(HandedInEverywhere, CompressedTensors) {
  each_argument(
      [](const Tensor& t) {
        return t.reshape({1, t.numel()}).to_sparse_csr();
      },
      "must be a dense tensor, got one of layout SparseCsr");
}

TEST(HandedInEverywhere, TensorsOfOneDnn) {
  each_argument(
      [](const Tensor& t) {
        TORCH_CHECK(t.scalar_type() == at::kFloat, "only these");
        return t.to_mkldnn();
      },
      "must be a dense tensor, got one of layout Mkldnn");
}

TEST(HandedInEverywhere, QuantizedTensors) {
  each_argument(
      [](const Tensor& t) {
        TORCH_CHECK(t.scalar_type() == at::kFloat, "only these");
        return at::quantize_per_tensor(t, 0.1, 10, at::kQUInt8);
      },
      "must be a dense tensor, got a quantized one");
}

TEST(HandedInEverywhere, NestedTensors) {
  each_argument(
      [](const Tensor& t) {
        TORCH_CHECK(t.dim() > 1, "only these");
        return at::_nested_tensor_from_tensor_list(t.unbind());
      },
      "must be a dense tensor, got a nested one");
}

TEST(HandedInEverywhere, TensorsWithoutTheirMemory) { each_argument(freed, "must have its memory"); }

TEST_F(HandedIn, PartOfTheMemoryIsNotEnough) {
  Tensor wide = at::zeros({2, 10, 4, 16});
  const Tensor half = wide.narrow(3, 8, 8);
  EXPECT_NO_THROW(attention(half, k, v, pattern));
  wide.storage().unsafeGetStorageImpl()->set_nbytes(2 * 10 * 4 * 16 * 4 - 4);
  EXPECT_THAT(call(half, k, v), HasSubstr("q must have its memory, 5120 bytes, got 5116 bytes; its storage was freed"));
  const Tensor row = at::zeros({1, 1, 1, 8}).expand({2, 10, 4, 8});  // one row of memory is all that this needs
  EXPECT_NO_THROW(attention(row, k, v, pattern));
}

TEST_F(HandedIn, EverythingElseThatReadsThem) {
  const Tensor gone = freed(q);
  EXPECT_THAT(refusal([&] { describe_attention(gone, k, v, pattern); }), HasSubstr("q must have its memory"));
  EXPECT_THAT(refusal([&] { describe_attention(q, k, v.to_sparse(), pattern); }), HasSubstr("v must be a dense"));
  EXPECT_THAT(refusal([&] { attention_weights(gone, k, pattern); }), HasSubstr("q must have its memory"));
  const Pattern axial = pattern_from_json(R"({"blocks": [{"pattern": "axial", "block_size": 4}]})");
  EXPECT_THAT(refusal([&] { block_attention_weights(q, freed(k), axial); }), HasSubstr("k must have its memory"));
  EXPECT_THAT(refusal([&] { attention(q, k, v, kList, freed(blocks)); }), HasSubstr("blocks must have its memory"));
  options.dropout_p = 0.5;
  options.dropout_seed = freed(torch::tensor({7}, at::kLong));
  EXPECT_THAT(call(q, k, v), HasSubstr("dropout_seed must have its memory"));
}

TEST_F(HandedIn, PartsToMerge) {
  const AttentionResult good = attention(q, k, v, pattern);
  const auto refused = [](const Tensor& out, const Tensor& lse) { return refusal([&] { merge({{out, lse}}); }); };
  EXPECT_THAT(refused(freed(good.out), good.lse), HasSubstr("parts[0].out must have its memory"));
  EXPECT_THAT(refused(good.out, freed(good.lse)), HasSubstr("parts[0].lse must have its memory"));
  EXPECT_THAT(refused(good.out.to_sparse(), good.lse), HasSubstr("parts[0].out must be a dense tensor"));
  EXPECT_THAT(refused(good.out.to(at::kLong), good.lse),
              HasSubstr("parts[0].out must be float32, bfloat16, float16 or"));
  EXPECT_THAT(refused(good.out, good.lse.to(at::kInt)), HasSubstr("parts[0].lse must be Float, as attention() gives"));
  EXPECT_THAT(refused(good.out, good.lse.to(at::kDouble)), HasSubstr("parts[0].lse must be Float"));
  EXPECT_THAT(refused(good.out, good.lse.to(at::kMeta)), HasSubstr("parts[0] must be on the device of the first part"));
  EXPECT_THAT(refused(good.out.to(at::kMeta), good.lse), HasSubstr("parts[0] must be on the device of the first part"));
  // Two on the meta device are shapes, as they are for attention().
  const AttentionResult meta = merge({{good.out.to(at::kMeta), good.lse.to(at::kMeta)}});
  EXPECT_TRUE(meta.out.is_meta() && meta.lse.is_meta());
  EXPECT_EQ(meta.out.sizes(), good.out.sizes());
  // A dim of 0 is a shape like any other here.
  EXPECT_EQ(merge({{good.out.narrow(3, 0, 0), good.lse}}).out.sizes(), (std::vector<int64_t>{2, 10, 4, 0}));
}

TEST_F(HandedIn, DevicesThatAreNotThere) {
  for (const char* device : {"cuda:99", "xla", "mps"})
    EXPECT_THAT(refusal([&] { draw_dropout_seed(at::Device(device)); }),
                HasSubstr(std::string("device must be one that this torch and machine have, got ") + device));
  EXPECT_EQ(draw_dropout_seed(at::kCPU).scalar_type(), at::kLong);
}

// What no memory of any machine holds, before a byte of it is asked for.
TEST_F(HandedIn, ResultsBeyondTheMachinesMemory) {
  const Tensor one = at::zeros({1, 1, 1, 8});
  const Tensor many = one.expand({1, int64_t{1} << 48, 1, 8});
  EXPECT_THAT(call(many, many, many), HasSubstr("the result must be at most"));
  options.query_start = 0;
  const Tensor rows = one.expand({1 << 20, int64_t{1} << 20, 1, 8});
  EXPECT_THAT(call(rows, rows, rows), HasSubstr("the result must be at most"));
}

}  // namespace
}  // namespace longstride::test
