// LongNet (Ding et al. 2023) over embeddings: an encoder, a decoder, or both, of MAGNETO layers (Wang et al. 2022). The
// language model over tokens is LongNetLM.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "longstride/fields.h"
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
  int64_t num_encoder_layers = 12;  // N; not looked at in the decoder form
  int64_t num_decoder_layers = 12;  // M; not looked at in the encoder form
  // What all layers share; by default 768 wide, 12 heads, dim_feedforward 3072, no dropout, segments 2048 to 32768 at
  // rates 1, 2, 4, 6, 12. Its `causal` and gamma_init must have their defaults: each stack has its own below.
  TransformerLayerOptions layer;
  bool encoder_causal = false;
  bool decoder_causal = true;
  bool memory_causal = false;
  double encoder_gamma_init = 0;  // 0: MAGNETO's, see encoder_gamma()
  double decoder_gamma_init = 0;  // 0: MAGNETO's, see decoder_gamma()
  bool activation_checkpointing = false;

  LongNetConfig();
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

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    static constexpr std::array<FieldName, 5> kNames = {{{"embed_dim", "d_model"},
                                                         {"num_heads", "nhead"},
                                                         {"causal", nullptr},
                                                         {"gamma_init", nullptr},
                                                         {"learned", nullptr}}};
    visit("form", self.form);
    visit("num_encoder_layers", self.num_encoder_layers);
    visit("num_decoder_layers", self.num_decoder_layers);
    TransformerLayerOptions::fields(self.layer, under_names(kNames, visit));
    visit("encoder_causal", self.encoder_causal);
    visit("decoder_causal", self.decoder_causal);
    visit("memory_causal", self.memory_causal);
    visit("encoder_gamma_init", self.encoder_gamma_init);
    visit("decoder_gamma_init", self.decoder_gamma_init);
    visit("activation_checkpointing", self.activation_checkpointing);
  }
};

// What computes attention in the parts of a LongNet; empty ones are longstride::attention of this process.
struct LongNetAttention {
  AttentionFn encoder;  // self-attention of the encoder
  AttentionFn decoder;  // self-attention of the decoder
  AttentionFn memory;   // cross-attention of the decoder
};

// source [batch, len, d_model] -> [batch, len, d_model]. In the encoder_decoder form the decoder reads `target` (of the
// source's shape; undefined: the source itself, as in the known library) and attends to the encoded source; in the
// other forms a target is an Error. Lengths and documents of a call hold for both alike. Encoder and decoder each end
// in a LayerNorm, as pre-LN stacks do.
class LongNetImpl : public torch::nn::Cloneable<LongNetImpl> {
 public:
  static constexpr const char* kModelName = "LongNet";  // in the config.json of a saved one

  explicit LongNetImpl(LongNetConfig config = {}, LongNetAttention attend = {});  // validates
  void reset() override;
  void reset_parameters();
  at::Tensor forward(const at::Tensor& source, const at::Tensor& target = {}, const CallOptions& call = {});
  // The parts of forward(), for encoding once and decoding often. Refused in a form that lacks them.
  at::Tensor encode(const at::Tensor& source, const CallOptions& call = {});
  at::Tensor decode(const at::Tensor& target, const at::Tensor& memory, const CallOptions& call = {});

  LongNetConfig config;  // activation_checkpointing may be switched at any time; the rest is fixed by construction
  torch::nn::ModuleList encoder_layers{nullptr}, decoder_layers{nullptr};  // none in a form without them
  torch::nn::LayerNorm encoder_norm{nullptr}, decoder_norm{nullptr};

 private:
  at::Tensor run_layers(torch::nn::ModuleList& layers, at::Tensor x, const at::Tensor& memory, const CallOptions& call);
  const nn::Placement* placement() const;
  void check(const char* argument, const at::Tensor& x, const CallOptions& call) const;

  LongNetAttention attend_;
};
TORCH_MODULE(LongNet);

}  // namespace longstride
