"""The safetensors format: a little-endian 64-bit header length, a JSON header that names each tensor's dtype, shape and
byte range, and the bytes, without holes. As src/nn/safetensors.cc, so that the package needs torch alone."""

import ctypes
import json
import math
import os
import struct
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from .._refusal import dtype as dtype_name
from .._refusal import refuse

TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
MOST_HEADER_BYTES = 100 << 20


def refuse_file(path: os.PathLike | str, why: str) -> NoReturn:
    raise ValueError(f"cannot use {os.fspath(path)}: {why}")


def save_tensors(path: os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors of any device and strides; wider elements first, so that each lies aligned to its element."""
    header: dict = {"__metadata__": dict(metadata)}
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    end = 0
    for name, tensor in order:
        if tensor.dtype not in NAMES:
            wanted = "must be bool, an integer, float16, bfloat16, float32 or float64"
            refuse(f"tensor '{name}'", wanted, dtype_name(tensor.dtype), "convert it before saving")
        if tensor.is_meta:
            refuse(f"tensor '{name}'", "must hold values", "a meta tensor", "give it memory and values first")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in order:
            flat = tensor.detach().cpu().resolve_neg().contiguous().flatten()
            # Not numpy(): torch may stand without NumPy.
            file.write(ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size()) if flat.numel() else b"")
        file.flush()
        os.fsync(file.fileno())


def load_tensors(path: os.PathLike | str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU. Raises ValueError if it is missing, truncated or not safetensors."""
    try:
        with open(path, "rb") as file:
            data = bytearray(file.read())
    except OSError as error:
        refuse_file(path, error.strerror or str(error))
    if len(data) < 8:
        refuse_file(path, "it is too short to be a safetensors file")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MOST_HEADER_BYTES, len(data) - 8):
        refuse_file(path, "it is truncated, or not safetensors")
    try:
        header = json.loads(data[8 : 8 + length].decode())
        header.pop("__metadata__", None)
        entries = sorted((*entry["data_offsets"], name, entry["dtype"], entry["shape"]) for name, entry in header.items())
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        refuse_file(path, "its header is corrupt, or it is not safetensors")
    tensors, before = {}, 0
    for begin, end, name, kind, sizes in entries:
        if kind not in TYPES:
            refuse_file(path, f"tensor '{name}' has dtype '{kind}', which is not supported")
        whole = isinstance(sizes, list) and all(type(n) is int and n >= 0 for n in (begin, end, *sizes))
        if not whole or end - begin != math.prod(sizes) * TYPES[kind].itemsize:
            refuse_file(path, f"tensor '{name}' of shape {sizes} and dtype {kind} has bytes {begin} to {end}")
        if begin != before:
            refuse_file(path, f"tensor '{name}' overlaps another or leaves a hole")
        before = end
        if 8 + length + end > len(data):
            refuse_file(path, f"it is truncated: its header says {end} bytes of data")
        if begin == end:
            tensors[name] = torch.empty(sizes, dtype=TYPES[kind], device="cpu")
        else:
            # A copy: the bytes may lie at an address that the element's type does not take.
            held = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=8 + length + begin).clone()
            tensors[name] = held.view(TYPES[kind]).view(sizes)
    if 8 + length + before != len(data):
        refuse_file(path, "it has a tail that its header does not name")
    return tensors
