"""Words for bad input, the same as src/core/refuse.h has: "<argument> <expected>, got <got>; <remedy>"."""

from typing import Any, NoReturn

import torch
from torch import Tensor

# The names that the library's texts have for dtypes.
DTYPE_NAMES = {
    torch.float32: "Float",
    torch.float64: "Double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.int8: "Char",
    torch.uint8: "Byte",
    torch.bool: "Bool",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}


def sentence(argument: str, expected: str, got: Any, remedy: str = "") -> str:
    """`expected` reads on from the argument's name: "must be positive"."""
    return f"{argument} {expected}, got {got}" + (f"; {remedy}" if remedy else "")


def refuse(argument: str, expected: str, got: Any, remedy: str = "") -> NoReturn:
    """Raises ValueError."""
    raise ValueError(sentence(argument, expected, got, remedy))


def shape(t: Tensor) -> str:
    return f"shape {list(t.shape)}"


def dtype(of: torch.dtype) -> str:
    return DTYPE_NAMES.get(of, str(of))
