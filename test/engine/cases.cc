// Builds the cases of cases.h: the options behind each level, the tensors and their poison.
#include "test/engine/cases.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <sstream>

#include "core/half.h"
#include "test/engine/draw.h"

namespace longstride::test {
namespace {

void set_groups(oracle::Options& o, int level, Draw& draw) {
  switch (level) {
    case 0:
      o.segments = {16, 32, 64}, o.rates = {1, 2, 4};
      return;
    case 1:
      o.segments = {1000}, o.rates = {1};
      return;
    case 2:
      o.segments = {10, 24, 70}, o.rates = {1, 3, 5};
      return;
    case 3:
      o.segments = {4, 50}, o.rates = {6, 7};
      return;
    case 4:
      o.segments = {8, 16, 32, 64, 128}, o.rates = {1, 2, 4, 6, 12};
      return;
    case 5:
      o.segments = {7}, o.rates = {3};
      return;
    default:
      break;
  }
  const int64_t groups = 1 + draw.below(4);
  for (int64_t g = 0; g < groups; ++g) {
    o.segments.push_back(1 + draw.below(draw.one_of({4, 20, 100, 300})));
    o.rates.push_back(1 + draw.below(draw.one_of({1, 4, 9, 17})));
  }
}

void set_documents(oracle::Options& o, int level, Draw& draw) {
  if (level == 1) {
    o.cu_seqlens = {0, o.len_k};
    for (int64_t n = draw.below(4); n > 0; --n) o.cu_seqlens.push_back(draw.below(o.len_k + 1));
    std::sort(o.cu_seqlens.begin(), o.cu_seqlens.end());
  }
  if (level == 2) {
    for (int64_t b = 0; b < o.batch; ++b) {
      const int64_t some = draw.below(o.len_k + 1);
      o.lengths.push_back(draw.one_of({some, some, some, o.len_k, 0}));
    }
  }
}

// A rule of any kind whose density, if it has one, can be reached on the longest document.
oracle::BlockRule draw_rule(const oracle::Options& o, Draw& draw) {
  oracle::BlockRule r;
  r.block_size = draw.one_of({1, 3, 4, 7, 8, 16, 64});
  r.kind = static_cast<oracle::BlockKind>(draw.below(o.cu_seqlens.empty() ? 8 : 7));
  int64_t longest =
      o.lengths.empty() ? (o.cu_seqlens.empty() ? o.len_k : 0) : *std::max_element(o.lengths.begin(), o.lengths.end());
  for (size_t d = 1; d < o.cu_seqlens.size(); ++d) longest = std::max(longest, o.cu_seqlens[d] - o.cu_seqlens[d - 1]);
  const int64_t nb = std::max<int64_t>(1, (longest + r.block_size - 1) / r.block_size);
  const double least = o.causal ? 2.0 / static_cast<double>(nb + 1) : 1.0 / static_cast<double>(nb);
  const bool by_density = draw.below(2) == 1;
  r.density = least + (1 - least) * static_cast<double>(draw.below(101)) / 100;
  r.window = 1 + draw.below(3 * r.block_size + 9);
  r.global_tokens = draw.below(2 * r.block_size + 2);
  r.stride = 1 + draw.below(5);
  r.columns = draw.below(5);
  r.seed = draw.bits() >> 1;
  if (r.kind == oracle::BlockKind::kLocalWindow && by_density) r.window = 0;
  if (r.kind == oracle::BlockKind::kDilatedSparse) {
    for (int64_t n = 1 + draw.below(3); n > 0; --n) r.rates.push_back(1 + draw.below(4));
    r.reach = draw.below(4);
    // At rate 1 every density from the diagonal on can be had, at others only a share.
    if (by_density) r = {r.kind, r.block_size, 0, r.density, {1}};
  }
  for (int64_t n = 1 + draw.below(3); n > 0; --n) {
    r.levels.push_back({r.block_size * (1 + draw.below(4)), draw.below(2) * (1 + draw.below(40))});
  }
  if (r.kind == oracle::BlockKind::kList) {
    const int64_t in_all = (o.len_k + r.block_size - 1) / r.block_size;
    for (int64_t n = in_all > 0 ? draw.below(in_all * 4) : 0; n > 0; --n) {
      r.list.push_back(
          {draw.below(o.batch + 1) - 1, draw.below(o.kv_heads + 1) - 1, draw.below(in_all), draw.below(in_all)});
    }
  }
  return r;
}

void leave_out_groups(oracle::Options& o) {
  o.segments.clear();
  o.rates.clear();
  o.offsets.clear();
  o.head_partition = o.average = o.zero_keys = false;
}

void set_blocks(oracle::Options& o, int level, Draw& draw) {
  if (level == 0) return;
  if (level != 2) leave_out_groups(o);
  for (int64_t n = level == 3 ? 2 : 1; n > 0; --n) o.blocks.push_back(draw_rule(o, draw));
}

void set_window(oracle::Options& o, int level, Draw& draw) {
  if (level == 0) return;
  if (level == 3) leave_out_groups(o);
  oracle::BlockRule r;
  r.kind = oracle::BlockKind::kSlidingWindow;
  const auto side = [&] { return draw.one_of({-1, 0, 1, draw.below(9), draw.below(9), draw.below(70)}); };
  r.left = side();
  r.right = side();
  if (level >= 2) r.sink_tokens = draw.below(level == 2 ? 6 : 40);
  o.blocks.push_back(r);
}

void set_slopes(oracle::Options& o, int level, uint64_t seed) {
  Draw draw(seed ^ 0xA11B1);  // of its own: the other draws are those of a case without slopes
  for (int64_t h = 0; level > 0 && h < o.heads; ++h) {
    const double usual = std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(o.heads));
    const double drawn = std::vector<double>{0, usual, -0.2, draw.value(), 3, 40}[draw.below(6)];
    o.alibi_slopes.push_back(static_cast<float>(level == 1 ? usual : drawn));
  }
}

// Marks what no pair reads: NaN in rows of q and d_out (and d_lse) that see nothing, of k and v that nobody sees.
void poison_unread(Case& c) {
  const oracle::Options& o = c.options;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto spoil = [&](std::vector<double>& x, int64_t row) {
    for (int64_t d = 0; d < o.dim; ++d) x[row * o.dim + d] = nan;
  };
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t j = 0; j < o.kv_heads; ++j) {
      const oracle::Sight sight(o, b, j);
      std::vector<bool> read(o.len_k, false);
      for (int64_t i = 0; i < o.len_q; ++i) {
        bool sees = false;
        for (int64_t p = 0; p < o.len_k; ++p) {
          if (sight.multiplicity(o.query_start + i, p) == 0) continue;
          sees = true;
          read[p] = true;
        }
        const int64_t group = o.heads / o.kv_heads;
        for (int64_t h = j * group; !sees && h < (j + 1) * group; ++h) {
          spoil(c.q, (b * o.len_q + i) * o.heads + h);
          spoil(c.d_out, (b * o.len_q + i) * o.heads + h);
          if (c.has_d_lse) c.d_lse[(b * o.heads + h) * o.len_q + i] = nan;
        }
      }
      for (int64_t p = 0; p < o.len_k; ++p) {
        if (read[p]) continue;
        spoil(c.k, (b * o.len_k + p) * o.kv_heads + j);
        spoil(c.v, (b * o.len_k + p) * o.kv_heads + j);
      }
    }
  }
}

}  // namespace

Case make_case(const Choice& choice, uint64_t seed, Poison poison, const Adjust& adjust) {
  Draw draw(seed);
  Case c;
  c.choice = choice;
  c.seed = seed;
  c.dtype = static_cast<core::DType>(choice[kDType]);
  c.has_d_lse = choice[kDLse] == 1;
  const int64_t tile = std::vector<int64_t>{8, 4, 16, 128}[choice[kTile]];
  c.geometry.tile_rows = static_cast<int32_t>(tile);
  c.geometry.column_block = static_cast<int32_t>(draw.one_of({4, 8, 16, 128}));
  c.geometry.row_quantum = static_cast<int32_t>(draw.one_of({1, 4, 16}));
  c.geometry.merge_columns = static_cast<double>(draw.one_of({0, 2, 16, 64}));
  c.geometry.run_columns = c.geometry.tile_columns = static_cast<double>(draw.one_of({0, 2, 8}));

  oracle::Options& o = c.options;
  o.batch = 1 + draw.below(2);
  set_groups(o, choice[kGroups], draw);
  const std::vector<std::pair<int64_t, int64_t>> heads = {{4, 4}, {1, 1}, {6, 3}, {5, 5}, {8, 4}, {3, 1}};
  o.heads = heads[choice[kHeads]].first;
  o.kv_heads = heads[choice[kHeads]].second;
  o.head_partition = choice[kMixing] >= 1;
  o.average = choice[kMixing] == 2;
  if (o.head_partition && o.kv_heads < o.groups()) {
    o.heads = o.heads / o.kv_heads * o.groups();
    o.kv_heads = o.groups();
  }
  o.dim = std::vector<int64_t>{8, 1, 3, 16, 20, 33}[choice[kDim]];
  o.len_k = std::vector<int64_t>{61, 0, 1, tile - 1, tile, tile + 1, 139, draw.below(151)}[choice[kLength]];
  o.query_start = choice[kStart] == 1 ? draw.below(o.len_k + 1) : 0;
  o.len_q = choice[kStart] == 1 ? draw.below(o.len_k - o.query_start + 1) : o.len_k;
  o.causal = choice[kCausal] == 1;
  o.zero_keys = choice[kPadding] == 1;
  if (choice[kRule] == 3) {
    for (int64_t n = 0; n < o.groups() * o.kv_heads; ++n) o.offsets.push_back(draw.below(30));
  } else {
    o.rule = static_cast<oracle::OffsetRule>(choice[kRule]);
  }
  set_documents(o, choice[kDocuments], draw);
  if (choice[kScale] == 1) o.scale = 0.0;
  if (choice[kScale] == 2) o.scale = -0.7;
  o.dropout_p = choice[kDropoutP] == 1 ? 0.3 : 0.0;
  o.dropout_seed = draw.bits();
  set_blocks(o, choice[kBlocks], draw);
  set_window(o, choice[kWindow], draw);
  set_slopes(o, choice[kAlibi], seed);
  if (adjust) adjust(c.dtype, o);

  const auto fill = [&](std::vector<double>& x, int64_t n, core::DType dtype) {
    x.resize(n);
    for (double& value : x) value = rounded(draw.value(), dtype);
  };
  fill(c.q, o.batch * o.len_q * o.heads * o.dim, c.dtype);
  fill(c.k, o.batch * o.len_k * o.kv_heads * o.dim, c.dtype);
  fill(c.v, o.batch * o.len_k * o.kv_heads * o.dim, c.dtype);
  fill(c.d_out, o.batch * o.len_q * o.heads * o.dim, c.dtype);
  const core::DType lse_dtype = c.dtype == core::DType::kFloat64 ? core::DType::kFloat64 : core::DType::kFloat32;
  if (c.has_d_lse) fill(c.d_lse, o.batch * o.heads * o.len_q, lse_dtype);
  if (poison == Poison::kUnread) poison_unread(c);
  return c;
}

double rounded(double x, core::DType dtype) {
  switch (dtype) {
    case core::DType::kFloat64:
      return x;
    case core::DType::kFloat32:
      return static_cast<float>(x);
    case core::DType::kBFloat16:
      return core::to_float(core::to_bfloat16(static_cast<float>(x)));
    case core::DType::kFloat16:
      return core::to_float(core::to_float16(static_cast<float>(x)));
  }
  return x;
}

double roundoff(core::DType dtype) {
  switch (dtype) {
    case core::DType::kFloat64:
      return 0x1p-53;
    case core::DType::kFloat32:
      return 0x1p-24;
    case core::DType::kBFloat16:
      return 0x1p-8;
    case core::DType::kFloat16:
      return 0x1p-11;
  }
  return 0;
}

void for_each_case(int64_t random_count, Poison poison, const std::function<void(const Case&)>& check,
                   const Adjust& adjust) {
  if (const char* only = std::getenv("LONGSTRIDE_CASE")) {
    std::istringstream text(only);
    uint64_t seed = 0;
    char separator = 0;
    text >> seed;
    Choice choice;
    for (int level = 0; text >> separator >> level;) choice.push_back(level);
    check(make_case(choice, seed, poison, adjust));
    return;
  }
  const std::vector<Choice>& grid = pairwise_choices();
  for (size_t n = 0; n < grid.size(); ++n) check(make_case(grid[n], 1000000 + n, poison, adjust));
  for (int64_t n = 0; n < share(random_count); ++n) check(make_case(random_choice(n), n, poison, adjust));
}

}  // namespace longstride::test
