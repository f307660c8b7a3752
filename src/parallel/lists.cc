// Needs cut at the pieces of their owners.
#include "parallel/lists.h"

#include <map>
#include <utility>

namespace longstride::parallel {
namespace {

// A message while its parts are found, class by class.
class Writer {
 public:
  Writer(int64_t from, int64_t to) { message_.from = from, message_.to = to; }

  // The keys of one piece of the sender, which are some of those rows. Classes come in order.
  void add(int64_t class_id, const Rows& of, const Progression& keys, const Piece& piece) {
    begin_classes(class_id);
    message_.parts.push_back({keys, piece.row + keys.first - piece.begin, packed_.back(),
                              of.received + (keys.first - of.keys.first) / of.keys.step});
    packed_.back() += keys.count;
  }

  Message finish(const ShardedCall& call) {
    begin_classes(call.class_count() - 1);
    message_.part_begin.push_back(static_cast<int64_t>(message_.parts.size()));
    message_.place_begin = {0};
    for (const int32_t c : call.classes.class_of) {
      message_.place_begin.push_back(message_.place_begin.back() + packed_[c]);
    }
    return std::move(message_);
  }

 private:
  void begin_classes(int64_t last) {
    while (static_cast<int64_t>(packed_.size()) <= last) {
      message_.part_begin.push_back(static_cast<int64_t>(message_.parts.size()));
      packed_.push_back(0);
    }
  }

  Message message_;
  std::vector<int64_t> packed_;  // rows of a place of each class
};

// Visits the pieces in which keys lie: visit(keys in it, piece). Costs a search a piece.
template <class Visit>
void for_each_piece(const Shards& shards, const Progression& keys, const Visit& visit) {
  for (int64_t position = keys.first; position <= keys.last();) {
    const Piece piece = shards.chunk(shards.chunk_at(position));
    const Progression here = keys.within(position, piece.end - 1);
    visit(here, piece);
    position = here.last() + keys.step;
  }
}

void add_needed(int64_t class_id, const Need& need, const std::vector<Piece>& pieces, Writer& to) {
  for (const Rows& rows : need.rows) {
    for (const Piece& piece : pieces) {
      const Progression keys = rows.keys.within(piece.begin, piece.end - 1);
      if (keys.count > 0) to.add(class_id, rows, keys, piece);
    }
  }
}

}  // namespace

Message message(const ShardedCall& call, int64_t from, int64_t to) {
  Writer writer(from, to);
  if (from != to) {
    const std::vector<Piece> pieces = call.shards.positions(from);
    for (int64_t c = 0; c < call.class_count(); ++c) add_needed(c, need(call, to, c), pieces, writer);
  }
  return writer.finish(call);
}

int64_t RankLists::rows_sent() const {
  int64_t rows = 0;
  for (const Message& m : sends) rows += m.rows();
  return rows;
}

RankLists lists(const ShardedCall& call, int64_t rank) {
  RankLists result{.rank = rank, .received_begin = {0}};
  std::map<int64_t, Writer> by_owner;
  for (int64_t c = 0; c < call.class_count(); ++c) {
    const Need& of_place = result.needs.emplace_back(need(call, rank, c));
    for (const Rows& rows : of_place.rows) {
      for_each_piece(call.shards, rows.keys, [&](const Progression& keys, const Piece& piece) {
        by_owner.try_emplace(piece.rank, piece.rank, rank).first->second.add(c, rows, keys, piece);
      });
    }
  }
  for (auto& [owner, writer] : by_owner) result.receives.push_back(writer.finish(call));
  for (const int32_t c : call.classes.class_of) {
    result.received_begin.push_back(result.received_begin.back() + result.needs[c].count);
  }
  for (int64_t other = 0; other < call.shards.ranks(); ++other) {
    Message one = message(call, rank, other);
    if (one.rows() > 0) result.sends.push_back(std::move(one));
  }
  return result;
}

}  // namespace longstride::parallel
