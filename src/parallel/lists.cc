// Needs cut at the pieces of their owners.
#include "parallel/lists.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "core/refuse.h"

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
    message_.part_begin.push_back(std::ssize(message_.parts));
    message_.place_begin = {0};
    for (const int32_t c : call.classes.class_of) {
      message_.place_begin.push_back(message_.place_begin.back() + packed_[c]);
    }
    return std::move(message_);
  }

 private:
  void begin_classes(int64_t last) {
    while (std::ssize(packed_) <= last) {
      message_.part_begin.push_back(std::ssize(message_.parts));
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

// What `from` sends to `to` of these needs.
Message message_of(const ShardedCall& call, int64_t from, int64_t to, const std::vector<Need>& needs) {
  Writer writer(from, to);
  const std::vector<Piece> pieces = call.shards.positions(from);
  for (int64_t c = 0; c < call.class_count(); ++c) add_needed(c, needs[c], pieces, writer);
  return writer.finish(call);
}

// Of each class what `to` needs of `from`.
std::vector<Need> needs_of(const ShardedCall& call, int64_t from, int64_t to) {
  const std::vector<Piece> pieces = from == to ? std::vector<Piece>() : call.shards.positions(from);
  std::vector<Need> needs;
  for (int64_t c = 0; c < call.class_count(); ++c) needs.push_back(within(need(call, to, c), pieces));
  return needs;
}

std::vector<int64_t> received_begins(const ShardedCall& call, const std::vector<Need>& needs) {
  std::vector<int64_t> begins = {0};
  for (const int32_t c : call.classes.class_of) begins.push_back(begins.back() + needs[c].count);
  return begins;
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

int64_t rows_in(const std::vector<Message>& messages) {
  int64_t rows = 0;
  for (const Message& m : messages) rows += m.rows();
  return rows;
}

RankLists lists(const ShardedCall& call, int64_t rank) {
  RankLists result{.rank = rank};
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
  result.received_begin = received_begins(call, result.needs);
  for (int64_t other = 0; other < call.shards.ranks(); ++other) {
    Message one = message(call, rank, other);
    if (one.rows() > 0) result.sends.push_back(std::move(one));
  }
  return result;
}

RankLists lists_of_step(const ShardedCall& call, int64_t rank, int64_t step) {
  const int64_t ranks = call.shards.ranks();
  if (step < 0 || step >= ranks) core::refuse("step", fmt::format("must be in [0, {})", ranks), step);
  const int64_t before = (rank + ranks - step) % ranks, after = (rank + step) % ranks;
  RankLists result{.rank = rank, .needs = needs_of(call, before, rank)};
  result.received_begin = received_begins(call, result.needs);
  const auto add = [](Message one, std::vector<Message>& to) {
    if (one.rows() > 0) to.push_back(std::move(one));
  };
  add(message_of(call, before, rank, result.needs), result.receives);
  add(message_of(call, rank, after, needs_of(call, rank, after)), result.sends);
  return result;
}

std::vector<int64_t> rows_by_sender(const ShardedCall& call, int64_t rank) {
  std::vector<int64_t> rows(call.shards.ranks());
  for (int64_t c = 0; c < call.class_count(); ++c) {
    for (const Rows& one : need(call, rank, c).rows) {
      for_each_piece(call.shards, one.keys, [&](const Progression& keys, const Piece& piece) {
        rows[piece.rank] += keys.count * call.places_of[c];
      });
    }
  }
  return rows;
}

std::vector<int64_t> steps(const ShardedCall& call) {
  const int64_t ranks = call.shards.ranks();
  std::vector<bool> any(ranks);
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const std::vector<int64_t> rows = rows_by_sender(call, rank);
    for (int64_t from = 0; from < ranks; ++from) {
      if (rows[from] > 0) any[(rank + ranks - from) % ranks] = true;
    }
  }
  std::vector<int64_t> found;
  for (int64_t step = 1; step < ranks; ++step) {
    if (any[step]) found.push_back(step);
  }
  return found;
}

}  // namespace longstride::parallel
