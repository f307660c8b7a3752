"""The classes of dilated-attention-pytorch that take q, k and v: its constructors and its call over our attention."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ... import factory
from ..._attention import Lengths, attention
from ..._merge import draw_dropout_seed
from ..._refusal import refuse
from ...factory._legacy import bound
from ...factory._legacy_tables import CLASSES, Parameter
from ...nn import BlockChoice
from ...nn import DilatedAttention as Placed
from ._validation import ValidationMixin


def signature_of(name: str) -> inspect.Signature:
    """The constructor of a class there, as its table has it."""
    of = CLASSES[name]

    def one(parameter: Parameter, kind: Any) -> inspect.Parameter:
        default = inspect.Parameter.empty if parameter.required else parameter.default
        return inspect.Parameter(parameter.name, kind, default=default)

    return inspect.Signature(
        [
            *(one(parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in of.positional),
            *(one(parameter, inspect.Parameter.KEYWORD_ONLY) for parameter in of.keywords),
        ]
    )


def arguments_of(name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name. Raises ValueError for lists of different lengths, which not every pattern looks at."""
    given = bound(name, CLASSES[name], arguments, keywords, also=("device", "dtype"))
    groups = [given.get(name) for name in ("segment_lengths", "dilation_rates")]
    if None not in groups:
        ValidationMixin.validate_segment_dilation_match(*groups)
        ValidationMixin.validate_positive_values(groups[0], "segment_lengths")
        ValidationMixin.validate_positive_values(groups[1], "dilation_rates")
    return given


def refuse_mask(name: str, mask: Any) -> None:
    if mask is not None:
        remedy = "is_causal=True is causal attention; padding at the end of rows is key_padding_mask or lengths"
        refuse(name, "must be None", type(mask).__name__, remedy)


class Attention(nn.Module):
    """Attention with that library's call. It has no parameters but a scorer's of learned blocks.

    Attributes:
        pattern: what attends to what, but for causal.
        segment_lengths, dilation_rates, softmax_scale, dropout: as given.
        context_parallel: where its sequences lie (`longstride.parallel.place`); None: each with this process.
    """

    def __init__(self, made: Placed):
        """Args: made: a `longstride.nn.DilatedAttention`, whose options it takes."""
        super().__init__()
        self.pattern, self.causal = made.pattern.with_causal(False), made.pattern.causal
        self.causal_pattern = made.pattern.with_causal(True)
        self.softmax_scale = made.softmax_scale
        self.dropout = self.dropout_p = made.attention_dropout
        self.segment_lengths, self.dilation_rates = made.config["segment_lengths"], made.config["dilation_rates"]
        self.scorer = made.scorer
        self.context_parallel = made.context_parallel

    over_ranks = Placed.over_ranks

    @property
    def num_groups(self) -> int:
        return len(self.segment_lengths)

    def extra_repr(self) -> str:
        return f"{self.pattern!r}, dropout={self.dropout}"

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        is_causal: bool = False,
        attention_mask: None = None,
        *,
        lengths: Lengths = None,
        **chosen: Tensor,
    ) -> Tensor:
        """query, key, value [batch, len, heads, dim] -> [batch, len, heads, dim].

        Args:
            is_causal: whether a query sees only keys at its own and earlier positions.
            attention_mask: must be None.
            lengths: tokens of each batch row, as in `longstride.attention`; there is no such argument there. Of a
                module over several ranks those of the whole sequence; the ranks' shards are of one length then.
            **chosen: blocks and gates, as a class with a scorer gives them.
        Raises:
            ValueError: what `longstride.attention` refuses, such as fewer heads than groups; a mask.
        """
        refuse_mask("attention_mask", attention_mask)
        drops = self.training and self.dropout > 0
        pattern = self.causal_pattern if is_causal or self.causal else self.pattern
        options: dict[str, Any] = {
            "lengths": lengths, "scale": self.softmax_scale, "dropout_p": self.dropout if drops else 0,
            "dropout_seed": draw_dropout_seed(query.device) if drops else None,
        }  # fmt: skip
        if (ranks := self.over_ranks) is not None:
            return ranks.attention(query, key, value, pattern, boundaries=None, **options, **chosen)[0]
        return attention(query, key, value, pattern, **options, **chosen)


class Legacy(Attention):
    """A class there, whose name is `legacy`, with its constructor."""

    legacy: ClassVar[str]

    def __init__(self, *arguments: Any, **keywords: Any):
        given = arguments_of(self.legacy, arguments, keywords)
        # Tensors bring their own: kept for who asks, and without a part in the result, as there.
        device, dtype = given.pop("device", None), given.pop("dtype", None)
        super().__init__(factory.from_legacy_attention(self.legacy, **given))
        self.device, self.dtype = device, dtype
        self.segment_lengths, self.dilation_rates = list(given["segment_lengths"]), list(given["dilation_rates"])

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        if "legacy" in vars(cls) and "__init__" not in vars(cls):
            cls.__signature__ = signature_of(cls.legacy)


class DilatedAttention(Legacy):
    """DilatedAttention of both lines: heads shared out among the groups, offsets by group, the mean over the groups.

    Args:
        segment_lengths, dilation_rates: in tokens, one a group.
        softmax_scale: of q.k; None: 1 / sqrt(dim).
        attention_dropout: of the attention probabilities, in [0, 1), while training.
        op, enable_memory_pool, enable_profiling, lightweight_pool: of that library's own machinery; their defaults only.
        **place: device and dtype, kept as attributes; tensors bring their own.
    Raises:
        ValueError: lists that are empty or of different lengths, numbers out of range, such an argument.
    """

    legacy = "DilatedAttention"

    def __init__(
        self,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        softmax_scale: float | None = None,
        attention_dropout: float = 0.0,
        op: None = None,
        enable_memory_pool: bool = False,
        enable_profiling: bool = False,
        lightweight_pool: bool = True,
        **place: Any,
    ):
        super().__init__(
            segment_lengths, dilation_rates, softmax_scale, attention_dropout, op, enable_memory_pool, enable_profiling,
            lightweight_pool, **place,
        )  # fmt: skip
        self.op = None


class ImprovedDilatedAttention(Legacy):
    """The same result as DilatedAttention. There it attends over the heads of each token."""

    legacy = "ImprovedDilatedAttention"


class RingDilatedAttentionV2(Legacy):
    """DilatedAttention over shards of the sequence, `ring_size` of them; None: as many as the default group has ranks."""

    legacy = "RingDilatedAttentionV2"


class RingDilatedAttentionV2Collective(RingDilatedAttentionV2):
    """Another name of RingDilatedAttentionV2; there of another exchange."""

    legacy = "RingDilatedAttentionV2Collective"


class RingDilatedAttentionV2Flash(RingDilatedAttentionV2):
    """Another name of RingDilatedAttentionV2; there over flash-attn."""

    legacy = "RingDilatedAttentionV2Flash"


class RingDilatedAttentionProduction(Legacy):
    """RingDilatedAttentionV2 by a config, `RingDilatedAttentionProduction(RingAttentionConfig(...))`, or its fields."""

    legacy = "RingDilatedAttentionProduction"

    def __init__(self, *arguments: Any, **keywords: Any):
        if "config" in keywords:
            arguments = (keywords.pop("config"), *arguments)
        if arguments and hasattr(arguments[0], "segment_lengths"):
            keywords, arguments = {**vars(arguments[0]), **keywords}, arguments[1:]
        super().__init__(*arguments, **keywords)


class SimulatedRingDilatedAttention(Legacy):
    """DilatedAttention over shards of the sequence, `ring_size` of them."""

    legacy = "SimulatedRingDilatedAttention"


class TrueRingDilatedAttention(Legacy):
    """DilatedAttention over shards of the sequence, `ring_size` of them."""

    legacy = "TrueRingDilatedAttention"


class DistributedImprovedDilatedAttention(Legacy):
    """DilatedAttention over shards of the sequence, as many as the default group has ranks."""

    legacy = "DistributedImprovedDilatedAttention"


def refuse_weights(asked: bool, remedy: str) -> None:
    if asked:
        refuse("return_attention_weights", "must be False", True, remedy)


class BlockSparse(Legacy):
    """What the block-sparse classes share: one softmax over all active blocks of a row."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, return_attention_weights: bool = False,
        *, lengths: Lengths = None,
    ) -> Tensor:  # fmt: skip
        """q, k, v [batch, len, heads, dim] -> [batch, len, heads, dim].

        Args:
            is_causal: whether a query sees only keys at its own and earlier positions.
            return_attention_weights: must be False.
            lengths: as in `longstride.attention`.
        """
        refuse_weights(return_attention_weights, "call longstride.attention_weights(q, k, module.pattern)")
        return super().forward(q, k, v, is_causal, lengths=lengths)


class BlockSparseRingDilatedAttention(BlockSparse):
    """Block-sparse attention by a `SparsePatternConfig` or a mapping of its fields.

    `sparsity_ratio` there is the share of blocks that is computed. segment_lengths have no part in the result;
    dilation_rates are the distances in blocks of "dilated_sparse".
    """

    legacy = "BlockSparseRingDilatedAttention"


class BlockSparseOptimized(BlockSparseRingDilatedAttention):
    """Another name of BlockSparseRingDilatedAttention."""

    legacy = "BlockSparseOptimized"


class BlockSparseTorchSparse(BlockSparseRingDilatedAttention):
    """Another name of BlockSparseRingDilatedAttention."""

    legacy = "BlockSparseTorchSparse"


class BlockSparseHierarchical(BlockSparseOptimized):
    """Block-sparse attention over levels of a `HierarchicalConfig`. Rows of no level see their own block."""

    legacy = "BlockSparseHierarchical"


class BlockSparseAdaptive(BlockSparse):
    """Learned blocks, by an `AdaptiveConfig`'s sizes and ratios; of its other fields only defaults are taken.

    The scorer is `longstride.nn.BlockScorer`, with parameters of its own names: checkpoints from there do not load.
    """

    legacy = "BlockSparseAdaptive"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, return_attention_weights: bool = False,
        *, lengths: Lengths = None, choices: list[BlockChoice] | None = None,
    ) -> Tensor:  # fmt: skip
        """As `BlockSparse.forward`; choices: a list to which what was chosen is appended, with its density_loss."""
        refuse_weights(return_attention_weights, "longstride.nn.BlockScorer's choice says what is computed")
        if (ranks := self.over_ranks) is not None:
            self.scorer.check_ranks(ranks)
        choice = self.scorer(q, k, lengths, causal=is_causal or self.causal, over_ranks=ranks)
        if choices is not None:
            choices.append(choice)
        gates = {"gates": choice.gates} if choice.gates.requires_grad else {}
        return Attention.forward(self, q, k, v, is_causal, lengths=lengths, blocks=choice.blocks, **gates)
