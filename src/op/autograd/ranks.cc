// Every call is compared, so that what one rank refuses all do: a hash of the description and a count of rows from each
// rank, and the descriptions themselves where hashes differ.
#include "op/autograd/ranks.h"

#include <ATen/Functions.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>

#include "core/json.h"
#include "core/refuse.h"
#include "longstride/parallel/work.h"

namespace longstride::op::autograd {

using at::Tensor;

// Later LibTorchs call these two all_gather_single and all_to_all_single, which 2.10 has not.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

struct Turn::State {
  explicit State(const RankGroup& of) : group(of) {}

  c10::weak_intrusive_ptr<c10d::ProcessGroup> group;
  std::mutex at_work;
  std::string broken;
};

namespace {

// Two hashes of 64 bits (FNV-1a from two bases): texts that ranks write by accident do not share both.
std::array<int64_t, 2> hashes(const std::string& text) {
  std::array<uint64_t, 2> hash = {0xcbf29ce484222325, 0x84222325cbf29ce4};
  for (const unsigned char c : text) {
    for (uint64_t& h : hash) h = (h ^ c) * 0x100000001b3;
    hash[1] ^= hash[1] >> 29;
  }
  return {static_cast<int64_t>(hash[0]), static_cast<int64_t>(hash[1])};
}

Error difference(const std::string& what, const std::vector<std::string>& texts) {
  std::vector<core::Json> calls;
  for (const std::string& text : texts) calls.push_back(core::parse_json("a rank's call", text));
  for (size_t rank = 0; rank < calls.size(); ++rank) {
    if (calls[rank].contains("error"))
      return Error(fmt::format("{}: rank {} of {} refuses its call: {}", what, rank, calls.size(),
                               calls[rank]["error"].get<std::string>()));
  }
  std::vector<std::string> found;
  for (const auto& [name, value] : calls[0].items()) {
    std::vector<std::string> values;
    for (const core::Json& call : calls) {
      const core::Json its = call.value(name, core::Json());
      values.push_back(its.is_string() ? its.get<std::string>() : its.dump());
    }
    if (std::ranges::any_of(values, [&](const std::string& v) { return v != values[0]; }))
      found.push_back(fmt::format("{} must be the same on every rank, got {}", name, core::by_rank(values)));
  }
  return Error(fmt::format("{}: {}", what, fmt::join(found, "; ")));
}

}  // namespace

Turn::Turn(std::string what, RankGroup group) : what_(std::move(what)), group_(std::move(group)) {
  static std::mutex mutex;
  static std::map<c10d::ProcessGroup*, std::shared_ptr<State>> states;
  {
    const std::lock_guard lock(mutex);
    std::erase_if(states, [](const auto& one) { return one.second->group.expired(); });
    std::shared_ptr<State>& state = states[group_.get()];
    if (!state) state = std::make_shared<State>(group_);
    state_ = state;
  }
  const std::string place =
      fmt::format("{} on rank {} of {} of group '{}'", what_, rank(), ranks(), group_->getGroupName());
  lock_ = std::unique_lock(state_->at_work, std::try_to_lock);
  if (!lock_.owns_lock()) {
    throw CommError(place +
                    ": another thread is at an exchange of this group; let one thread call, or give each a group "
                    "of its own");
  }
  if (!state_->broken.empty()) throw CommError(fmt::format("{}: the group is broken since {}", place, state_->broken));
}

void Turn::guarded(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    state_->broken = what_ + " failed";
    throw CommError(fmt::format("{} failed on rank {} of {} of group '{}': the backend says: {}", what_, rank(),
                                ranks(), group_->getGroupName(), error.what()));
  }
}

Tensor Turn::gathered(const Tensor& own) {
  const at::Device host = host_of(group_);
  Tensor in = own.to(host), out = at::empty({ranks() * own.size(0)}, in.options());
  guarded([&] { await_work(*group_->_allgather_base(out, in), group_, host); });
  return out.cpu().view({ranks(), own.size(0)});
}

int64_t Turn::agree(const std::string& description, const std::optional<Error>& error, int64_t rows) {
  std::string text = description;
  if (error) text = core::Json{{"error", error->what()}}.dump();
  const auto [first, second] = hashes(text);
  const Tensor all = gathered(at::tensor({first, second, rows, static_cast<int64_t>(text.size())}));
  const Tensor own = all[rank()];
  if (all.narrow(1, 0, 2).equal(own.narrow(0, 0, 2).expand({ranks(), 2}))) {
    if (error) throw *error;
    return all.select(1, 2).sum().item<int64_t>();
  }
  const Tensor bytes = at::zeros({all.select(1, 3).max().item<int64_t>()}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  const Tensor every = gathered(bytes);
  if (error) throw *error;
  std::vector<std::string> texts;
  for (int64_t i = 0; i < ranks(); ++i)
    texts.emplace_back(static_cast<const char*>(every[i].const_data_ptr()), all[i][3].item<int64_t>());
  throw difference(what_, texts);
}

// As bytes, since a backend need not know every type.
Turn::Rows Turn::post(const Tensor& rows, std::vector<int64_t> sent, std::vector<int64_t> received) {
  Rows posted;
  posted.turn_ = this;
  posted.dtype_ = rows.scalar_type();
  posted.sent_ = rows.contiguous().view(at::kByte);
  int64_t count = 0;
  for (const int64_t n : received) count += n;
  posted.bytes_ = at::empty({count, posted.sent_.size(1)}, posted.sent_.options());
  posted.out_ = std::move(received);
  posted.in_ = std::move(sent);
  guarded([&] { posted.work_ = group_->alltoall_base(posted.bytes_, posted.sent_, posted.out_, posted.in_); });
  return posted;
}

Tensor Turn::Rows::wait() {
  turn_->guarded([&] { await_work(*work_, turn_->group_, bytes_.device()); });
  return bytes_.view(dtype_);
}

}  // namespace longstride::op::autograd
