// The tables themselves, class by class (legacy_tables.h).
#include "factory/legacy_tables.h"

#include <algorithm>

namespace longstride::factory {
namespace {

using Parameters = std::vector<LegacyParameter>;

constexpr const char* kTensorsBring = "attention without projections has no weights; tensors bring their own";
constexpr const char* kTorchSays = "set torch's own switch for float32 products";
constexpr const char* kOneEngine = "the engine is picked by device and dtype; leave it out";
constexpr const char* kOneCache = "plans are cached for the whole process, within set_plan_cache_limit(); leave it out";
constexpr const char* kTrainer = "the training loop's business, not attention's; leave it out";
constexpr const char* kNoChunks = "nothing is cut into chunks that a caller sees; leave it out";
constexpr const char* kCheckpoints = "wrap the layer in longstride::checkpoint; leave it out";

LegacyParameter required(const char* name) { return {name, {name}, {}, true}; }
LegacyParameter mapped(const char* name, const char* option, OptionValue standard = {}) {
  return {name, {option}, std::move(standard)};
}
LegacyParameter same(const char* name, OptionValue standard) { return mapped(name, name, std::move(standard)); }
LegacyParameter inert(const char* name, OptionValue standard, const char* instead) {
  return {name, {}, std::move(standard), false, instead};
}

Parameters joined(std::initializer_list<Parameters> lists) {
  Parameters all;
  for (const Parameters& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

const Parameters kSegmentsFirst = {required("segment_lengths"), required("dilation_rates")};
const Parameters kRatesFirst = {required("dilation_rates"), required("segment_lengths")};
const Parameters kWidth = {required("embed_dim"), required("num_heads")};
const Parameters kDropout = {mapped("dropout", "attention_dropout", 0.0)};
const Parameters kTensorPlace = {inert("device", {}, kTensorsBring), inert("dtype", {}, kTensorsBring)};
const Parameters kWeightPlace = {mapped("device", "device"), mapped("dtype", "dtype")};
const Parameters kMagneto = {same("bias", true), mapped("layer_norm", "sub_layer_norm", true),
                             same("layer_norm_eps", 1e-5), same("gamma_init", 1.0)};
const Parameters kPool = {inert("enable_memory_pool", false, kOneCache), inert("enable_profiling", false, kTrainer),
                          inert("lightweight_pool", true, kOneCache)};
const Parameters kTf32 = {inert("use_tf32", true, kTorchSays)};
const Parameters kRing = joined({kSegmentsFirst,
                                 kDropout,
                                 {mapped("ring_size", "ring_size")},
                                 kTensorPlace,
                                 kPool,
                                 {inert("use_pattern_cache", true, kOneCache)}});
const Parameters kThreshold = {inert("memory_pool_threshold_mb", 16.0, kOneCache)};
// Two words for one switch, which is an argument of forward there.
const Parameters kCausal = {mapped("is_causal", "causal"), mapped("causal", "causal")};
const Parameters kLayer = {
    mapped("d_model", "embed_dim"), mapped("nhead", "num_heads"),  required("segment_lengths"),
    required("dilation_rates"),     same("dim_feedforward", 2048), {"dropout", {"dropout", "attention_dropout"}, 0.1},
    same("activation", "relu"),     same("layer_norm_eps", 1e-5),  same("gamma_init", 1.0),
    mapped("device", "device"),     mapped("dtype", "dtype"),
};
const Parameters kSparse = {mapped("sparse_config", "sparse_config")};
const Parameters kSparseWords = {mapped("sparsity_config", "sparse_config"),
                                 mapped("sparsity_ratio", "sparsity_ratio")};

Parameters layer_parameters() {
  Parameters all = kLayer;
  all[0].required = all[1].required = true;
  return all;
}

std::vector<LegacyClass> all_classes() {
  using enum LegacyKind;
  std::vector<LegacyClass> all = {
      {"DilatedAttention", kAttention, "standard",
       joined({kSegmentsFirst,
               {same("softmax_scale", {}), same("attention_dropout", 0.0), inert("op", {}, kOneEngine)},
               kPool}),
       kCausal},
      {"ImprovedDilatedAttention", kAttention, "improved", joined({kSegmentsFirst, kDropout, kTf32, kPool}), kCausal},
      {"RingDilatedAttention", kAttention, "ring", joined({kRing, kThreshold}), kCausal},
      {"RingDilatedAttentionV2", kAttention, "ring", kRing, kCausal},
      {"RingDilatedAttentionV2Collective", kAttention, "ring", joined({kRing, kThreshold}), kCausal},
      {"RingDilatedAttentionV2Flash", kAttention, "ring",
       joined({kRing,
               kThreshold,
               {inert("use_flash_attention", true, kOneEngine), inert("flash_chunk_size", 2048, kNoChunks)}}),
       kCausal},
      // There it takes one config; these are the config's fields.
      {"RingDilatedAttentionProduction", kAttention, "ring",
       joined({kSegmentsFirst,
               kDropout,
               {mapped("ring_size", "ring_size"), inert("use_gradient_checkpointing", true, kCheckpoints),
                inert("use_memory_pool", true, kOneCache), inert("memory_pool_size", 10, kOneCache),
                inert("enable_error_recovery", true, kTrainer), inert("mixed_precision", true, kTrainer),
                inert("log_memory_usage", false, kTrainer), mapped("attention_scale", "softmax_scale")}}),
       kCausal},
      {"SimulatedRingDilatedAttention", kAttention, "ring",
       joined({kSegmentsFirst, kDropout, {same("ring_size", 1), inert("chunk_k_v", true, kNoChunks)}, kTensorPlace}),
       kCausal},
      {"TrueRingDilatedAttention", kAttention, "ring",
       joined({kSegmentsFirst, kDropout, {same("ring_size", 1), inert("chunk_size_kv", {}, kNoChunks)}, kTensorPlace}),
       kCausal},
      {"DistributedImprovedDilatedAttention", kAttention, "distributed",
       joined({kSegmentsFirst,
               kDropout,
               kTf32,
               {inert("sequence_parallel", false, "pass group and ring_size to the factory"),
                inert("model_parallel", false, kTrainer), inert("use_flash_attention", true, kOneEngine),
                inert("dtype", {}, kTensorsBring), inert("device", {}, kTensorsBring)}}),
       kCausal},
      {"MultiheadDilatedAttention", kMultihead, "standard",
       joined({kWidth, kRatesFirst, kDropout, kMagneto, kWeightPlace, {inert("op", {}, kOneEngine)}}), kCausal},
      {"ImprovedMultiheadDilatedAttention", kMultihead, "improved",
       joined({kWidth, kRatesFirst, kDropout, kMagneto, kWeightPlace, kTf32}), kCausal},
      {"DistributedMultiheadDilatedAttention", kMultihead, "distributed",
       joined({kWidth, kRatesFirst, kDropout, {inert("op", {}, kOneEngine)}}), kCausal},
      {"RingMultiheadDilatedAttention", kMultihead, "ring",
       joined({kWidth,
               kSegmentsFirst,
               kDropout,
               kMagneto,
               {inert("block_size", 1024, kNoChunks), mapped("ring_size", "ring_size"),
                inert("use_checkpointing", true, kCheckpoints)},
               kTf32,
               {inert("use_flash_attention", true, kOneEngine), inert("compile_model", false, kTrainer)},
               kWeightPlace}),
       kCausal},
      {"DistributedImprovedMultiheadDilatedAttention", kMultihead, "distributed",
       joined({kWidth,
               kSegmentsFirst,
               kDropout,
               kMagneto,
               kWeightPlace,
               kTf32,
               {inert("sequence_parallel", false, "pass group and ring_size to the factory"),
                inert("model_parallel", false, kTrainer), inert("use_deepspeed", true, kTrainer),
                inert("use_gradient_checkpointing", false, kCheckpoints),
                inert("communication_backend", "nccl", "pass group and backend to the factory"),
                inert("cpu_offload", false, kTrainer), inert("use_8bit_optimizer", false, kTrainer),
                inert("use_flash_attention", true, kOneEngine), inert("compile_model", false, kTrainer)}}),
       kCausal},
      {"RingDistributedDilatedAttention", kMultihead, "distributed",
       joined({kWidth,
               kSegmentsFirst,
               kDropout,
               kMagneto,
               {inert("block_size", 1024, kNoChunks),
                mapped("ring_size", "ring_size"),
                inert("use_checkpointing", true, kCheckpoints),
                inert("model_parallel", false, kTrainer),
                inert("sequence_parallel", true, "pass group none to keep a sequence on one rank"),
                inert("data_parallel", true, kTrainer),
                inert("use_deepspeed", true, kTrainer),
                inert("zero_stage", 3, kTrainer),
                inert("cpu_offload", false, kTrainer),
                inert("nvme_offload", false, kTrainer),
                inert("use_8bit_optimizer", false, kTrainer),
                inert("use_gradient_compression", false, kTrainer),
                inert("activation_checkpointing", true, kCheckpoints),
                inert("communication_backend", "nccl", "pass group and backend to the factory"),
                inert("bucket_size", 25, kTrainer),
                inert("overlap_communication", true, kTrainer),
                inert("enable_fault_tolerance", true, kTrainer),
                inert("checkpoint_interval", 1000, kTrainer),
                inert("auto_resume", true, kTrainer),
                inert("enable_monitoring", true, kTrainer),
                inert("profile_memory", false, kTrainer),
                inert("log_level", "INFO", kTrainer)},
               kTf32,
               {inert("use_flash_attention", true, kOneEngine), inert("compile_model", false, kTrainer)},
               kWeightPlace}),
       kCausal},
      {"BlockSparseRingDilatedAttention", kAttention, "block_sparse_ring", joined({kSegmentsFirst, kSparse}),
       joined({kSparseWords, kDropout, {mapped("ring_size", "ring_size")}, kPool, kCausal})},
      {"BlockSparseOptimized", kAttention, "block_sparse_ring",
       joined({kSegmentsFirst,
               kSparse,
               {inert("enable_batched_ops", true, kOneEngine), inert("cache_size", 100, kOneCache)}}),
       joined({kSparseWords, kDropout, {mapped("ring_size", "ring_size")}, kPool, kCausal})},
      {"BlockSparseHierarchical", kAttention, "block_sparse_ring",
       joined({kSegmentsFirst, {mapped("hierarchical_config", "hierarchical_config")}, kSparse}),
       joined({kSparseWords, kDropout, {mapped("ring_size", "ring_size")}, kPool, kCausal})},
      {"BlockSparseAdaptive", kAttention, "block_sparse_adaptive",
       joined({kSegmentsFirst,
               {{"num_heads", {"kv_heads"}, {}, true},
                required("head_dim"),
                mapped("adaptive_config", "adaptive_config")}}),
       joined({{same("block_size", 64)}, kDropout, kTensorPlace, kPool, kCausal})},
      {"BlockSparseTorchSparse", kAttention, "block_sparse_ring",
       joined({kSegmentsFirst,
               kSparse,
               {inert("use_sparse_backend", true, kOneEngine), inert("sparse_threshold", 0.8, kOneEngine)}}),
       joined({kSparseWords, kDropout, {mapped("ring_size", "ring_size")}, kPool, kCausal})},
      {"BlockSparseRingMultiheadDilatedAttention", kMultihead, "block_sparse_ring",
       joined({kWidth,
               kSegmentsFirst,
               kDropout,
               {same("bias", true)},
               kSparse,
               {inert("batch_first", true, "tensors are [batch, len, embed_dim]; transpose them")}}),
       joined({kSparseWords, {mapped("ring_size", "ring_size")}, kWeightPlace, kCausal})},
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
