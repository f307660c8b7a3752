"""BlockSparseHierarchical and its config."""

from longstride.compat.dilated_attention_pytorch._attention import BlockSparseHierarchical
from longstride.compat.dilated_attention_pytorch._configs import HierarchicalConfig, get_hierarchical_presets
from longstride.compat.dilated_attention_pytorch._factory import create_hierarchical_attention

__all__ = ["BlockSparseHierarchical", "HierarchicalConfig", "create_hierarchical_attention", "get_hierarchical_presets"]
