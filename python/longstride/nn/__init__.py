"""Modules of torch.nn with the options and the parameters' names of the C++ ones (include/longstride/nn.h)."""

from ._attention import DilatedAttention
from ._cache import KeyValueCache
from ._checkpoint import load_model, load_weights, save_model, saved_model_name
from ._generate import generate, sample_token
from ._layers import DilatedTransformerDecoderLayer, DilatedTransformerEncoderLayer, FeedForward, TransformerLayer
from ._learned import BlockChoice, BlockScorer
from ._longnet import LongNet
from ._longnet_lm import DecodeState, LongNetLM
from ._multihead import MultiheadDilatedAttention
from ._positions import alibi_slopes

__all__ = [
    "BlockChoice",
    "BlockScorer",
    "DecodeState",
    "DilatedAttention",
    "DilatedTransformerDecoderLayer",
    "DilatedTransformerEncoderLayer",
    "FeedForward",
    "KeyValueCache",
    "LongNet",
    "LongNetLM",
    "MultiheadDilatedAttention",
    "TransformerLayer",
    "alibi_slopes",
    "generate",
    "load_model",
    "load_weights",
    "sample_token",
    "save_model",
    "saved_model_name",
]
