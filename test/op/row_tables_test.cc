// The tables that a device moves a rank's rows by, walked here as its kernels walk them, against the host's own
// functions: the same rows at the same places, and sums of the same addends in the same order.
#include "op/parallel/row_tables.h"

#include <gtest/gtest.h>

#include "parallel/host_moves.h"
#include "test/parallel/sharded_cases.h"

namespace longstride::op {
namespace {

using engine::cuda::RowLine;
using engine::cuda::RowTable;
using Floats = std::vector<float>;

// Calls visit(place, row, packed row) as the warps of a device find their rows, and counts them.
template <class Visit>
void for_each_row(const RowTable& t, const Visit& visit) {
  for (int64_t place = 0; place < t.places(); ++place) {
    const int64_t begin = t.line_begin[t.class_of[place]], end = t.line_begin[t.class_of[place] + 1];
    for (int64_t n = 0; n < t.most_rows; ++n) {
      int64_t line = begin;
      while (line + 1 < end && t.lines[line + 1].before <= n) ++line;
      if (line == end || n - t.lines[line].before >= t.lines[line].count) continue;
      const RowLine& l = t.lines[line];
      const int64_t index = n - l.before;
      visit(place, l.first + index * l.step, t.part_begin[l.part * t.places() + place] + l.packed + index);
    }
  }
}

// A dense tensor of dim 1, [batch, rows, heads].
struct Tensor {
  Tensor(int64_t batch, int64_t its_rows, int64_t its_heads, float first) : rows(its_rows), heads(its_heads) {
    for (int64_t i = 0; i < batch * rows * heads; ++i) all.push_back(first + 0.37f * static_cast<float>(i));
  }
  float& at(int64_t place, int64_t row) { return all[(place / heads * rows + row) * heads + place % heads]; }
  engine::TensorRef ref() { return {all.data(), rows * heads, heads, 1}; }
  int64_t rows, heads;
  Floats all;
};

Floats numbers(int64_t count, float first) {
  Floats all;
  for (int64_t i = 0; i < count; ++i) all.push_back(first + 0.73f * static_cast<float>(i));
  return all;
}

class Checked {
 public:
  Checked(const parallel::Rank& rank)
      : rank_(rank),
        e_(rank.call.extent),
        tables_(row_tables(rank)),
        keys_(rank.gathered.keys),
        moves_(rank, problem(), here_),
        k_(e_.batch, rank.rows(), e_.kv_heads, 1),
        v_(e_.batch, rank.rows(), e_.kv_heads, -1e6f),
        q_(e_.batch, rank.rows(), e_.heads, 5) {}

  std::string wrong() {
    if (!packs()) return "packs other rows";
    if (!fills()) return "fills the buffer with other rows";
    if (!queries()) return "gathers other queries";
    if (!sums()) return "adds in another order";
    return "";
  }

 private:
  engine::Problem problem() const {
    engine::Problem p;
    p.dim = 1;
    p.heads = e_.heads;
    p.len_q = rank_.rows();
    return p;
  }
  int64_t sent() const { return parallel::rows_in(rank_.lists.sends); }
  int64_t received() const { return parallel::rows_in(rank_.lists.receives); }
  int64_t buffer_size() const { return rank_.places() * keys_ * 2; }

  void gather(const RowTable& t, Tensor& k, Tensor& v, Floats& to) {
    for_each_row(t, [&](int64_t place, int64_t row, int64_t packed) {
      to[2 * packed] = k.at(place, row);
      to[2 * packed + 1] = v.at(place, row);
    });
  }

  bool packs() {
    Floats expected(2 * sent()), got(2 * sent());
    moves_.pack(k_.ref(), v_.ref(), expected.data());
    gather(tables_.sends, k_, v_, got);
    return got == expected;
  }

  bool fills() {
    const Floats message = numbers(2 * received(), 3e6f);
    Floats expected(buffer_size(), 9), got(buffer_size(), 0);
    moves_.unpack(message.data(), expected.data());
    moves_.gather_keys(k_.ref(), v_.ref(), expected.data());
    for_each_row(tables_.receives, [&](int64_t place, int64_t row, int64_t packed) {
      for (int n = 0; n < 2; ++n) got[2 * (place * keys_ + row) + n] = message[2 * packed + n];
    });
    gather(tables_.own, k_, v_, got);
    for_each_row(tables_.again, [&](int64_t place, int64_t row, int64_t packed) {
      for (int n = 0; n < 2; ++n) got[2 * packed + n] = got[2 * (place * keys_ + row) + n];
    });
    return got == expected;
  }

  bool queries() {
    const int64_t size = e_.batch * e_.heads * rank_.gathered.queries;
    Floats expected(size, 9), got(size, 0);
    moves_.gather_queries(q_.ref(), expected.data());
    for_each_row(tables_.queries, [&](int64_t place, int64_t row, int64_t packed) { got[packed] = q_.at(place, row); });
    return got == expected;
  }

  bool sums() {
    const Floats returned = numbers(2 * sent(), 0.11f);
    Tensor dk = k_, dv = v_;
    moves_.add_returned(returned.data(), dk.ref(), dv.ref());
    Tensor got_dk = k_, got_dv = v_;
    for_each_row(tables_.sends, [&](int64_t place, int64_t row, int64_t packed) {
      got_dk.at(place, row) += returned[2 * packed];
      got_dv.at(place, row) += returned[2 * packed + 1];
    });
    return got_dk.all == dk.all && got_dv.all == dv.all;
  }

  const parallel::Rank& rank_;
  const Extent& e_;
  const RowTables tables_;
  const int64_t keys_;
  const engine::Workspace here_;
  const parallel::HostMoves moves_;
  Tensor k_, v_, q_;
};

TEST(RowTables, AreTheListsOfTheHost) {
  const auto check = [](const Pattern& pattern, const Extent& e, const test::Held& held) -> std::string {
    for (size_t n = 0; n < held.positions.size(); ++n) {
      const parallel::Rank rank(parallel::ShardedCall(pattern, e, held.shards), static_cast<int64_t>(n));
      const std::string wrong = Checked(rank).wrong();
      if (!wrong.empty()) return "rank " + std::to_string(n) + " " + wrong;
    }
    return "";
  };
  test::for_each_sharded_case(60, check);
  test::for_each_sharded_rule(check);
}

// However long the sequence, a few lines.
TEST(RowTables, AreShort) {
  const int64_t len = int64_t{1} << 24;
  const Extent e = {.batch = 1, .heads = 16, .kv_heads = 4, .len_q = len, .len_k = len};
  const Pattern pattern = Pattern::dilated({2048, len / 4, len}, {1, len / 8192, len / 2048});
  const RowTables tables = row_tables({parallel::ShardedCall(pattern, e, parallel::Shards::even(len, 8)), 3});
  for (const RowTable* t : {&tables.sends, &tables.receives, &tables.own, &tables.again, &tables.queries})
    EXPECT_LE(t->lines.size(), 4u * 100) << "classes times lines";
  EXPECT_GT(tables.sends.most_rows, 0);
}

}  // namespace
}  // namespace longstride::op
