"""BlockSparseAdaptive, which is refused, and its config."""

from longstride.compat.dilated_attention_pytorch._attention import BlockSparseAdaptive
from longstride.compat.dilated_attention_pytorch._configs import AdaptiveConfig
from longstride.compat.dilated_attention_pytorch._missing import LEARNED, missing

__all__ = ["AdaptiveConfig", "BlockSparseAdaptive"]

__getattr__ = missing(
    __name__,
    {
        "ImportanceScorer": LEARNED,
        "AdaptiveSparsityTrainer": LEARNED,
        "create_adaptive_block_sparse": LEARNED,
    },
)
