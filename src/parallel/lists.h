// Who sends which rows to whom, and where they lie on the way. Both ends compute a message by the same function, so the
// list of what a sends to b is the list of what b receives from a, in its order. Nothing here enumerates rows.
//
// A *place* is a (batch row, KV head), counted b * kv_heads + j; places of one class have the same parts. A message
// holds place after place, of each part after part, of each its keys in ascending order: K and V of a key side by side.
// What a rank has received is put in order for the engine: the buffer of received keys holds place after place too, of
// each the progressions of its Need, each of them whole, whichever ranks its keys come from.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/pattern/sight.h"
#include "parallel/call.h"
#include "parallel/needs.h"

namespace longstride::parallel {

// Keys of one piece of the sender. Rows of the message and of the buffer count from where those of the place begin.
struct Part {
  Progression keys;
  int64_t local = 0;     // row of the first key in the sender's shard; the others follow at the same step
  int64_t packed = 0;    // row of the first key in the message; the others follow one by one
  int64_t received = 0;  // the same in the receiver's buffer of received keys
  bool operator==(const Part&) const = default;
};

struct Message {
  int64_t from = 0;
  int64_t to = 0;
  std::vector<int64_t> part_begin;  // classes + 1: parts [part_begin[c], part_begin[c + 1]) are those of class c
  std::vector<Part> parts;
  std::vector<int64_t> place_begin;  // places + 1: where the rows of a place begin in the message; last, rows in all

  int64_t rows() const { return place_begin.back(); }
  bool operator==(const Message&) const = default;
};

int64_t rows_in(const std::vector<Message>&);

// What one rank sends to another; may be empty.
Message message(const ShardedCall&, int64_t from, int64_t to);

// All that a rank exchanges: messages that are not empty, by ascending peer.
struct RankLists {
  int64_t rank = 0;
  std::vector<Message> receives;
  std::vector<Message> sends;
  std::vector<Need> needs;              // of each class
  std::vector<int64_t> received_begin;  // places + 1: where the rows of a place begin in the buffer of received keys

  int64_t rows_received() const { return received_begin.back(); }
};

// What it receives costs what it lists. What it sends is found by asking what each other rank needs, which for block
// patterns is their rows of blocks.
RankLists lists(const ShardedCall&, int64_t rank);

// The same rows one distance at a time: those that a rank receives from the rank `step` before it, round the end, and
// sends to the rank `step` after it. The buffer of received keys is of these alone. Step 0 has none.
RankLists lists_of_step(const ShardedCall&, int64_t rank, int64_t step);
// Of each rank the rows that this one needs of it, over all (batch row, KV head): those of the messages that lists()
// gives, counted and not listed.
std::vector<int64_t> rows_by_sender(const ShardedCall&, int64_t rank);
// The distances in [1, ranks) at which any rank sends any row, ascending: the same on every rank.
std::vector<int64_t> steps(const ShardedCall&);

}  // namespace longstride::parallel
