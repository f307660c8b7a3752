// Decoding steps by the plan of an earlier position against the oracle, on the device: what came since the plan's
// position is seen, and what a cache holds behind the query is not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "longstride/error.h"
#include "plan/step_base.h"
#include "test/engine/compare.h"
#include "test/engine/cuda/staging.h"
#include "test/engine/peer.h"

namespace longstride::test {
namespace {

using core::DType;
namespace sm80 = engine::cuda::sm80;
namespace sm90 = engine::cuda::sm90;

constexpr int64_t kLen = 3072;  // of the cache
constexpr int64_t kStride = 4;  // of the wider group

struct Kind {
  DType dtype;
  int64_t dim;
  bool portable = false;     // sm80
  bool short_tiles = false;  // sm90's kernel for tiles of few columns

  Geometry geometry() const {
    return portable ? sm80::geometry(dtype, dim, Direction::kForward) : sm90::geometry(Direction::kForward);
  }
  // The forward with the plan of so many tokens before; no backward.
  Engine engine(int64_t plan_tokens) const {
    Engine e = portable ? staged_sm80() : short_tiles ? staged_sm90_tiles(true) : staged_sm90();
    e.forward = [run = e.forward, plan_tokens](const engine::ForwardProblem& p, const PlanView& plan,
                                               const engine::Workspace& w) {
      engine::ForwardProblem moved = p;
      moved.plan_tokens = plan_tokens;
      run(moved, plan, w);
    };
    e.backward = [](const engine::BackwardProblem&, const PlanView&, const engine::Workspace&) {};
    return e;
  }
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << (kind.portable ? "sm80 " : "sm90 ") << core::name(kind.dtype) << " dim " << kind.dim;
}

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  return std::string(info.param.portable ? "sm80_" : "sm90_") + core::name(info.param.dtype) + "_" +
         std::to_string(info.param.dim) + (info.param.short_tiles ? "_short_tiles" : "");
}

Case case_at(const Kind& kind, int64_t position) {
  Choice choice(kFactors, 0);
  choice[kLayout] = 3;
  return make_case(choice, static_cast<uint64_t>(position), Poison::kNone, [&](DType& dtype, oracle::Options& o) {
    dtype = kind.dtype;
    o.batch = 2;
    o.heads = 4;
    o.kv_heads = 2;
    o.dim = kind.dim;
    o.len_q = 1;
    o.len_k = kLen;
    o.query_start = position;
    o.causal = true;
    o.segments = {1024, 4096};
    o.rates = {1, kStride};
    o.offsets = {0, 0, position % kStride, (position + 1) % kStride};  // the second KV head sees one group
  });
}

class CudaSteps : public testing::TestWithParam<Kind> {
 protected:
  void check(int64_t base, int64_t position, const Geometry& geometry) {
    Case c = case_at(GetParam(), position);
    const int64_t tokens = position - base;
    Extent planned = c.extent();
    planned.query_start = base;
    planned.len_k = base + 1;
    ASSERT_EQ(plan::step_base(c.pattern(), c.extent()), planned);
    const Plan plan = compile(c.pattern(), planned, geometry);
    const oracle::Forward expected = c.forward();
    const Peer peer = peer_results(c);
    const int64_t row = c.options.kv_heads * c.options.dim;
    for (std::vector<double>* x : {&c.k, &c.v})
      for (int64_t b = 0; b < c.options.batch; ++b)
        std::fill(x->begin() + (b * kLen + position + 1) * row, x->begin() + (b + 1) * kLen * row, std::nan(""));
    const Results r = run_case(GetParam().engine(tokens), c, plan, plan);
    const auto compare = [&](const char* name, const std::vector<double>& actual, const std::vector<double>& wanted,
                             const std::vector<double>& plain, double terms, DType dtype) {
      double granted = 12 * 0x1p-24 * std::max(terms, 1.0);
      for (size_t i = 0; i < plain.size(); ++i) granted = std::max(granted, std::abs(plain[i] - wanted[i]));
      EXPECT_EQ(difference(name, actual, wanted, roundoff(dtype), granted), "")
          << position << " by the plan of " << base << "\n"
          << c.words();
    };
    compare("out", r.out, expected.out, peer.forward.out, peer.sizes.out, c.dtype);
    compare("lse", r.lse, expected.lse, peer.forward.lse, peer.sizes.lse, DType::kFloat32);
  }
};

// The second window of a segment: its base, the next step that shares it, others, the last one.
TEST_P(CudaSteps, SeeWhatCameSinceTheirPlan) {
  const int64_t base = 2048 + plan::kStepWindow;
  for (const int64_t tokens : {int64_t{0}, kStride, 31 * kStride, 97 * kStride, plan::kStepWindow - kStride}) {
    const Geometry whole = GetParam().geometry();
    for (const Geometry& g : {whole, eager(whole, 16)}) check(base, base + tokens, g);
  }
}

// Few columns before: those that came since are most.
TEST_P(CudaSteps, MayHaveLittlePlanned) {
  const int64_t base = 2 * kStride - 1;
  for (const int64_t tokens : {kStride, 125 * kStride}) check(base, base + tokens, GetParam().geometry());
}

TEST_P(CudaSteps, AreRefusedWithWhatGoesByPositions) {
  Case c = case_at(GetParam(), 2600);
  const Plan plan = compile(c.pattern(), plan::step_base(c.pattern(), c.extent()), GetParam().geometry());
  const Engine engine = GetParam().engine(kStride);
  c.options.dropout_p = 0.5;
  EXPECT_THROW(run_case(engine, c, plan, plan), Error);
  c.options.dropout_p = 0;
  c.options.alibi_slopes = {1, 0.5, 0.25, 0.125};
  EXPECT_THROW(run_case(engine, c, plan, plan), Error);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaSteps,
                         testing::Values(Kind{DType::kBFloat16, 64}, Kind{DType::kBFloat16, 128},
                                         Kind{DType::kFloat16, 64}, Kind{DType::kFloat16, 128},
                                         Kind{DType::kFloat32, 64}, Kind{DType::kFloat32, 128},
                                         Kind{DType::kBFloat16, 256}, Kind{DType::kBFloat16, 64, false, true},
                                         Kind{DType::kFloat16, 64, false, true}, Kind{DType::kBFloat16, 64, true},
                                         Kind{DType::kBFloat16, 128, true}, Kind{DType::kFloat16, 64, true},
                                         Kind{DType::kFloat16, 128, true}, Kind{DType::kFloat32, 64, true},
                                         Kind{DType::kFloat32, 128, true}, Kind{DType::kBFloat16, 256, true}),
                         name_of);

}  // namespace
}  // namespace longstride::test
