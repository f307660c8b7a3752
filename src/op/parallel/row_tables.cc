#include "op/parallel/row_tables.h"

#include <algorithm>

namespace longstride::op {
namespace {

using engine::cuda::RowLine;
using engine::cuda::RowTable;

// Counts rows and closes the class whose lines have been added.
void end_class(RowTable& table) {
  int64_t rows = 0;
  for (size_t n = static_cast<size_t>(table.line_begin.back()); n < table.lines.size(); ++n) {
    table.lines[n].before = rows;
    rows += table.lines[n].count;
  }
  table.most_rows = std::max(table.most_rows, rows);
  table.line_begin.push_back(std::ssize(table.lines));
}

std::vector<int64_t> wide(const std::vector<int32_t>& numbers) { return {numbers.begin(), numbers.end()}; }

// `line` of a part: its rows on this side.
template <class Line>
RowTable of_messages(const parallel::Rank& rank, const std::vector<parallel::Message>& messages, int64_t heads,
                     const Line& line) {
  RowTable table{.line_begin = {0}, .class_of = wide(rank.call.classes.class_of), .heads = heads};
  for (int64_t c = 0; c < rank.call.class_count(); ++c) {
    for (size_t n = 0; n < messages.size(); ++n) {
      const parallel::Message& m = messages[n];
      for (int64_t p = m.part_begin[c]; p < m.part_begin[c + 1]; ++p) {
        RowLine its = line(m.parts[p]);
        its.packed = m.parts[p].packed;
        its.part = static_cast<int64_t>(n);
        if (its.count > 0) table.lines.push_back(its);
      }
    }
    end_class(table);
  }
  int64_t begin = 0;
  for (const parallel::Message& m : messages) {
    for (int64_t place = 0; place < table.places(); ++place) table.part_begin.push_back(begin + m.place_begin[place]);
    begin += m.rows();
  }
  return table;
}

// Places lie `rows` apart in the other memory; `each` KV head has so many of them.
template <class Lines>
RowTable of_gathered(const parallel::Rank& rank, int64_t heads, int64_t each, int64_t rows, const Lines& lines) {
  RowTable table{.line_begin = {0}, .heads = heads};
  for (const parallel::GatheredClass& one : rank.gathered.classes) {
    for (const parallel::Gathering& g : lines(one)) {
      if (g.count > 0) table.lines.push_back({g.from, g.step, g.count, g.to});
    }
    end_class(table);
  }
  for (const int32_t c : rank.call.classes.class_of) table.class_of.insert(table.class_of.end(), each, c);
  for (int64_t place = 0; place < table.places(); ++place) table.part_begin.push_back(place * rows);
  return table;
}

}  // namespace

RowTables row_tables(const parallel::Rank& rank) {
  const Extent& e = rank.call.extent;
  const int64_t places = rank.places(), keys = rank.gathered.keys;
  const auto in_shard = [](const parallel::Part& p) { return RowLine{p.local, p.keys.step, p.keys.count}; };
  const auto in_buffer = [](const parallel::Part& p) { return RowLine{p.received, 1, p.keys.count}; };
  using parallel::GatheredClass;
  return {of_messages(rank, rank.lists.sends, e.kv_heads, in_shard),
          of_messages(rank, rank.lists.receives, places, in_buffer),
          of_gathered(
              rank, e.kv_heads, 1, keys, [](const GatheredClass& c) -> auto& { return c.own; }),
          of_gathered(
              rank, places, 1, keys, [](const GatheredClass& c) -> auto& { return c.received; }),
          of_gathered(
              rank, e.heads, e.heads / e.kv_heads, rank.gathered.queries,
              [](const GatheredClass& c) -> auto& { return c.queries; })};
}

}  // namespace longstride::op
