// What the tests of the modules share: plain attention in torch operations to compare with, small patterns, folders.
#pragma once

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <string>

#include "longstride/nn.h"

namespace longstride::nn_test {

// out and lse from the definition: a dense [heads, len_q, len_k] multiplicity matrix and torch operations. Knows
// documents, lengths and query_start; joint mixing, modulo offsets, no dropout.
AttentionResult dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern,
                                const AttentionOptions& call = {});

// max |a - b|; NaN if either holds one.
double distance(const at::Tensor& a, const at::Tensor& b);

// A small language model whose three groups leave rows of a short text sparse.
LongNetLMConfig small_config();

// The blocks of a choice as bool [batch, kv_heads, query blocks, key blocks].
at::Tensor mask_of(const BlockChoice& choice);

// Random token ids [batch, len] below vocab, from a generator of the test's own.
at::Tensor random_tokens(int64_t batch, int64_t len, int64_t vocab, uint64_t seed);

// Runs what must refuse and returns the message of its Error; "" (with a test failure) if it did not throw one.
std::string refusal(const std::function<void()>& action);

// One thread of torch's while it lives: in thousands of small operations threads wait for each other more than they
// work.
struct OneThread {
  OneThread() { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
  const int before = at::get_num_threads();
};

// An empty folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace longstride::nn_test
