"""patch() and unpatch(): torchscale's own DilatedAttention with longstride's forward."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..._refusal import refuse
from ._attention import forward

METHODS = {"dense_to_sparse", "sparse_to_dense", "forward"}
NUMPY_REMEDY = (
    "this NumPy writes str([numpy.int64(1)]) as [np.int64(1)], which Prov-GigaPath's slide encoder cannot read back "
    "(NameError: name 'np' is not defined): call numpy.set_printoptions(legacy='1.25') before you build one"
)
# The forwards that patched classes had.
originals: dict[type, Callable] = {}


@dataclass(frozen=True)
class PatchedClass:
    """A class DilatedAttention: its module's name, the file it was read from, how many living modules it serves."""

    module: str
    file: str
    count: int

    def __str__(self) -> str:
        return f"DilatedAttention of {self.module} ({self.file}), {self.count} modules"


@dataclass(frozen=True)
class PatchReport:
    """What patch() or unpatch() changed; `remedy` says what else stands in a model's way here, if anything."""

    classes: tuple[PatchedClass, ...]
    remedy: str | None = None

    def __str__(self) -> str:
        lines = [str(one) for one in self.classes] or ["nothing"]
        return "\n".join(lines + ([f"note: {self.remedy}"] if self.remedy else []))


def torchscale_classes() -> list[type]:
    """torchscale's DilatedAttention of every copy that is imported, known by its methods: GigaPath's copy has the
    module's name but not the file of torchscale, and other files hold the class under a name of their own."""
    found: dict[type, None] = {}
    for module in list(sys.modules.values()):
        for one in list(getattr(module, "__dict__", {}).values()):
            # By type(): proxies answer isinstance by loading what they stand for.
            if issubclass(type(one), type) and one.__name__ == "DilatedAttention" and METHODS <= vars(one).keys():
                found[one] = None
    return list(found)


def described(classes: list[type]) -> tuple[PatchedClass, ...]:
    alive = [one for one in gc.get_objects() if issubclass(type(one), nn.Module)]
    report = []
    for cls in classes:
        modules = [one for one in alive if isinstance(one, cls) and type(one).forward is vars(cls)["forward"]]
        count = sum("forward" not in vars(one) for one in modules)  # else a wrapper stands before the class's
        report.append(PatchedClass(cls.__module__, vars(cls)["dense_to_sparse"].__code__.co_filename, count))
    return tuple(report)


def numpy_remedy() -> str | None:
    numpy = sys.modules.get("numpy")
    return NUMPY_REMEDY if numpy is not None and str([numpy.int64(1)]) != "[1]" else None


def patch(*, honour_key_padding: bool = False) -> PatchReport:
    """Gives every imported copy of torchscale's DilatedAttention longstride's forward, models already built included.

    Call it once torchscale.model.LongNet or gigapath is imported, and again after the import of another copy. Weights,
    configs and caches stay as they are; flash-attn and xformers are not needed.

    Args:
        honour_key_padding: whether padding that key_padding_mask marks at the end of rows is left out. False, as in
            torchscale: it is attended to. True reads the mask to the host in each layer.
    Returns:
        What was found: per class its module, its file and the number of modules alive that are served.
    Raises:
        ValueError: no such class is imported.
    """
    classes = torchscale_classes()
    if not classes:
        refuse(
            "patch()",
            "needs torchscale's DilatedAttention among the imported modules",
            "none",
            "import torchscale.model.LongNet, or gigapath.slide_encoder, before",
        )
    for cls in classes:
        if cls not in originals:
            originals[cls] = vars(cls)["forward"]
        cls.forward = forward
        cls.honour_key_padding = honour_key_padding
    return PatchReport(described(classes), numpy_remedy())


def unpatch() -> PatchReport:
    """Gives the patched classes their own forward again.

    Returns:
        The classes that were patched; none the second time.
    """
    restored = list(originals)
    for cls in restored:
        cls.forward = originals.pop(cls)
        del cls.honour_key_padding
    return PatchReport(described(restored))
