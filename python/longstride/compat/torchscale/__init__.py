"""torchscale's DilatedAttention (LongNet, Prov-GigaPath) on any CPU or GPU that longstride serves, without flash-attn.

    from longstride.compat import torchscale

    torchscale.patch()  # after the import of gigapath or torchscale.model.LongNet; models already built are served too

or `torchscale.DilatedAttention` in place of torchscale's own: constructor, call, parameters' names and results are its.
What differs is listed in docs/python.md, "Coming from torchscale and Prov-GigaPath".
"""

from ._attention import DilatedAttention
from ._parts import XPOS, MultiwayNetwork
from ._patch import PatchedClass, PatchReport, patch, unpatch

__all__ = ["XPOS", "DilatedAttention", "MultiwayNetwork", "PatchReport", "PatchedClass", "patch", "unpatch"]
