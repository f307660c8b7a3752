// The layers and models of the library written out a second time, on plain torch operations and dense masked attention,
// as functions of their weights: what the tests of the modules compare with, forward and gradients.
#pragma once

#include <map>
#include <string>

#include "test/nn/support.h"

namespace longstride::nn_test {

// By the names that the module has them under.
using Weights = std::map<std::string, at::Tensor>;

// Copies that want gradients.
Weights leaves(const torch::nn::Module& module);

// Attention of one kind, in float64, on a module's weights below `prefix` ("layers.0.attention.").
at::Tensor dense_multihead(const Weights& weights, const std::string& prefix, const MultiheadDilatedAttentionOptions&,
                           const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const AttentionOptions& call = {});
at::Tensor dense_encoder_layer(const Weights& weights, const std::string& prefix, const TransformerLayerOptions&,
                               const at::Tensor& x, const AttentionOptions& call = {});
at::Tensor dense_decoder_layer(const Weights& weights, const std::string& prefix, const DecoderLayerOptions&,
                               const at::Tensor& x, const at::Tensor& memory, const AttentionOptions& call = {});
at::Tensor dense_longnet(const Weights& weights, const LongNetConfig&, const at::Tensor& source,
                         const at::Tensor& target, const AttentionOptions& call = {});

// Runs both, backward from the same random gradient, and expects equal outputs, equal gradients of `inputs` (leaves)
// and of every weight, and gradients that are not all zero. `dense` is given the leaves of the module's weights.
void expect_same(torch::nn::Module& module, const std::vector<at::Tensor>& inputs,
                 const std::function<at::Tensor()>& forward, const std::function<at::Tensor(const Weights&)>& dense);

// Moves biases and norms away from their trivial start, in float64.
void randomise(torch::nn::Module& module, uint64_t seed);

}  // namespace longstride::nn_test
