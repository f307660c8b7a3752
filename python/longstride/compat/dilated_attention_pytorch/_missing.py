"""Names of that library without a counterpart: importing one is an ImportError that says what to do."""

from collections.abc import Callable, Mapping
from typing import Any

PATTERNS = "longstride.Pattern has the patterns, and Pattern.mask() shows them"
POOLS = "torch's own allocator keeps freed memory; leave pools out"
PLANS = "plans are cached by the library; leave pattern caches out"
TRAINER = "it belongs to the training loop, not to attention"
LEARNED = "longstride.nn.BlockScorer chooses learned blocks, and learns with the model"
SHARDED = 'build the type "block_sparse_ring_distributed" of longstride.factory'
KERNELS = "longstride picks its engine by device and dtype; leave it out"


def missing(module: str, remedies: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's __getattr__ for the names in `remedies`."""

    def get(name: str) -> Any:
        if name in remedies:
            raise ImportError(f"{module}.{name} has no counterpart in longstride: {remedies[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get
