// Agreement and sums over a process group (ranks.h).
#include "train/ranks.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ranges>
#include <stdexcept>
#include <thread>

#include "core/json.h"
#include "core/refuse.h"
#include "longstride/error.h"
#include "longstride/parallel/work.h"

namespace longstride::train {
namespace {

// Later LibTorchs call _allgather_base all_gather_single, which 2.10 has not.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

// Gradients are summed in buckets of 2^23 numbers, 32 MiB of float32: long enough that a message's start costs nothing
// beside it, and little memory beside a model's.
constexpr int64_t kBucket = int64_t{1} << 23;

// How long the others are waited for when something has failed: all ranks hear of a closed connection within
// milliseconds, those at work on a forward after it.
constexpr std::chrono::milliseconds kWord{3000}, kLook{20};

constexpr const char* kHeard = "heard";  // of a failure elsewhere

std::string word_key(int64_t rank) { return fmt::format("failed/{}", rank); }

// What LibTorch and Gloo say, without the stack, the place in their sources and the advice.
std::string backend_words(const std::exception& error) {
  std::string words = error.what();
  for (const char* rest : {"\nException raised from", ". This is typically caused", "\n"})
    if (const size_t at = words.find(rest); at != std::string::npos) words.resize(at);
  if (words.starts_with('['))
    if (const size_t at = words.find("] "); at != std::string::npos) words.erase(0, at + 2);
  return words;
}

template <class Body>
void guarded(const char* what, const Body& body) {
  try {
    body();
  } catch (const std::exception& error) {
    throw CommError(fmt::format("{} failed: the backend says: {}", what, backend_words(error)));
  }
}

}  // namespace

Ranks::Ranks(const TrainRanks& groups) : groups_(groups) {
  if (!groups_.world) {
    if (groups_.context) throw Error("ranks.context must be part of ranks.world, got a context and no world");
    return;
  }
  rank_ = groups_.world->getRank();
  size_ = groups_.world->getSize();
  if (!groups_.context) return;
  context_size_ = groups_.context->getSize();
  if (size_ % context_size_ != 0 || rank_ % context_size_ != groups_.context->getRank()) {
    core::refuse(
        "ranks.context", fmt::format("must be equal runs of the {} ranks of ranks.world, in their order", size_),
        fmt::format("one of {}, of which rank {} is rank {}", context_size_, rank_, groups_.context->getRank()));
  }
}

at::Tensor Ranks::own(const at::Tensor& tokens) const {
  if (context_size_ == 1) return tokens.contiguous();
  return shard(tokens, groups_.context, {{0, tokens.size(1)}, kLayout}).contiguous();
}

CallOptions Ranks::call(int64_t len) const {
  CallOptions call;
  if (context_size_ > 1) call.boundaries = {0, len};
  return call;
}

// The mixing is splitmix64's.
uint64_t Ranks::seed(uint64_t of_run, int64_t step) const {
  uint64_t mixed = of_run;
  std::vector<int64_t> words = {step, part()};
  if (const int64_t at = rank_ % context_size_; at > 0) words.push_back(at);
  for (const int64_t word : words) {
    mixed += 0x9e3779b97f4a7c15 + static_cast<uint64_t>(word);
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    mixed ^= mixed >> 31;
  }
  return mixed;
}

at::Tensor Ranks::gathered(const at::Tensor& own) const {
  if (alone()) return own.unsqueeze(0);
  at::Tensor in = own.contiguous(), out = at::empty({size_ * own.size(0)}, own.options());
  guarded("an exchange of the ranks", [&] { groups_.world->_allgather_base(out, in)->wait(); });
  return out.view({size_, own.size(0)});
}

void Ranks::add_up(const std::vector<at::Tensor>& tensors) const {
  if (alone()) return;
  const at::NoGradGuard no_grad;
  for (size_t begin = 0, end = 0; begin < tensors.size(); begin = end) {
    std::vector<at::Tensor> flat;
    for (int64_t count = 0; end < tensors.size() && (end == begin || count + tensors[end].numel() <= kBucket); ++end) {
      flat.push_back(tensors[end].flatten());
      count += tensors[end].numel();
    }
    std::vector<at::Tensor> bucket = {at::cat(flat)};
    guarded("the sum of the gradients over the ranks",
            [&] { await_work(*groups_.world->allreduce(bucket), groups_.world, bucket[0].device()); });
    int64_t at = 0;
    for (size_t i = begin; i < end; ++i) {
      const at::Tensor part = bucket[0].narrow(0, at, tensors[i].numel());
      tensors[i].copy_(part.view(tensors[i].sizes()));
      at += part.numel();
    }
  }
}

std::vector<std::string> Ranks::texts(const std::string& own) const {
  const at::Tensor sizes = gathered(at::full({1}, static_cast<int64_t>(own.size()), at::kLong)).flatten();
  const at::Tensor bytes = at::zeros({std::max<int64_t>(1, sizes.max().item<int64_t>())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), own.data(), own.size());
  const at::Tensor all = gathered(bytes);
  std::vector<std::string> every;
  for (int64_t i = 0; i < size_; ++i)
    every.emplace_back(static_cast<const char*>(all[i].const_data_ptr()), sizes[i].item<int64_t>());
  return every;
}

void Ranks::together(const std::function<void()>& body) const {
  if (alone()) return body();
  // What went wrong here, behind a letter: bad input or a failure.
  std::string own;
  std::exception_ptr thrown;
  try {
    body();
  } catch (const Error& error) {
    thrown = std::current_exception();
    own = fmt::format("i{}", error.what());
  } catch (const std::exception& error) {
    thrown = std::current_exception();
    own = fmt::format("f{}", backend_words(error));
  }
  const std::vector<std::string> every = texts(own);
  if (thrown) std::rethrow_exception(thrown);
  for (int64_t i = 0; i < size_; ++i) {
    const std::string& word = every[static_cast<size_t>(i)];
    if (word.empty()) continue;
    const std::string message = fmt::format("rank {} has failed: {}", i, word.substr(1));
    if (word[0] == 'i') throw Error(message);
    throw std::runtime_error(message);
  }
}

void Ranks::check_device(at::Device device) const {
  for (const RankGroup& group : {groups_.world, groups_.context}) {
    if (!group) continue;
    const auto moved = group->getDeviceTypes();
    if (std::ranges::any_of(moved, [&](const at::Device& its) { return its.type() == device.type(); })) continue;
    core::refuse("ranks", fmt::format("must be groups that move tensors of {}", device.str()),
                 fmt::format("one of {}", fmt::join(moved | std::views::transform(&at::Device::str), ", ")),
                 "give the group a backend for the device, such as NCCL");
  }
}

void Ranks::compare(const core::Json& own) const {
  if (alone()) return;
  std::vector<core::Json> all;
  for (const std::string& text : texts(core::json_text(own)))
    all.push_back(core::parse_json("a rank's settings", text));
  for (const auto& [key, value] : own.items()) {
    std::vector<std::string> values;
    for (const core::Json& one : all) values.push_back(one.value(key, core::Json()).dump());
    if (std::all_of(values.begin(), values.end(), [&](const std::string& v) { return v == values[0]; })) continue;
    throw Error(fmt::format("{} must be the same on every rank, got {}; start all with one command line", key,
                            core::by_rank(values)));
  }
}

void Ranks::leave_word(const std::string& why) const {
  if (alone() || !groups_.store) return;
  try {
    const std::string line = why.substr(0, why.find('\n'));
    groups_.store->set(word_key(rank_), std::vector<uint8_t>(line.begin(), line.end()));
  } catch (const std::exception&) {
    // The store has gone with the rank that held it; the others learn of that by themselves.
  }
}

std::string Ranks::roll_call() const {
  if (!groups_.store) return "";
  leave_word(kHeard);
  std::vector<std::string> failed;
  std::vector<int64_t> silent;
  const auto until = std::chrono::steady_clock::now() + kWord;
  try {
    for (int64_t i = 0; i < size_; ++i) {
      while (!groups_.store->check({word_key(i)}) && std::chrono::steady_clock::now() < until)
        std::this_thread::sleep_for(kLook);
      if (!groups_.store->check({word_key(i)})) {
        silent.push_back(i);
        continue;
      }
      const std::vector<uint8_t> word = groups_.store->get(word_key(i));
      const std::string line(word.begin(), word.end());
      if (line != kHeard) failed.push_back(fmt::format("rank {} has failed: {}", i, line));
    }
  } catch (const std::exception&) {
    return "the store of the ranks, which rank 0 or torchrun holds, has ended; ";
  }
  if (!silent.empty()) {
    failed.push_back(fmt::format("no word from rank{} {} within {} s: ended, stopped or late",
                                 silent.size() > 1 ? "s" : "", fmt::join(silent, ", "), kWord.count() / 1000));
  }
  return failed.empty() ? "" : fmt::format("{}; ", fmt::join(failed, "; "));
}

}  // namespace longstride::train
