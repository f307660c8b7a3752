// Factors of RoPE and xPos: precision, range, strides. Their formula is checked in attention_test.cc.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::refusal;
using testing::AllOf;
using testing::HasSubstr;

TEST(Positions, FactorsAreRightAtAMillion) {
  PositionOptions o;
  o.kind = Positions::kRope;
  const int64_t last = 1'000'000;
  const auto f = rotary_factors(o, last, 1, 64, at::kFloat, at::kCPU);
  EXPECT_EQ(f.q.scalar_type(), at::kComplexFloat);
  EXPECT_TRUE(f.q.is_same(f.k));
  for (int64_t c = 0; c < 32; ++c) {
    const double angle = double(last) * std::pow(10000.0, -2.0 * double(c) / 64);
    const auto got = f.q[0][0][c].item<c10::complex<float>>();
    EXPECT_NEAR(got.real(), std::cos(angle), 1e-7);
    EXPECT_NEAR(got.imag(), std::sin(angle), 1e-7);
  }
}

TEST(Positions, XposProductDependsOnDistanceOnly) {
  PositionOptions o;
  o.kind = Positions::kXpos;
  o.xpos_scale_base = 40;
  const Tensor q = at::randn({1, 1, 1, 16}, at::kDouble), k = at::randn({1, 1, 1, 16}, at::kDouble);
  const auto product = [&](int64_t n, int64_t m) {
    const auto at_n = rotary_factors(o, n, 1, 16, at::kDouble, at::kCPU);
    const auto at_m = rotary_factors(o, m, 1, 16, at::kDouble, at::kCPU);
    return (rotate(q, at_n.q) * rotate(k, at_m.k)).sum().item<double>();
  };
  EXPECT_NEAR(product(37, 20), product(937, 920), 1e-10);
  EXPECT_GT(std::abs(product(37, 20) - product(38, 20)), 1e-3);
}

TEST(Positions, OfRowsThatAreNotConsecutiveAreThoseOfTheWhole) {
  const Tensor rows = at::tensor({7, 2, 3, 29}, at::kLong);
  for (const Positions kind : {Positions::kRope, Positions::kXpos}) {
    PositionOptions o;
    o.kind = kind;
    const auto whole = rotary_factors(o, 0, 30, 16, at::kDouble, at::kCPU);
    const auto some = rotary_factors(o, rows, 30, 16, at::kDouble);
    EXPECT_TRUE(some.q.equal(whole.q.index_select(0, rows)));
    EXPECT_TRUE(some.k.equal(whole.k.index_select(0, rows)));
    EXPECT_EQ(refusal([&] { rotary_factors(o, rows, 29, 16, at::kDouble); }),
              "positions must be in [0, len 29), got 29");
    EXPECT_EQ(refusal([&] { rotary_factors(o, rows.to(at::kInt), 30, 16, at::kDouble); }),
              "positions must be int64 [rows], got Int [4]");
  }
  PositionOptions xpos;
  xpos.kind = Positions::kXpos;
  xpos.xpos_scale_base = 40;
  EXPECT_THAT(refusal([&] { rotary_factors(xpos, rows, 4000, 16, at::kFloat); }), HasSubstr("len 4000"));
  EXPECT_FALSE(rotary_factors({}, rows, 30, 16, at::kFloat).defined());
}

TEST(Positions, XposRangeIsRefusedWithWhatWorks) {
  PositionOptions o;
  o.kind = Positions::kXpos;
  EXPECT_EQ(o.scale_base(), 32768);
  o.max_len = 4096;
  EXPECT_EQ(o.scale_base(), 512);
  EXPECT_NO_THROW(rotary_factors(o, 0, 16972, 8, at::kFloat, at::kCPU));
  const std::string text = refusal([&] { rotary_factors(o, 0, 17000, 8, at::kFloat, at::kCPU); });
  EXPECT_THAT(text, AllOf(HasSubstr("17000"), HasSubstr("scale_base 512"), HasSubstr("xpos_scale_base = 513 works")));
  o.xpos_scale_base = 513;
  const auto f = rotary_factors(o, 0, 17000, 8, at::kFloat, at::kCPU);
  EXPECT_TRUE(at::isfinite(at::view_as_real(f.k)).all().item<bool>());
  EXPECT_GT(f.q.abs().min().item<float>(), 0);
  EXPECT_THAT(refusal([&] { rotary_factors(o, 0, 17000, 8, at::kHalf, at::kCPU); }), HasSubstr("<= 12"));
  EXPECT_THAT(refusal([&] { rotary_factors(o, -1, 4, 8, at::kFloat, at::kCPU); }), HasSubstr("position0"));
  EXPECT_THAT(refusal([&] { rotary_factors(o, 0, 4, 7, at::kFloat, at::kCPU); }), HasSubstr("even"));
  EXPECT_THAT(refusal([] { positions_from_name("ropes"); }), HasSubstr("did you mean 'rope'"));
}

TEST(Positions, RotateTakesAnyStrides) {
  PositionOptions o;
  o.kind = Positions::kRope;
  const auto f = rotary_factors(o, 3, 6, 8, at::kFloat, at::kCPU);
  const Tensor x = at::randn({2, 6, 3, 8});
  const Tensor expected = rotate(x, f.q);
  const Tensor odd = at::empty({2, 6, 3, 9}).narrow(3, 1, 8).copy_(x);
  EXPECT_LT(distance(rotate(odd, f.q), expected), 1e-6);
  EXPECT_LT(distance(rotate(x.transpose(1, 2).contiguous().transpose(1, 2), f.q), expected), 1e-6);
  EXPECT_EQ(rotate(x.to(at::kBFloat16), f.q).scalar_type(), at::kBFloat16);
  EXPECT_THAT(refusal([&] { rotate(x.narrow(1, 0, 5), f.q); }), HasSubstr("factors"));
}

}  // namespace
}  // namespace longstride
