"""Configs, the factory, base classes."""

from longstride.compat.dilated_attention_pytorch._missing import KERNELS, PATTERNS, PLANS, POOLS, missing
from longstride.compat.dilated_attention_pytorch.core import base, config, factory
from longstride.compat.dilated_attention_pytorch.core.base import *  # noqa: F403
from longstride.compat.dilated_attention_pytorch.core.config import *  # noqa: F403
from longstride.compat.dilated_attention_pytorch.core.factory import *  # noqa: F403

__all__ = [*base.__all__, *config.__all__, *factory.__all__]

__getattr__ = missing(
    __name__,
    {
        "UnifiedMemoryPool": POOLS,
        "get_global_memory_pool": POOLS,
        "reset_global_memory_pool": POOLS,
        "get_enhanced_memory_pool": POOLS,
        "PatternCache": PLANS,
        "DilatedPatternCache": PLANS,
        "OptimizedPatternCache": PLANS,
        "get_global_pattern_cache": PLANS,
        "clear_global_cache": PLANS,
        "get_optimized_pattern_cache": PLANS,
        "clear_optimized_cache": PLANS,
        "HAS_SDPA": KERNELS,
        "HAS_SDPA_KERNEL": KERNELS,
        "HAS_FLASH_ATTN": KERNELS,
        "HAS_FLASH_ATTN_3": KERNELS,
        "HAS_XFORMERS": KERNELS,
        "HAS_DEEPSPEED": KERNELS,
        "HAS_FAIRSCALE": KERNELS,
        "HAS_APEX": KERNELS,
        "GPU_TYPE": KERNELS,
        "CURRENT_OPTIMAL_SETTINGS": KERNELS,
        "optimize_attention_computation": KERNELS,
        "standard_attention": KERNELS,
        "compute_attention_scores": KERNELS,
        "create_dilated_mask": PATTERNS,
        "create_block_diagonal_mask": PATTERNS,
        "apply_dilated_attention_pattern": PATTERNS,
    },
)
