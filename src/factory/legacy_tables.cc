// The tables themselves, class by class (legacy_tables.h).
#include "factory/legacy_tables.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace longstride::factory {
namespace {

using Parameters = std::vector<LegacyParameter>;

constexpr const char* kTensorsBring = "attention without projections has no weights; tensors bring their own";
constexpr const char* kTorchSays = "set torch's own switch for float32 products";
constexpr const char* kOneEngine = "the engine is picked by device and dtype; leave it out";
constexpr const char* kOneCache = "plans are cached for the whole process, within set_plan_cache_limit(); leave it out";
constexpr const char* kTrainer = "the training loop's business, not attention's; leave it out";
constexpr const char* kNoChunks = "nothing is cut into chunks that a caller sees; leave it out";
constexpr const char* kGroup = "pass group and ring_size to the factory";
constexpr const char* kBackend = "pass group and backend to the factory";
constexpr const char* kCheckpoints = "wrap the layer in longstride::checkpoint; leave it out";

LegacyParameter required(const char* name) { return {name, {name}, {}, true}; }
LegacyParameter mapped(const char* name, const char* option, OptionValue standard = {}) {
  return {name, {option}, std::move(standard)};
}
LegacyParameter same(const char* name, OptionValue standard) { return mapped(name, name, std::move(standard)); }
LegacyParameter inert(const char* name, OptionValue standard, const char* instead) {
  return {name, {}, std::move(standard), false, instead};
}

// Parameters without a counterpart for one reason.
Parameters inert(const char* instead, std::initializer_list<std::pair<const char*, OptionValue>> parameters) {
  Parameters all;
  for (const auto& [name, standard] : parameters) all.push_back(inert(name, standard, instead));
  return all;
}

Parameters operator+(Parameters all, const Parameters& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

const Parameters kSegmentsFirst = {required("segment_lengths"), required("dilation_rates")};
const Parameters kRatesFirst = {required("dilation_rates"), required("segment_lengths")};
const Parameters kWidth = {required("embed_dim"), required("num_heads")};
const Parameters kDropout = {mapped("dropout", "attention_dropout", 0.0)};
const Parameters kTensorPlace = inert(kTensorsBring, {{"device", {}}, {"dtype", {}}});
const Parameters kWeightPlace = {mapped("device", "device"), mapped("dtype", "dtype")};
const Parameters kMagneto = {same("bias", true), mapped("layer_norm", "sub_layer_norm", true),
                             same("layer_norm_eps", 1e-5), same("gamma_init", 1.0)};
const Parameters kPool = {inert("enable_memory_pool", false, kOneCache), inert("enable_profiling", false, kTrainer),
                          inert("lightweight_pool", true, kOneCache)};
const Parameters kTf32 = {inert("use_tf32", true, kTorchSays)};
const Parameters kRingSize = {mapped("ring_size", "ring_size")};
const Parameters kRing =
    kSegmentsFirst + kDropout + kRingSize + kTensorPlace + kPool + inert(kOneCache, {{"use_pattern_cache", true}});
const Parameters kThreshold = {inert("memory_pool_threshold_mb", 16.0, kOneCache)};
// Two words for one switch, which is an argument of forward there.
const Parameters kCausal = {mapped("is_causal", "causal"), mapped("causal", "causal")};
const Parameters kLayer = {
    mapped("d_model", "embed_dim"), mapped("nhead", "num_heads"),  required("segment_lengths"),
    required("dilation_rates"),     same("dim_feedforward", 2048), {"dropout", {"dropout", "attention_dropout"}, 0.1},
    same("activation", "relu"),     same("layer_norm_eps", 1e-5),  same("gamma_init", 1.0),
    mapped("device", "device"),     mapped("dtype", "dtype"),
};
const Parameters kSparse = kSegmentsFirst + Parameters{mapped("sparse_config", "sparse_config")};
const Parameters kSparseWords = {mapped("sparsity_config", "sparse_config"),
                                 mapped("sparsity_ratio", "sparsity_ratio")};
const Parameters kSparseKeywords = kSparseWords + kDropout + kRingSize + kPool + kCausal;

Parameters layer_parameters() {
  Parameters all = kLayer;
  all[0].required = all[1].required = true;
  return all;
}

std::vector<LegacyClass> all_classes() {
  using enum LegacyKind;
  const Parameters flash = {inert("use_flash_attention", true, kOneEngine)};
  const Parameters compiled = flash + inert(kTrainer, {{"compile_model", false}});
  std::vector<LegacyClass> all = {
      {"DilatedAttention", kAttention, "standard",
       kSegmentsFirst +
           Parameters{same("softmax_scale", {}), same("attention_dropout", 0.0), inert("op", {}, kOneEngine)} + kPool,
       kCausal},
      {"ImprovedDilatedAttention", kAttention, "improved", kSegmentsFirst + kDropout + kTf32 + kPool, kCausal},
      {"RingDilatedAttention", kAttention, "ring", kRing + kThreshold, kCausal},
      {"RingDilatedAttentionV2", kAttention, "ring", kRing, kCausal},
      {"RingDilatedAttentionV2Collective", kAttention, "ring", kRing + kThreshold, kCausal},
      {"RingDilatedAttentionV2Flash", kAttention, "ring",
       kRing + kThreshold + flash + inert(kNoChunks, {{"flash_chunk_size", 2048}}), kCausal},
      // There it takes one config; these are the config's fields.
      {"RingDilatedAttentionProduction", kAttention, "ring",
       kSegmentsFirst + kDropout + kRingSize + inert(kCheckpoints, {{"use_gradient_checkpointing", true}}) +
           inert(kOneCache, {{"use_memory_pool", true}, {"memory_pool_size", 10}}) +
           inert(kTrainer, {{"enable_error_recovery", true}, {"mixed_precision", true}, {"log_memory_usage", false}}) +
           Parameters{mapped("attention_scale", "softmax_scale")},
       kCausal},
      {"SimulatedRingDilatedAttention", kAttention, "ring",
       kSegmentsFirst + kDropout + Parameters{same("ring_size", 1), inert("chunk_k_v", true, kNoChunks)} + kTensorPlace,
       kCausal},
      {"TrueRingDilatedAttention", kAttention, "ring",
       kSegmentsFirst + kDropout + Parameters{same("ring_size", 1), inert("chunk_size_kv", {}, kNoChunks)} +
           kTensorPlace,
       kCausal},
      {"DistributedImprovedDilatedAttention", kAttention, "distributed",
       kSegmentsFirst + kDropout + kTf32 + inert(kGroup, {{"sequence_parallel", false}}) +
           inert(kTrainer, {{"model_parallel", false}}) + flash + inert(kTensorsBring, {{"dtype", {}}, {"device", {}}}),
       kCausal},
      {"MultiheadDilatedAttention", kMultihead, "standard",
       kWidth + kRatesFirst + kDropout + kMagneto + kWeightPlace + inert(kOneEngine, {{"op", {}}}), kCausal},
      {"ImprovedMultiheadDilatedAttention", kMultihead, "improved",
       kWidth + kRatesFirst + kDropout + kMagneto + kWeightPlace + kTf32, kCausal},
      {"DistributedMultiheadDilatedAttention", kMultihead, "distributed",
       kWidth + kRatesFirst + kDropout + inert(kOneEngine, {{"op", {}}}), kCausal},
      {"RingMultiheadDilatedAttention", kMultihead, "ring",
       kWidth + kSegmentsFirst + kDropout + kMagneto + inert(kNoChunks, {{"block_size", 1024}}) + kRingSize +
           inert(kCheckpoints, {{"use_checkpointing", true}}) + kTf32 + compiled + kWeightPlace,
       kCausal},
      {"DistributedImprovedMultiheadDilatedAttention", kMultihead, "distributed",
       kWidth + kSegmentsFirst + kDropout + kMagneto + kWeightPlace + kTf32 +
           inert(kGroup, {{"sequence_parallel", false}}) +
           inert(kTrainer, {{"model_parallel", false}, {"use_deepspeed", true}}) +
           inert(kCheckpoints, {{"use_gradient_checkpointing", false}}) +
           inert(kBackend, {{"communication_backend", "nccl"}}) +
           inert(kTrainer, {{"cpu_offload", false}, {"use_8bit_optimizer", false}}) + compiled,
       kCausal},
      {"RingDistributedDilatedAttention", kMultihead, "distributed",
       kWidth + kSegmentsFirst + kDropout + kMagneto + inert(kNoChunks, {{"block_size", 1024}}) + kRingSize +
           inert(kCheckpoints, {{"use_checkpointing", true}}) + inert(kTrainer, {{"model_parallel", false}}) +
           inert("pass group none to keep a sequence on one rank", {{"sequence_parallel", true}}) +
           inert(kTrainer, {{"data_parallel", true},
                            {"use_deepspeed", true},
                            {"zero_stage", 3},
                            {"cpu_offload", false},
                            {"nvme_offload", false},
                            {"use_8bit_optimizer", false},
                            {"use_gradient_compression", false}}) +
           inert(kCheckpoints, {{"activation_checkpointing", true}}) +
           inert(kBackend, {{"communication_backend", "nccl"}}) +
           inert(kTrainer, {{"bucket_size", 25},
                            {"overlap_communication", true},
                            {"enable_fault_tolerance", true},
                            {"checkpoint_interval", 1000},
                            {"auto_resume", true},
                            {"enable_monitoring", true},
                            {"profile_memory", false},
                            {"log_level", "INFO"}}) +
           kTf32 + compiled + kWeightPlace,
       kCausal},
      {"BlockSparseRingDilatedAttention", kAttention, "block_sparse_ring", kSparse, kSparseKeywords},
      {"BlockSparseOptimized", kAttention, "block_sparse_ring",
       kSparse + inert(kOneEngine, {{"enable_batched_ops", true}}) + inert(kOneCache, {{"cache_size", 100}}),
       kSparseKeywords},
      {"BlockSparseHierarchical", kAttention, "block_sparse_ring",
       kSegmentsFirst +
           Parameters{mapped("hierarchical_config", "hierarchical_config"), mapped("sparse_config", "sparse_config")},
       kSparseKeywords},
      {"BlockSparseAdaptive", kAttention, "block_sparse_adaptive",
       kSegmentsFirst + Parameters{{"num_heads", {"kv_heads"}, {}, true},
                                   required("head_dim"),
                                   mapped("adaptive_config", "adaptive_config")},
       Parameters{same("block_size", 64)} + kDropout + kTensorPlace + kPool + kCausal},
      {"BlockSparseTorchSparse", kAttention, "block_sparse_ring",
       kSparse + inert(kOneEngine, {{"use_sparse_backend", true}, {"sparse_threshold", 0.8}}), kSparseKeywords},
      {"BlockSparseRingMultiheadDilatedAttention", kMultihead, "block_sparse_ring",
       kWidth + kSegmentsFirst + kDropout +
           Parameters{same("bias", true), mapped("sparse_config", "sparse_config"),
                      inert("batch_first", true, "tensors are [batch, len, embed_dim]; transpose them")},
       kSparseWords + kRingSize + kWeightPlace + kCausal},
      {"DilatedTransformerEncoderLayer", kEncoderLayer, "", layer_parameters(), kCausal},
      {"DilatedTransformerDecoderLayer",
       kDecoderLayer,
       "",
       layer_parameters(),
       {mapped("tgt_is_causal", "causal"), mapped("memory_is_causal", "memory_causal")}},
      {"LongNet",
       kLongNet,
       "",
       {same("d_model", 768),
        same("nhead", 12),
        same("num_encoder_layers", 12),
        same("num_decoder_layers", 12),
        same("dim_feedforward", 3072),
        same("segment_lengths", {2048, 4096, 8192, 16384, 32768}),
        same("dilation_rates", {1, 2, 4, 6, 12}),
        {"dropout", {"dropout", "attention_dropout"}, 0.0},
        same("activation", "relu"),
        same("layer_norm_eps", 1e-5),
        mapped("device", "device"),
        mapped("dtype", "dtype")},
       {{"is_causal", {"encoder_causal", "decoder_causal", "memory_causal"}, true}}},
  };
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return all;
}

}  // namespace

const std::vector<LegacyClass>& legacy_classes() {
  static const std::vector<LegacyClass> all = all_classes();
  return all;
}

}  // namespace longstride::factory
