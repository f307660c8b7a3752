// Every message is a value of the store, by the number of the collective, its sender and its receiver.
#include "test/op/parallel/store_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

namespace longstride::test {
namespace {

bool broken = false;

class Done : public c10d::Work {
 public:
  bool wait(std::chrono::milliseconds) override { return true; }
};

class StoreBackend : public c10d::Backend {
 public:
  StoreBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int ranks)
      : Backend(rank, ranks), store_(std::move(store)) {}

  const std::string getBackendName() const override { return "store"; }

  c10::intrusive_ptr<Options> getBackendOptions() override { return c10::make_intrusive<Options>("store"); }
  c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                    const c10::intrusive_ptr<Options>&) override {
    const auto own = std::ranges::find(ranks, getRank()) - ranks.begin();
    return c10::make_intrusive<StoreBackend>(store, static_cast<int>(own), static_cast<int>(ranks.size()));
  }

  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor& out, at::Tensor& in,
                                                 const c10d::AllgatherOptions&) override {
    const int64_t bytes = static_cast<int64_t>(in.nbytes());
    begin();
    for (int to = 0; to < getSize(); ++to) send(to, static_cast<const uint8_t*>(in.const_data_ptr()), bytes);
    for (int from = 0; from < getSize(); ++from) receive(from, bytes_of(out) + from * bytes, bytes);
    return c10::make_intrusive<Done>();
  }

  // The sum, in the order of ranks.
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions&) override {
    for (at::Tensor& own : tensors) {
      begin();
      const at::Tensor sent = own.contiguous().clone();
      at::Tensor other = at::empty_like(sent), sum = at::zeros_like(sent);
      const auto bytes = static_cast<int64_t>(sent.nbytes());
      for (int to = 0; to < getSize(); ++to) send(to, static_cast<const uint8_t*>(sent.const_data_ptr()), bytes);
      for (int from = 0; from < getSize(); ++from) {
        receive(from, bytes_of(other), bytes);
        sum += other;
      }
      own.copy_(sum);
    }
    return c10::make_intrusive<Done>();
  }

  c10::intrusive_ptr<c10d::Work> alltoall_base(at::Tensor& out, at::Tensor& in, std::vector<int64_t>& received,
                                               std::vector<int64_t>& sent, const c10d::AllToAllOptions&) override {
    begin();
    int64_t at = 0;
    const auto row = [](const at::Tensor& t) { return t.size(1) * static_cast<int64_t>(t.element_size()); };
    for (int to = 0; to < getSize(); ++to) {
      send(to, static_cast<const uint8_t*>(in.const_data_ptr()) + at * row(in), sent[to] * row(in));
      at += sent[to];
    }
    at = 0;
    for (int from = 0; from < getSize(); ++from) {
      receive(from, bytes_of(out) + at * row(out), received[from] * row(out));
      at += received[from];
    }
    return c10::make_intrusive<Done>();
  }

 private:
  void begin() {
    TORCH_CHECK(!broken, "no cable");
    ++number_;
  }
  static uint8_t* bytes_of(at::Tensor& t) { return static_cast<uint8_t*>(t.mutable_data_ptr()); }
  void send(int to, const uint8_t* from, int64_t bytes) {
    store_->set(fmt::format("{} {} {}", number_, getRank(), to), std::vector<uint8_t>(from, from + bytes));
  }
  void receive(int from, uint8_t* to, int64_t bytes) {
    const std::vector<uint8_t> got = store_->get(fmt::format("{} {} {}", number_, from, getRank()));
    TORCH_CHECK(static_cast<int64_t>(got.size()) == bytes, "message of ", got.size(), " bytes, expected ", bytes);
    if (bytes > 0) std::memcpy(to, got.data(), got.size());
  }

  c10::intrusive_ptr<c10d::Store> store_;
  int64_t number_ = 0;
};

}  // namespace

void break_backends() { broken = true; }

c10::intrusive_ptr<c10d::ProcessGroup> group_of(const std::string& file, int rank, int ranks, const std::string& name) {
  const auto files = c10::make_intrusive<c10d::FileStore>(file, ranks);
  files->setTimeout(std::chrono::minutes(15));  // against hangs alone
  const auto store = c10::make_intrusive<c10d::PrefixStore>(name, files);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, ranks);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
                    c10::make_intrusive<StoreBackend>(store, rank, ranks));
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  group->setGroupName(name);
  return group;
}

}  // namespace longstride::test
