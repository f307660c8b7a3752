"""ValidationMixin."""

from longstride.compat.dilated_attention_pytorch._validation import ValidationMixin
from longstride.compat.dilated_attention_pytorch._missing import KERNELS, PATTERNS, missing

__all__ = ["ValidationMixin"]

__getattr__ = missing(
    __name__,
    {
        "PatternConfig": PATTERNS,
        "PatternType": PATTERNS,
        "SparsePatternGenerator": PATTERNS,
        "PatternQualityAnalyzer": PATTERNS,
        "PatternOptimizer": PATTERNS,
        "PatternVisualizer": PATTERNS,
        "optimize_attention_computation": KERNELS,
        "get_attention_backend_info": KERNELS,
    },
)
