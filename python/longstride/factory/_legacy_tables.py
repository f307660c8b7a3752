"""The constructors of dilated-attention-pytorch as tables: parameters in their positional order, and what each is here.

Facts from fkodom/dilated-attention-pytorch and DarcStar-Solutions-Tech/dilated-attention-pytorch; the same tables as in
src/factory/legacy_tables.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TENSORS_BRING = "attention without projections has no weights; tensors bring their own"
TORCH_SAYS = "set torch's own switch for float32 products"
ONE_ENGINE = "the engine is picked by device and dtype; leave it out"
ONE_CACHE = "plans are cached for the whole process; leave it out"
TRAINER = "the training loop's business, not attention's; leave it out"
NO_CHUNKS = "nothing is cut into chunks that a caller sees; leave it out"
CHECKPOINTS = "wrap the layer in torch.utils.checkpoint; leave it out"
GROUP_AND_RING = "pass group and ring_size to the factory"
GROUP_AND_BACKEND = "pass group and backend to the factory"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a class there.

    Attributes:
        name: its keyword.
        options: options here that take its value; none: it has no counterpart, and any value but its default is refused.
        default: its default there; None: none, or that of ours.
        required: whether a call must give it.
        instead: what to do in place of a parameter without a counterpart.
    """

    name: str
    options: tuple[str, ...] = ()
    default: Any = None
    required: bool = False
    instead: str = ""


@dataclass(frozen=True)
class LegacyClass:
    """A class there.

    Attributes:
        kind: "attention", "multihead", "encoder layer", "decoder layer" or "LongNet".
        type: of the factory; "" for layers and models.
        positional: also by keyword. keywords: by keyword only.
    """

    kind: str
    type: str
    positional: tuple[Parameter, ...]
    keywords: tuple[Parameter, ...]


def required(name: str, option: str | None = None) -> Parameter:
    return Parameter(name, (option or name,), required=True)


def mapped(name: str, *options: str, default: Any = None) -> Parameter:
    return Parameter(name, options or (name,), default)


def inert(name: str, default: Any, instead: str) -> Parameter:
    return Parameter(name, (), default, False, instead)


SEGMENTS_FIRST = (required("segment_lengths"), required("dilation_rates"))
RATES_FIRST = SEGMENTS_FIRST[::-1]
WIDTH = (required("embed_dim"), required("num_heads"))
DROPOUT = (mapped("dropout", "attention_dropout", default=0.0),)
TENSOR_PLACE = (inert("device", None, TENSORS_BRING), inert("dtype", None, TENSORS_BRING))
WEIGHT_PLACE = (mapped("device"), mapped("dtype"))
MAGNETO = (
    mapped("bias", default=True), mapped("layer_norm", "sub_layer_norm", default=True),
    mapped("layer_norm_eps", default=1e-5), mapped("gamma_init", default=1.0),
)  # fmt: skip
POOL = (
    inert("enable_memory_pool", False, ONE_CACHE), inert("enable_profiling", False, TRAINER),
    inert("lightweight_pool", True, ONE_CACHE),
)  # fmt: skip
TF32 = (inert("use_tf32", True, TORCH_SAYS),)
RING_SIZE = (mapped("ring_size"),)
RING = (*SEGMENTS_FIRST, *DROPOUT, *RING_SIZE, *TENSOR_PLACE, *POOL, inert("use_pattern_cache", True, ONE_CACHE))
THRESHOLD = (inert("memory_pool_threshold_mb", 16.0, ONE_CACHE),)
# Two words for one switch, which is an argument of forward there.
CAUSAL = (mapped("is_causal", "causal"), mapped("causal"))
FLASH = inert("use_flash_attention", True, ONE_ENGINE)
COMPILE = inert("compile_model", False, TRAINER)
DEEPSPEED = inert("use_deepspeed", True, TRAINER)
SMALL_OPTIMIZER = inert("use_8bit_optimizer", False, TRAINER)
OFFLOAD = inert("cpu_offload", False, TRAINER)
MODEL_PARALLEL = inert("model_parallel", False, TRAINER)
BACKEND = inert("communication_backend", "nccl", GROUP_AND_BACKEND)
RING_BLOCKS = (
    inert("block_size", 1024, NO_CHUNKS), *RING_SIZE, inert("use_checkpointing", True, CHECKPOINTS),
)  # fmt: skip
LAYER = (
    required("d_model", "embed_dim"), required("nhead", "num_heads"), *SEGMENTS_FIRST,
    mapped("dim_feedforward", default=2048), mapped("dropout", "dropout", "attention_dropout", default=0.1),
    mapped("activation", default="relu"), mapped("layer_norm_eps", default=1e-5), mapped("gamma_init", default=1.0),
    *WEIGHT_PLACE,
)  # fmt: skip
SPARSE = (mapped("sparse_config"),)
SPARSE_WORDS = (mapped("sparsity_config", "sparse_config"), mapped("sparsity_ratio"))
SPARSE_KEYWORDS = (*SPARSE_WORDS, *DROPOUT, *RING_SIZE, *POOL, *CAUSAL)

CLASSES = {
    "DilatedAttention": LegacyClass(
        "attention", "standard",
        (*SEGMENTS_FIRST, mapped("softmax_scale"), mapped("attention_dropout", default=0.0),
         inert("op", None, ONE_ENGINE), *POOL),
        CAUSAL,
    ),
    "ImprovedDilatedAttention": LegacyClass(
        "attention", "improved", (*SEGMENTS_FIRST, *DROPOUT, *TF32, *POOL), CAUSAL
    ),
    "RingDilatedAttention": LegacyClass("attention", "ring", (*RING, *THRESHOLD), CAUSAL),
    "RingDilatedAttentionV2": LegacyClass("attention", "ring", RING, CAUSAL),
    "RingDilatedAttentionV2Collective": LegacyClass("attention", "ring", (*RING, *THRESHOLD), CAUSAL),
    "RingDilatedAttentionV2Flash": LegacyClass(
        "attention", "ring", (*RING, *THRESHOLD, FLASH, inert("flash_chunk_size", 2048, NO_CHUNKS)), CAUSAL
    ),
    # There it takes one config; these are the config's fields.
    "RingDilatedAttentionProduction": LegacyClass(
        "attention", "ring",
        (*SEGMENTS_FIRST, *DROPOUT, *RING_SIZE, inert("use_gradient_checkpointing", True, CHECKPOINTS),
         inert("use_memory_pool", True, ONE_CACHE), inert("memory_pool_size", 10, ONE_CACHE),
         inert("enable_error_recovery", True, TRAINER), inert("mixed_precision", True, TRAINER),
         inert("log_memory_usage", False, TRAINER), mapped("attention_scale", "softmax_scale")),
        CAUSAL,
    ),
    "SimulatedRingDilatedAttention": LegacyClass(
        "attention", "ring",
        (*SEGMENTS_FIRST, *DROPOUT, mapped("ring_size", default=1), inert("chunk_k_v", True, NO_CHUNKS), *TENSOR_PLACE),
        CAUSAL,
    ),
    "TrueRingDilatedAttention": LegacyClass(
        "attention", "ring",
        (*SEGMENTS_FIRST, *DROPOUT, mapped("ring_size", default=1), inert("chunk_size_kv", None, NO_CHUNKS),
         *TENSOR_PLACE),
        CAUSAL,
    ),
    "DistributedImprovedDilatedAttention": LegacyClass(
        "attention", "distributed",
        (*SEGMENTS_FIRST, *DROPOUT, *TF32, inert("sequence_parallel", False, GROUP_AND_RING), MODEL_PARALLEL, FLASH,
         *TENSOR_PLACE[::-1]),
        CAUSAL,
    ),
    "MultiheadDilatedAttention": LegacyClass(
        "multihead", "standard",
        (*WIDTH, *RATES_FIRST, *DROPOUT, *MAGNETO, *WEIGHT_PLACE, inert("op", None, ONE_ENGINE)), CAUSAL,
    ),
    "ImprovedMultiheadDilatedAttention": LegacyClass(
        "multihead", "improved", (*WIDTH, *RATES_FIRST, *DROPOUT, *MAGNETO, *WEIGHT_PLACE, *TF32), CAUSAL
    ),
    "DistributedMultiheadDilatedAttention": LegacyClass(
        "multihead", "distributed", (*WIDTH, *RATES_FIRST, *DROPOUT, inert("op", None, ONE_ENGINE)), CAUSAL
    ),
    "RingMultiheadDilatedAttention": LegacyClass(
        "multihead", "ring",
        (*WIDTH, *SEGMENTS_FIRST, *DROPOUT, *MAGNETO, *RING_BLOCKS, *TF32, FLASH, COMPILE, *WEIGHT_PLACE), CAUSAL,
    ),
    "DistributedImprovedMultiheadDilatedAttention": LegacyClass(
        "multihead", "distributed",
        (*WIDTH, *SEGMENTS_FIRST, *DROPOUT, *MAGNETO, *WEIGHT_PLACE, *TF32,
         inert("sequence_parallel", False, GROUP_AND_RING), MODEL_PARALLEL, DEEPSPEED,
         inert("use_gradient_checkpointing", False, CHECKPOINTS), BACKEND, OFFLOAD, SMALL_OPTIMIZER, FLASH, COMPILE),
        CAUSAL,
    ),
    "RingDistributedDilatedAttention": LegacyClass(
        "multihead", "distributed",
        (*WIDTH, *SEGMENTS_FIRST, *DROPOUT, *MAGNETO, *RING_BLOCKS, MODEL_PARALLEL,
         inert("sequence_parallel", True, "pass group none to keep a sequence on one rank"),
         inert("data_parallel", True, TRAINER), DEEPSPEED, inert("zero_stage", 3, TRAINER), OFFLOAD,
         inert("nvme_offload", False, TRAINER), SMALL_OPTIMIZER, inert("use_gradient_compression", False, TRAINER),
         inert("activation_checkpointing", True, CHECKPOINTS), BACKEND, inert("bucket_size", 25, TRAINER),
         inert("overlap_communication", True, TRAINER), inert("enable_fault_tolerance", True, TRAINER),
         inert("checkpoint_interval", 1000, TRAINER), inert("auto_resume", True, TRAINER),
         inert("enable_monitoring", True, TRAINER), inert("profile_memory", False, TRAINER),
         inert("log_level", "INFO", TRAINER), *TF32, FLASH, COMPILE, *WEIGHT_PLACE),
        CAUSAL,
    ),
    "BlockSparseRingDilatedAttention": LegacyClass(
        "attention", "block_sparse_ring", (*SEGMENTS_FIRST, *SPARSE), SPARSE_KEYWORDS
    ),
    "BlockSparseOptimized": LegacyClass(
        "attention", "block_sparse_ring",
        (*SEGMENTS_FIRST, *SPARSE, inert("enable_batched_ops", True, ONE_ENGINE), inert("cache_size", 100, ONE_CACHE)),
        SPARSE_KEYWORDS,
    ),
    "BlockSparseHierarchical": LegacyClass(
        "attention", "block_sparse_ring", (*SEGMENTS_FIRST, mapped("hierarchical_config"), *SPARSE), SPARSE_KEYWORDS
    ),
    "BlockSparseAdaptive": LegacyClass(
        "attention", "block_sparse_adaptive",
        (*SEGMENTS_FIRST, required("num_heads", "kv_heads"), required("head_dim"), mapped("adaptive_config")),
        (mapped("block_size", default=64), *DROPOUT, *TENSOR_PLACE, *POOL, *CAUSAL),
    ),
    "BlockSparseTorchSparse": LegacyClass(
        "attention", "block_sparse_ring",
        (*SEGMENTS_FIRST, *SPARSE, inert("use_sparse_backend", True, ONE_ENGINE),
         inert("sparse_threshold", 0.8, ONE_ENGINE)),
        SPARSE_KEYWORDS,
    ),
    "BlockSparseRingMultiheadDilatedAttention": LegacyClass(
        "multihead", "block_sparse_ring",
        (*WIDTH, *SEGMENTS_FIRST, *DROPOUT, mapped("bias", default=True), *SPARSE,
         inert("batch_first", True, "tensors are [batch, len, embed_dim]; transpose them")),
        (*SPARSE_WORDS, *RING_SIZE, *WEIGHT_PLACE, *CAUSAL),
    ),
    "DilatedTransformerEncoderLayer": LegacyClass("encoder layer", "", LAYER, CAUSAL),
    "DilatedTransformerDecoderLayer": LegacyClass(
        "decoder layer", "", LAYER, (mapped("tgt_is_causal", "causal"), mapped("memory_is_causal", "memory_causal"))
    ),
    "LongNet": LegacyClass(
        "LongNet", "",
        (mapped("d_model", default=768), mapped("nhead", default=12), mapped("num_encoder_layers", default=12),
         mapped("num_decoder_layers", default=12), mapped("dim_feedforward", default=3072),
         mapped("segment_lengths", default=(2048, 4096, 8192, 16384, 32768)),
         mapped("dilation_rates", default=(1, 2, 4, 6, 12)),
         mapped("dropout", "dropout", "attention_dropout", default=0.0),
         mapped("activation", default="relu"), mapped("layer_norm_eps", default=1e-5), *WEIGHT_PLACE),
        (mapped("is_causal", "encoder_causal", "decoder_causal", "memory_causal", default=True),),
    ),
}  # fmt: skip
