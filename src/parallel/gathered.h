// What a rank computes beyond the pieces of its shard: the pairs of its queries with keys of other ranks, and of one
// piece with another. Both are rows far apart, so they are gathered: the queries into rows of their own, the keys into
// a buffer that begins with the received ones. There everything is a rectangle of neighbouring rows, whatever the rates
// were. Called by who compiles a rank's plans (compile.h) and by who moves its rows (moves.h).
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/call.h"
#include "parallel/needs.h"
#include "plan/rectangles.h"

namespace longstride::parallel {

// Rows from, from + step, ... of one memory, `count` of them, which lie one by one from `to` on in another.
struct Gathering {
  int64_t from = 0;
  int64_t step = 1;
  int64_t count = 0;
  int64_t to = 0;
  bool operator==(const Gathering&) const = default;
};

// Of one (batch row, KV head) of a class.
struct GatheredClass {
  std::vector<Gathering> queries;   // rows of the shard, to gathered queries
  std::vector<Gathering> own;       // rows of the shard, to the buffer of keys: those that another piece's queries see
  std::vector<Gathering> received;  // rows of the buffer, to others of it: received keys that a group sees at a step
  // Rows are gathered queries, columns rows of the buffer of keys. Where they overlap weights add.
  std::vector<plan::Rectangle> rectangles;
  int64_t query_rows = 0;  // gathered queries
  int64_t key_rows = 0;    // of the buffer of keys: received, own, received again
};

// A row of the shard may be gathered more than once; its parts are joined by their softmax (moves.h).
struct Gathered {
  std::vector<GatheredClass> classes;
  // The most of any class, so that places lie at one distance: rows beyond those of its class no pair sees.
  int64_t queries = 0;
  int64_t keys = 0;

  bool empty() const { return queries == 0; }
};

// The pieces of a rank's shard, those that continue one another as one.
std::vector<Piece> joined_pieces(const Shards&, int64_t rank);

// `needs`: need(call, rank, c) of every class c.
Gathered gather(const ShardedCall&, int64_t rank, const std::vector<Need>& needs);
// The pairs with received keys alone, where `needs` are parts of those (within()).
Gathered gather_received(const ShardedCall&, int64_t rank, const std::vector<Need>& needs);

}  // namespace longstride::parallel
