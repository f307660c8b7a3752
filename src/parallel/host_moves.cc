// Lists of progressions become tasks of some hundred rows, which threads copy; sums are in host_sums.cc.
#include "parallel/host_moves.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace longstride::parallel {
namespace {

// Enough rows that a task is worth handing out: 64 KiB at dim 64 in bfloat16, K and V.
constexpr int64_t kRowsOfATask = 256;

// `count` rows from `row` of one memory, at a step, and from `other` of another, one by one, of a place.
struct Task {
  int64_t place = 0;
  int64_t row = 0;
  int64_t step = 1;
  int64_t count = 0;
  int64_t other = 0;
};

class Tasks {
 public:
  void add(const Task& whole) {
    for (int64_t i = 0; i < whole.count; i += kRowsOfATask) {
      all_.push_back({whole.place, whole.row + i * whole.step, whole.step, std::min(kRowsOfATask, whole.count - i),
                      whole.other + i});
    }
  }

  void run(const engine::Workspace& w, const std::function<void(const Task&)>& body) const {
    engine::for_each_index(w, std::ssize(all_), [&](int64_t index, int) { body(all_[index]); });
  }

 private:
  std::vector<Task> all_;
};

// Calls visit(place, part, the row of its first key among all messages).
template <class Visit>
void for_each_part(const ShardedCall& call, const std::vector<Message>& messages, const Visit& visit) {
  int64_t begin = 0;
  for (const Message& m : messages) {
    for (size_t place = 0; place < call.classes.class_of.size(); ++place) {
      const int32_t c = call.classes.class_of[place];
      for (int64_t p = m.part_begin[c]; p < m.part_begin[c + 1]; ++p) {
        visit(static_cast<int64_t>(place), m.parts[p], begin + m.place_begin[place] + m.parts[p].packed);
      }
    }
    begin += m.rows();
  }
}

// A tensor of the shard in bytes.
class Shard {
 public:
  Shard(const engine::ConstTensorRef& t, const RowShape& shape)
      : t_(t), bytes_(shape.element_bytes()), row_bytes_(shape.dim * bytes_) {}
  const char* row(int64_t b, int64_t i, int64_t head) const {
    return static_cast<const char*>(t_.data) +
           (b * t_.batch_stride + i * t_.len_stride + head * t_.head_stride) * bytes_;
  }
  int64_t row_bytes() const { return row_bytes_; }

 private:
  engine::ConstTensorRef t_;
  int64_t bytes_;
  int64_t row_bytes_;
};

// Rows of the shard, K beside V, one by one from `to` on.
void copy_keys(const Shard& k, const Shard& v, int64_t kv_heads, const Task& task, char* to) {
  const int64_t b = task.place / kv_heads, j = task.place % kv_heads, bytes = k.row_bytes();
  for (int64_t i = 0; i < task.count; ++i, to += 2 * bytes) {
    const int64_t row = task.row + i * task.step;
    std::memcpy(to, k.row(b, row, j), static_cast<size_t>(bytes));
    std::memcpy(to + bytes, v.row(b, row, j), static_cast<size_t>(bytes));
  }
}

// Between messages and the buffer of keys, where both lie one by one.
template <class Copy>
void for_each_received(const Rank& rank, const RowShape& shape, const engine::Workspace& w, const Copy& copy) {
  Tasks tasks;
  for_each_part(rank.call, rank.lists.receives, [&](int64_t place, const Part& part, int64_t packed) {
    tasks.add({place, place * rank.gathered.keys + part.received, 1, part.keys.count, packed});
  });
  const int64_t bytes = shape.forward_bytes();
  tasks.run(w, [&](const Task& t) { copy(t.row * bytes, t.other * bytes, static_cast<size_t>(t.count * bytes)); });
}

void zero_rows(char* memory, int64_t begin, int64_t end, int64_t bytes) {
  if (begin < end) std::memset(memory + begin * bytes, 0, static_cast<size_t>((end - begin) * bytes));
}

}  // namespace

HostMoves::HostMoves(const Rank& rank, const engine::Problem& p, const engine::Workspace& w)
    : rank_(rank), heads_(p.heads), rows_(p.len_q), workspace_(w), shape_{.dim = p.dim, .dtype = p.dtype} {}

void HostMoves::pack(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* to) const {
  Tasks tasks;
  for_each_part(rank_.call, rank_.lists.sends, [&](int64_t place, const Part& part, int64_t packed) {
    tasks.add({place, part.local, part.keys.step, part.keys.count, packed});
  });
  const Shard keys(k, shape_), values(v, shape_);
  tasks.run(workspace_, [&](const Task& t) {
    copy_keys(keys, values, rank_.call.extent.kv_heads, t, static_cast<char*>(to) + t.other * shape_.forward_bytes());
  });
}

void HostMoves::unpack(const void* from, void* buffer) const {
  for_each_received(rank_, shape_, workspace_, [&](int64_t in_buffer, int64_t in_messages, size_t bytes) {
    std::memcpy(static_cast<char*>(buffer) + in_buffer, static_cast<const char*>(from) + in_messages, bytes);
  });
}

void HostMoves::pack_gradients(const void* buffer, void* to) const {
  for_each_received(rank_, shape_, workspace_, [&](int64_t in_buffer, int64_t in_messages, size_t bytes) {
    std::memcpy(static_cast<char*>(to) + in_messages, static_cast<const char*>(buffer) + in_buffer, bytes);
  });
}

void HostMoves::gather_keys(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* buffer) const {
  Tasks own, again;
  const int64_t bytes = shape_.forward_bytes();
  char* const to = static_cast<char*>(buffer);
  for (int64_t place = 0; place < rank_.places(); ++place) {
    const GatheredClass& of_place = rank_.gathered_of(place);
    const int64_t begin = place * rank_.gathered.keys;
    for (const Gathering& g : of_place.own) own.add({place, g.from, g.step, g.count, begin + g.to});
    for (const Gathering& g : of_place.received) again.add({place, begin + g.from, g.step, g.count, begin + g.to});
    zero_rows(to, begin + of_place.key_rows, begin + rank_.gathered.keys, bytes);
  }
  const Shard keys(k, shape_), values(v, shape_);
  own.run(workspace_,
          [&](const Task& t) { copy_keys(keys, values, rank_.call.extent.kv_heads, t, to + t.other * bytes); });
  again.run(workspace_, [&](const Task& t) {
    for (int64_t i = 0; i < t.count; ++i) {
      std::memcpy(to + (t.other + i) * bytes, to + (t.row + i * t.step) * bytes, static_cast<size_t>(bytes));
    }
  });
}

void HostMoves::gather_queries(const engine::ConstTensorRef& from, void* to) const { gather(from, shape_, to); }

// lse is a tensor of dim 1.
void HostMoves::gather_lse(const void* from, void* to) const {
  const bool wide = shape_.dtype == core::DType::kFloat64;
  gather({from, heads_ * rows_, 1, rows_}, {.dim = 1, .dtype = wide ? shape_.dtype : core::DType::kFloat32}, to);
}

void HostMoves::gather(const engine::ConstTensorRef& from, const RowShape& shape, void* to) const {
  Tasks tasks;
  const int64_t per_key = heads_ / rank_.call.extent.kv_heads;
  const Shard rows(from, shape);
  const int64_t bytes = rows.row_bytes();
  for (int64_t place = 0; place < rank_.call.extent.batch * heads_; ++place) {
    const GatheredClass& of_place = rank_.gathered_of(place / per_key);
    const int64_t begin = place * rank_.gathered.queries;
    for (const Gathering& g : of_place.queries) tasks.add({place, g.from, g.step, g.count, begin + g.to});
    zero_rows(static_cast<char*>(to), begin + of_place.query_rows, begin + rank_.gathered.queries, bytes);
  }
  tasks.run(workspace_, [&](const Task& t) {
    const int64_t b = t.place / heads_, h = t.place % heads_;
    char* out = static_cast<char*>(to) + t.other * bytes;
    for (int64_t i = 0; i < t.count; ++i, out += bytes) {
      std::memcpy(out, rows.row(b, t.row + i * t.step, h), static_cast<size_t>(bytes));
    }
  });
}

void HostMoves::copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes,
                           int64_t lines) const {
  for (int64_t n = 0; n < lines; ++n) {
    std::memcpy(static_cast<char*>(to) + n * to_pitch, static_cast<const char*>(from) + n * from_pitch,
                static_cast<size_t>(bytes));
  }
}

}  // namespace longstride::parallel
