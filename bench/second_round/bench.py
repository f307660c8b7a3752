"""The bench that cases are measured on: a device, how much smaller everything is in a dry run, and the random tensors."""

import torch
from torch import Tensor

from .timing import Clock

SEGMENTS = (2048, 4096, 8192, 16384, 32768)
RATES = (1, 2, 4, 8, 16)


class Bench:
    """scale: lengths, segments, windows and blocks are divided by it; heads and dims stay."""

    def __init__(self, device: str, scale: int, repeats: int):
        self.device, self.scale = device, scale
        self.clock = Clock(device, repeats)
        self.generator = torch.Generator(device).manual_seed(1)

    def tokens(self, n: int) -> int:
        return max(16, n // self.scale)

    def part(self, n: int) -> int:
        """A block, a window or a segment."""
        return max(1, n // self.scale)

    def segments(self) -> list[int]:
        """LongNet's; none shorter than its rate."""
        return [max(rate, segment // self.scale) for segment, rate in zip(SEGMENTS, RATES)]

    def tensors(self, *shape_and_dtype, count: int = 3) -> list[Tensor]:
        """Normal random numbers; the dtype comes last."""
        *shape, dtype = shape_and_dtype
        return [self.numbers(shape, dtype) for _ in range(count)]

    def numbers(self, shape, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator, dtype=torch.float32).to(dtype)
