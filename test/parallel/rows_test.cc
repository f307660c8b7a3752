// Rows on their way, against the lists: every row of a message and of a buffer is the key or the query that stands
// there, whatever the element type, the strides and the threads; and gradients are added in one order.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "longstride/error.h"
#include "parallel/host_moves.h"
#include "test/engine/lent.h"
#include "test/parallel/sharded_cases.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

using Bytes = std::vector<unsigned char>;

constexpr int64_t kDim = 3;
constexpr unsigned char kUntouched = 0xA5;

// A tensor of a shard, [batch, rows, heads, kDim] with gaps, whose bytes are drawn from `seed`.
class Tensor {
 public:
  Tensor(int64_t batch, int64_t rows, int64_t heads, core::DType dtype, uint64_t seed)
      : size_(static_cast<int64_t>(core::size_bytes(dtype))),
        ref_{nullptr, rows * (heads * (kDim + 1) + 2), heads * (kDim + 1) + 2, kDim + 1},
        bytes_((batch * ref_.batch_stride + 1) * size_) {
    test::Draw draw(seed);
    for (unsigned char& byte : bytes_) byte = static_cast<unsigned char>(draw.below(256));
  }
  engine::ConstTensorRef read() const {
    engine::ConstTensorRef ref = ref_;
    ref.data = bytes_.data();
    return ref;
  }
  engine::TensorRef write() { return {bytes_.data(), ref_.batch_stride, ref_.len_stride, ref_.head_stride}; }
  Bytes row(int64_t b, int64_t i, int64_t head) const {
    const auto at = bytes_.begin() + (b * ref_.batch_stride + i * ref_.len_stride + head * ref_.head_stride) * size_;
    return {at, at + kDim * size_};
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  int64_t size_;
  engine::ConstTensorRef ref_;
  Bytes bytes_;
};

Bytes cut(const Bytes& from, int64_t row, int64_t bytes) {
  return {from.begin() + row * bytes, from.begin() + (row + 1) * bytes};
}
Bytes joined(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

engine::Problem problem_of(const Rank& rank, core::DType dtype) {
  return {.dtype = dtype, .heads = rank.call.extent.heads, .len_q = rank.rows(), .dim = kDim};
}

// The keys and values of all ranks, and one rank's rows by position.
struct World {
  World(const Pattern& pattern, const Extent& e, const test::Held& held, core::DType type) : extent(e), dtype(type) {
    for (size_t rank = 0; rank < held.positions.size(); ++rank) {
      ranks.emplace_back(ShardedCall(pattern, e, held.shards), static_cast<int64_t>(rank));
      const auto rows = static_cast<int64_t>(held.positions[rank].size());
      k.emplace_back(e.batch, rows, e.kv_heads, dtype, 3 * rank);
      v.emplace_back(e.batch, rows, e.kv_heads, dtype, 3 * rank + 1);
      for (int64_t i = 0; i < rows; ++i) holder[held.positions[rank][i]] = {rank, i};
    }
  }
  HostMoves moves(size_t rank, const engine::Workspace& w) const {
    return {ranks[rank], problem_of(ranks[rank], dtype), w};
  }
  int64_t row_bytes() const { return 2 * kDim * static_cast<int64_t>(core::size_bytes(dtype)); }
  // K and V of a position.
  Bytes key(int64_t place, int64_t position) const {
    const auto [rank, row] = holder.at(position);
    const int64_t b = place / extent.kv_heads, j = place % extent.kv_heads;
    return joined(k[rank].row(b, row, j), v[rank].row(b, row, j));
  }

  Extent extent;
  core::DType dtype;
  std::vector<Rank> ranks;
  std::vector<Tensor> k, v;
  std::map<int64_t, std::pair<size_t, int64_t>> holder;  // of a position: rank and row
};

// Messages of a rank by the words of lists.h, row by row.
Bytes by_the_lists(const World& world, const std::vector<Message>& messages) {
  Bytes all;
  for (const Message& m : messages) {
    for (size_t place = 0; place < world.ranks[0].call.classes.class_of.size(); ++place) {
      const int32_t c = world.ranks[0].call.classes.class_of[place];
      for (int64_t p = m.part_begin[c]; p < m.part_begin[c + 1]; ++p) {
        const Progression& keys = m.parts[p].keys;
        for (int64_t i = 0; i < keys.count; ++i) {
          all = joined(std::move(all), world.key(static_cast<int64_t>(place), keys.first + i * keys.step));
        }
      }
    }
  }
  return all;
}

// "" or what is wrong with the buffer of keys of a rank.
std::string check_buffer(const World& world, size_t rank, const std::vector<int64_t>& own, const Bytes& buffer) {
  const Rank& its = world.ranks[rank];
  const int64_t bytes = world.row_bytes();
  for (size_t place = 0; place < its.call.classes.class_of.size(); ++place) {
    const int32_t c = its.call.classes.class_of[place];
    const GatheredClass& g = its.gathered.classes[c];
    std::vector<int64_t> positions(its.gathered.keys, -1);
    for (const Rows& rows : its.lists.needs[c].rows) {
      for (int64_t i = 0; i < rows.keys.count; ++i) positions[rows.received + i] = rows.keys.first + i * rows.keys.step;
    }
    for (const Gathering& one : g.own) {
      for (int64_t i = 0; i < one.count; ++i) positions[one.to + i] = own[one.from + i * one.step];
    }
    for (const Gathering& one : g.received) {
      for (int64_t i = 0; i < one.count; ++i) positions[one.to + i] = positions[one.from + i * one.step];
    }
    for (int64_t i = 0; i < its.gathered.keys; ++i) {
      const Bytes got = cut(buffer, static_cast<int64_t>(place) * its.gathered.keys + i, bytes);
      const Bytes expected = i < g.key_rows ? world.key(static_cast<int64_t>(place), positions[i]) : Bytes(bytes, 0);
      if (got != expected) return fmt::format("place {}: row {} of the buffer is another", place, i);
    }
  }
  return "";
}

std::string check_queries(const World& world, size_t rank, const engine::Workspace& w) {
  const Rank& its = world.ranks[rank];
  const int64_t heads = world.extent.heads, bytes = world.row_bytes() / 2;
  const Tensor q(world.extent.batch, its.rows(), heads, world.dtype, 77);
  Bytes got(world.extent.batch * heads * its.gathered.queries * bytes, kUntouched);
  world.moves(rank, w).gather_queries(q.read(), got.data());
  for (int64_t line = 0; line < world.extent.batch * heads; ++line) {
    const GatheredClass& g = its.gathered.classes[its.call.classes.class_of[line / (heads / world.extent.kv_heads)]];
    std::vector<Bytes> expected(its.gathered.queries, Bytes(bytes, 0));
    for (const Gathering& one : g.queries) {
      for (int64_t i = 0; i < one.count; ++i) {
        expected[one.to + i] = q.row(line / heads, one.from + i * one.step, line % heads);
      }
    }
    for (int64_t i = 0; i < its.gathered.queries; ++i) {
      if (cut(got, line * its.gathered.queries + i, bytes) != expected[i]) return "another query is gathered";
    }
  }
  return "";
}

std::string check(const Pattern& pattern, const Extent& e, const test::Held& held, core::DType dtype,
                  const engine::Workspace& w) {
  const World world(pattern, e, held, dtype);
  for (size_t rank = 0; rank < world.ranks.size(); ++rank) {
    const RankLists& lists = world.ranks[rank].lists;
    const HostMoves moves = world.moves(rank, w);
    Bytes sent(rows_in(lists.sends) * world.row_bytes(), kUntouched);
    moves.pack(world.k[rank].read(), world.v[rank].read(), sent.data());
    if (sent != by_the_lists(world, lists.sends)) return fmt::format("rank {} packs other rows", rank);
    const Bytes received = by_the_lists(world, lists.receives);
    Bytes buffer(world.ranks[rank].places() * world.ranks[rank].gathered.keys * world.row_bytes(), kUntouched);
    moves.unpack(received.data(), buffer.data());
    Bytes back(received.size(), kUntouched);
    moves.pack_gradients(buffer.data(), back.data());
    if (back != received) return fmt::format("rank {} sends back other rows than it received", rank);
    moves.gather_keys(world.k[rank].read(), world.v[rank].read(), buffer.data());
    std::string wrong = check_buffer(world, rank, held.positions[rank], buffer);
    if (wrong.empty()) wrong = check_queries(world, rank, w);
    if (!wrong.empty()) return fmt::format("rank {}: {}", rank, wrong);
  }
  return "";
}

TEST(Rows, LieWhereTheListsSay) {
  const engine::Workspace threads = test::threads(3);
  int n = 0;
  const auto check_one = [&](const Pattern& pattern, const Extent& e, const test::Held& held) {
    const core::DType dtype = std::array{core::DType::kBFloat16, core::DType::kFloat32, core::DType::kFloat64}[n % 3];
    return check(pattern, e, held, dtype, n++ % 8 == 0 ? threads : engine::Workspace());
  };
  test::for_each_sharded_case(150, check_one);
  test::for_each_sharded_rule(check_one);
}

// More rows than one task copies, by threads.
TEST(Rows, OfManyTasks) {
  const Pattern pattern = Pattern::dilated({4096, 8192}, {1, 2}, {.causal = true});
  const Extent e = {.batch = 1, .heads = 2, .kv_heads = 2, .len_q = 8192, .len_k = 8192};
  EXPECT_EQ("", check(pattern, e, test::held_zigzag(8192, 2), core::DType::kFloat32, test::threads(3)));
}

// All see every second key of rank 2: what comes home is added to what is there, one peer after another, by threads
// too.
TEST(Sums, ComeHomeInOneOrder) {
  const Extent e = {.batch = 2, .heads = 3, .kv_heads = 3, .len_q = 40, .len_k = 40};
  const ShardedCall call(Pattern::dilated({40}, {2}), e, Shards::even(40, 5));
  const Rank rank(call, 2);
  ASSERT_EQ(4u, rank.lists.sends.size());
  const int64_t elements = rows_in(rank.lists.sends) * 2 * kDim;
  std::vector<float> returned(elements);
  test::Draw draw(9);
  for (float& x : returned) x = static_cast<float>(draw.value() * std::exp(10 * draw.value()));
  std::vector<float> dk(2 * 8 * 3 * kDim, 1.0f), dv(dk.size(), 2.0f);
  std::vector<float> expected_dk = dk, expected_dv = dv;
  int64_t begin = 0;
  for (const Message& m : rank.lists.sends) {
    for (int64_t place = 0; place < 6; ++place) {
      const int32_t c = call.classes.class_of[place];
      for (int64_t p = m.part_begin[c]; p < m.part_begin[c + 1]; ++p) {
        for (int64_t i = 0; i < m.parts[p].keys.count; ++i) {
          const int64_t from = (begin + m.place_begin[place] + m.parts[p].packed + i) * 2 * kDim;
          const int64_t row = m.parts[p].local + i * m.parts[p].keys.step;
          const int64_t to = ((place / 3 * 8 + row) * 3 + place % 3) * kDim;
          for (int64_t d = 0; d < kDim; ++d) {
            expected_dk[to + d] += returned[from + d];
            expected_dv[to + d] += returned[from + kDim + d];
          }
        }
      }
    }
    begin += m.rows();
  }
  for (const bool by_threads : {false, true}) {
    std::vector<float> got_dk = dk, got_dv = dv;
    const engine::Workspace w = by_threads ? test::threads(3) : engine::Workspace();
    HostMoves(rank, problem_of(rank, core::DType::kFloat32), w)
        .add_returned(returned.data(), {got_dk.data(), 8 * 3 * kDim, 3 * kDim, kDim},
                      {got_dv.data(), 8 * 3 * kDim, 3 * kDim, kDim});
    EXPECT_EQ(expected_dk, got_dk);
    EXPECT_EQ(expected_dv, got_dv);
  }
}

TEST(Sums, OfFewBitsAreRefused) {
  const ShardedCall call(Pattern::dilated({8}, {1}), test::square(1, 8), Shards::even(8, 2));
  const Rank rank(call, 0);
  const engine::Workspace here;
  try {
    HostMoves(rank, problem_of(rank, core::DType::kBFloat16), here).add_returned(nullptr, {}, {});
    ADD_FAILURE() << "not refused";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("dtype must be float32 or float64 where parts of several ranks are added, "
                                             "got bfloat16"));
  }
}

}  // namespace
}  // namespace longstride::parallel
