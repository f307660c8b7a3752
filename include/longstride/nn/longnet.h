// LongNet (Ding et al. 2023) over embeddings: an encoder, a decoder, or both, of MAGNETO layers (Wang et al. 2022). The
// language model over tokens is LongNetLM.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/nn/transformer.h"

namespace longstride {

enum class LongNetForm {
  kEncoder,         // num_encoder_layers encoder layers
  kDecoder,         // decoder-only: num_decoder_layers layers of causal self-attention
  kEncoderDecoder,  // an encoder, and a decoder that attends to it
};

LongNetForm longnet_form_from_name(
    const std::string& name);  // "encoder" | "decoder" | "encoder_decoder"; throws Error with the nearest
const char* name(LongNetForm);

struct LongNetConfig {
  LongNetForm form = LongNetForm::kEncoderDecoder;
  int64_t d_model = 768;
  int64_t nhead = 12;
  int64_t kv_heads = 0;             // 0: nhead; divides nhead
  int64_t num_encoder_layers = 12;  // N; not looked at in the decoder form
  int64_t num_decoder_layers = 12;  // M; not looked at in the encoder form
  int64_t dim_feedforward = 3072;
  std::vector<int64_t> segment_lengths = {2048, 4096, 8192, 16384, 32768};
  std::vector<int64_t> dilation_rates = {1, 2, 4, 6, 12};
  HeadOffset head_offset = HeadOffset::kModulo;
  Mixing mixing = Mixing::kJoint;
  bool average = false;  // kHeadPartition only
  Padding padding = Padding::kMasked;
  bool encoder_causal = false;
  bool decoder_causal = true;
  bool memory_causal = false;
  Positions positions = Positions::kNone;  // on q and k of every attention
  double rope_base = 10000.0;
  double xpos_scale_base = 0;  // 0: max(512, max_len / 32)
  int64_t max_len = 1 << 20;   // what xpos_scale_base is derived from; longer input is refused
  double dropout = 0.0;        // on residual branches and behind the activation
  double attention_dropout = 0.0;
  std::string activation = "relu";
  bool fused_qkv = true;
  bool qk_norm = false;
  double layer_norm_eps = 1e-5;
  double encoder_gamma_init = 0;  // 0: MAGNETO's, see encoder_gamma()
  double decoder_gamma_init = 0;  // 0: MAGNETO's, see decoder_gamma()
  bool activation_checkpointing = false;

  bool has_encoder() const { return form != LongNetForm::kDecoder; }
  bool has_decoder() const { return form != LongNetForm::kEncoder; }
  // Xavier gains, from Figure 2 of MAGNETO: encoder sqrt(ln(3M) ln(2N) / 3), decoder sqrt(ln(3M)); alone, encoder
  // sqrt(ln(2N)), decoder sqrt(ln(2M)).
  double encoder_gamma() const;
  double decoder_gamma() const;
  // What every layer is built from. The decoder form takes decoder_layer().layer.
  TransformerLayerOptions encoder_layer() const;
  DecoderLayerOptions decoder_layer() const;
  void validate() const;        // throws Error
  std::string to_json() const;  // every field
  static LongNetConfig from_json(std::string_view text);
  bool operator==(const LongNetConfig&) const = default;
};

// What computes attention in the parts of a LongNet; empty ones are longstride::attention of this process.
struct LongNetAttention {
  AttentionFn encoder;  // self-attention of the encoder
  AttentionFn decoder;  // self-attention of the decoder
  AttentionFn memory;   // cross-attention of the decoder
};

// Lengths and documents hold for source and target alike.
struct LongNetCall {
  std::optional<std::vector<int64_t>> cu_seqlens;  // packed documents: 0 = c0 <= c1 <= ... = len
  std::optional<std::vector<int64_t>> lengths;     // one per batch row
  bool deterministic = false;
};

// source [batch, len, d_model] -> [batch, len, d_model]. In the encoder_decoder form the decoder reads `target` (of the
// source's shape; undefined: the source itself, as in the known library) and attends to the encoded source; in the
// other forms a target is an Error. Encoder and decoder each end in a LayerNorm, as pre-LN stacks do.
class LongNetImpl : public torch::nn::Cloneable<LongNetImpl> {
 public:
  static constexpr const char* kModelName = "LongNet";  // in the config.json of a saved one

  explicit LongNetImpl(LongNetConfig config = {}, LongNetAttention attend = {});  // validates
  void reset() override;
  void reset_parameters();
  at::Tensor forward(const at::Tensor& source, const at::Tensor& target = {}, const LongNetCall& call = {});
  // The parts of forward(), for encoding once and decoding often. Refused in a form that lacks them.
  at::Tensor encode(const at::Tensor& source, const LongNetCall& call = {});
  at::Tensor decode(const at::Tensor& target, const at::Tensor& memory, const LongNetCall& call = {});

  LongNetConfig config;  // activation_checkpointing may be switched at any time; the rest is fixed by construction
  torch::nn::ModuleList encoder_layers{nullptr}, decoder_layers{nullptr};  // none in a form without them
  torch::nn::LayerNorm encoder_norm{nullptr}, decoder_norm{nullptr};

 private:
  at::Tensor run_layers(torch::nn::ModuleList& layers, at::Tensor x, const at::Tensor& memory, const LongNetCall& call);
  void check(const char* argument, const at::Tensor& x) const;

  LongNetAttention attend_;
};
TORCH_MODULE(LongNet);

}  // namespace longstride
