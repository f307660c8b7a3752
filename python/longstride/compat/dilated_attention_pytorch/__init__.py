"""dilated-attention-pytorch, fkodom's original and the larger fork of its name, over longstride's attention.

    import sys
    from longstride.compat import dilated_attention_pytorch

    sys.modules["dilated_attention_pytorch"] = dilated_attention_pytorch  # before the first import of it

Modules, constructors, calls, returned types and the keys of state_dict are theirs. Where their numbers are right they
are these; where not, docs/coming_from_dilated_attention_pytorch.md has each case. This package's own names are the
fork's; `dilated_attention.MultiheadDilatedAttention`, `transformer` and `long_net` are the original's, and layers take
the fork's form from its checkpoints.
"""

from longstride.compat.dilated_attention_pytorch import core, dilated_attention, long_net, transformer, utils
from longstride.compat.dilated_attention_pytorch._attention import (
    BlockSparseAdaptive,
    BlockSparseHierarchical,
    BlockSparseOptimized,
    BlockSparseRingDilatedAttention,
    BlockSparseTorchSparse,
    DilatedAttention,
    DistributedImprovedDilatedAttention,
    ImprovedDilatedAttention,
    RingDilatedAttentionProduction,
    RingDilatedAttentionV2,
    RingDilatedAttentionV2Collective,
    RingDilatedAttentionV2Flash,
)
from longstride.compat.dilated_attention_pytorch._configs import (
    AdaptiveConfig,
    HierarchicalConfig,
    ProductionRingConfig as RingAttentionConfig,
    SparsePatternConfig,
    get_hierarchical_presets,
)
from longstride.compat.dilated_attention_pytorch._factory import (
    create_adaptive_sparse_attention,
    create_block_sparse_attention,
    create_dilated_attention,
    create_hierarchical_attention,
    create_multihead_dilated_attention,
    create_production_ring_attention,
)
from longstride.compat.dilated_attention_pytorch._layers import (
    DilatedTransformerDecoderLayer,
    DilatedTransformerEncoderLayer,
    LongNet,
)
from longstride.compat.dilated_attention_pytorch._missing import LEARNED, PATTERNS, SHARDED, missing
from longstride.compat.dilated_attention_pytorch._multihead import (
    BlockSparseRingMultiheadDilatedAttention,
    DistributedImprovedMultiheadDilatedAttention,
    ImprovedMultiheadDilatedAttention,
    MultiheadDilatedAttention,
)

__version__ = "0.2.0"  # of both lines, for code that asks

RingDilatedAttention = RingDilatedAttentionV2Collective
HAS_FLASH_RING = True

__all__ = [
    "AdaptiveConfig",
    "BlockSparseAdaptive",
    "BlockSparseHierarchical",
    "BlockSparseOptimized",
    "BlockSparseRingDilatedAttention",
    "BlockSparseRingMultiheadDilatedAttention",
    "BlockSparseTorchSparse",
    "DilatedAttention",
    "DilatedTransformerDecoderLayer",
    "DilatedTransformerEncoderLayer",
    "DistributedImprovedDilatedAttention",
    "DistributedImprovedMultiheadDilatedAttention",
    "HAS_FLASH_RING",
    "HierarchicalConfig",
    "ImprovedDilatedAttention",
    "ImprovedMultiheadDilatedAttention",
    "LongNet",
    "MultiheadDilatedAttention",
    "RingAttentionConfig",
    "RingDilatedAttention",
    "RingDilatedAttentionProduction",
    "RingDilatedAttentionV2",
    "RingDilatedAttentionV2Collective",
    "RingDilatedAttentionV2Flash",
    "SparsePatternConfig",
    "core",
    "create_adaptive_sparse_attention",
    "create_block_sparse_attention",
    "create_dilated_attention",
    "create_hierarchical_attention",
    "create_multihead_dilated_attention",
    "create_production_ring_attention",
    "dilated_attention",
    "get_hierarchical_presets",
    "long_net",
    "transformer",
    "utils",
]

__getattr__ = missing(
    __name__,
    {
        "PatternConfig": PATTERNS,
        "PatternType": PATTERNS,
        "SparsePatternGenerator": PATTERNS,
        "PatternQualityAnalyzer": PATTERNS,
        "PatternOptimizer": PATTERNS,
        "BlockSparseRingDistributedDilatedAttention": SHARDED,
        "DistributedSparseConfig": SHARDED,
        "DistributedSparsePattern": SHARDED,
        "ImportanceScorer": LEARNED,
        "AdaptiveSparsityTrainer": LEARNED,
        "create_adaptive_block_sparse": LEARNED,
    },
)
