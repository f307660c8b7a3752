"""A model's folder, config.json and model.safetensors, as the C++ save_model() and load_model() have it."""

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from ._attention import DilatedAttention
from ._config import own_fields, refuse_unknown
from ._layers import DilatedTransformerDecoderLayer, FeedForward, TransformerLayer
from ._longnet import LongNet
from ._longnet_lm import LongNetLM
from ._multihead import MultiheadDilatedAttention, adapt_projections
from ._safetensors import load_tensors, refuse_file, save_tensors

Model = TypeVar("Model", bound=nn.Module)
Folder = os.PathLike | str
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT_VERSION = 1
MOST_CONFIG_BYTES = 1 << 20

ATTENTION = tuple(own_fields(DilatedAttention))
MULTIHEAD = (*ATTENTION, *own_fields(MultiheadDilatedAttention))
LAYER = (*MULTIHEAD, *own_fields(TransformerLayer))
OF_MODELS = tuple(name for name in LAYER if name not in ("embed_dim", "num_heads", "causal", "learned"))
# The classes that a folder may hold, and the keys of their configs.
KEYS: dict[type[nn.Module], tuple[str, ...]] = {
    DilatedAttention: ATTENTION,
    MultiheadDilatedAttention: MULTIHEAD,
    FeedForward: tuple(own_fields(FeedForward)),
    TransformerLayer: LAYER,
    DilatedTransformerDecoderLayer: (*LAYER, *own_fields(DilatedTransformerDecoderLayer)),
    LongNet: (*(name for name in OF_MODELS if name != "gamma_init"), *own_fields(LongNet)),
    LongNetLM: (*OF_MODELS, *own_fields(LongNetLM)),
}
CLASSES = {made.__name__: made for made in KEYS}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads parameters by name; dtype and device stay the module's.

    Wants exactly the module's names and shapes (a fused q/k/v projection also from three, and three from a fused one).

    Raises:
        ValueError: every name that is missing, unknown or of a wrong shape; the module is as it was.
    """
    given = dict(tensors)
    for prefix, part in module.named_modules():
        if isinstance(part, MultiheadDilatedAttention):
            adapt_projections(part, given, f"{prefix}." if prefix else "")
    wanted = module.state_dict()
    wrong = [f"missing {name}" for name in wanted if name not in given]
    for name, tensor in given.items():
        if name not in wanted:
            wrong.append(f"unknown {name}")
        elif tensor.shape != wanted[name].shape:
            wrong.append(f"{name} is {list(tensor.shape)} and must be {list(wanted[name].shape)}")
        elif tensor.is_floating_point() != wanted[name].is_floating_point():
            wrong.append(f"{name} is {dtype_name(tensor.dtype)} and must be {dtype_name(wanted[name].dtype)}")
    if wrong:
        raise ValueError(f"the weights do not fit the module: {', '.join(wrong)}; nothing was loaded")
    module.load_state_dict(given)


def read_description(folder: Folder) -> dict[str, Any]:
    """The object in a config.json, which names its model and holds a config."""
    path = pathlib.Path(folder) / CONFIG
    try:
        text = path.read_bytes()
    except OSError as error:
        refuse_file(path, error.strerror or str(error))
    if len(text) > MOST_CONFIG_BYTES:
        refuse_file(path, "it is too long for a config")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        refuse_file(path, "it is not the config of a longstride checkpoint")
    if not (isinstance(found, dict) and isinstance(found.get("model"), str) and isinstance(found.get("config"), dict)):
        refuse_file(path, "it is not the config of a longstride checkpoint")
    return found


def saved_model_name(folder: Folder) -> str:
    """The class that a folder holds: "LongNet". Raises ValueError if it holds none."""
    return read_description(folder)["model"]


def save_model(folder: Folder, model: nn.Module, more: Callable[[pathlib.Path], Any] | None = None) -> None:
    """Writes config.json and model.safetensors into a folder, which C++ and Python load.

    They are written beside and take the place of the folder's content as a whole; after any error it is as it was.

    Args:
        folder: a new or an empty one, or one that holds a checkpoint, which is replaced.
        model: a module of longstride.nn.
        more: may write further files into the folder that it is given, before that takes its place.
    Raises:
        ValueError: another class; a folder with other files; a file that cannot be written.
    """
    if type(model) not in KEYS:
        refuse("model", f"must be one of {', '.join(CLASSES)}", type(model).__name__)
    target = pathlib.Path(folder).resolve()
    name = type(model).__name__
    described = {"model": name, "format_version": FORMAT_VERSION, "config": model.config}
    try:
        if target.exists() and not target.is_dir():
            refuse_file(folder, "it is not a directory")
        if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).exists():
            refuse_file(folder, "it holds files but no checkpoint; choose an empty or a new directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            staging, old = pathlib.Path(beside) / "made", pathlib.Path(beside) / "old"
            staging.mkdir()
            (staging / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            # "format": "pt" is what readers of other libraries look for.
            save_tensors(staging / WEIGHTS, model.state_dict(), {"format": "pt", "model": name})
            if more is not None:
                more(staging)
            swap(staging, target, old)
    except OSError as error:
        refuse_file(folder, error.strerror or str(error))


def swap(staging: pathlib.Path, target: pathlib.Path, old: pathlib.Path) -> None:
    """Puts a folder in the place of another, which stays where it was if that fails."""
    if not target.exists():
        os.rename(staging, target)
        return
    os.rename(target, old)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load_model(folder: Folder, kind: type[Model] | None = None) -> Model:
    """The model that save_model() of Python or C++ wrote: on the CPU, in training mode, of the dtype of the file.

    Args:
        folder: with config.json and model.safetensors.
        kind: the class that it must hold, LongNet for one; None: any.
    Raises:
        ValueError: a missing or damaged file, another class, an option that is unknown or refused, weights that do not
            fit.
    """
    path = pathlib.Path(folder) / CONFIG
    described = read_description(folder)
    name, config = described["model"], described["config"]
    if kind is not None and name != kind.__name__:
        refuse_file(path, f"it is not the config of a {kind.__name__} checkpoint, but of a {name}")
    if name not in CLASSES:
        refuse_file(path, f"it is the config of a {name}, which is none of {', '.join(CLASSES)}")
    version = described.get("format_version")
    if version != FORMAT_VERSION:
        refuse_file(path, f"its format_version is {version}; this package reads {FORMAT_VERSION}")
    weights = load_tensors(pathlib.Path(folder) / WEIGHTS)
    made = CLASSES[name]
    types = {tensor.dtype for tensor in weights.values()}
    try:
        for key in config:
            if key not in KEYS[made]:
                refuse_unknown("config key", key, dict.fromkeys(KEYS[made]))
        model = made(**config)
    except (ValueError, TypeError, RuntimeError) as error:
        refuse_file(path, str(error))
    if len(types) == 1 and (dtype := types.pop()).is_floating_point:
        model.to(dtype)
    try:
        load_weights(model, weights)
    except ValueError as error:
        refuse_file(pathlib.Path(folder) / WEIGHTS, str(error))
    return model
