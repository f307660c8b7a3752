"""Modules of torch.nn with the options and the parameters' names of the C++ ones (include/longstride/nn.h)."""

from ._attention import DilatedAttention, MultiheadDilatedAttention

__all__ = ["DilatedAttention", "MultiheadDilatedAttention"]
