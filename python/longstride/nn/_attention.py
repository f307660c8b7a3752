"""DilatedAttention: the options of the C++ module."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._attention import Lengths, attention
from .._merge import draw_dropout_seed
from .._pattern import Pattern, plain, text_of
from .._refusal import refuse
from ..parallel import ContextParallel
from ..parallel._shards import Boundaries
from ._checks import require_dropout
from ._config import flat, require_alone, require_types
from ._learned import BlockChoice, BlockScorer


def pattern_of(segment_lengths, dilation_rates, causal, blocks, **options: Any) -> Pattern:
    """The pattern of a module's flat options (include/longstride/pattern/flat.h)."""
    parts: dict[str, Any] = {"causal": causal}
    if len(segment_lengths) or len(dilation_rates) or not len(blocks):
        parts["dilated"] = {"segment_lengths": segment_lengths, "dilation_rates": dilation_rates, **options}
    else:
        for name, value in options.items():
            if value not in (None, False, "modulo", "joint", "masked"):
                refuse(name, "is an option of dilated groups", value, "give segment_lengths, or leave it out")
    if len(blocks):
        parts["blocks"] = list(blocks)
    return Pattern(text_of({name: plain(value, name) for name, value in parts.items()}))


def scorer_of(learned: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], **made: Any) -> BlockScorer:
    """The scorer of learned blocks, which have a place for themselves alone."""
    if not isinstance(learned, Mapping):
        refuse("learned", "must be an object", repr(learned), 'give the options of a BlockScorer: {"density": 0.1, ...}')
    if len(blocks):
        remedy = (
            "the scorer's gates tell of the blocks that it chose, not of what a rule shows beside them; give one of the two"
        )
        refuse("blocks", "must be empty with learned blocks", f"{len(blocks)} patterns", remedy)
    sizes = {name: learned.get(name, 0) for name in ("head_dim", "kv_heads")}
    return BlockScorer(**sizes, **made, **{name: value for name, value in learned.items() if name not in sizes})


class DilatedAttention(nn.Module):
    """A pattern, a scale and dropout around `attention`. It has no parameters but those of a scorer of learned blocks.

    Args:
        segment_lengths, dilation_rates, causal, head_offset, offsets, mixing, average, padding: as in `Pattern.dilated`.
        softmax_scale: of q.k; None: 1 / sqrt(dim).
        attention_dropout: of the attention probabilities, in [0, 1), while training; its seed is drawn from torch's
            generator.
        blocks: rules of blocks as in a pattern's JSON, {"pattern": name, "block_size": tokens, ...}, beside the groups
            or alone.
        learned: the arguments of a `BlockScorer` but causal, which chooses the blocks of each call, alone or beside the
            groups, in the same softmax: {"density": 0.1, "block_size": 64, "head_dim": 64, "kv_heads": 8, ...}. The
            module's `scorer`. A call has whole sequences then: no cu_seqlens, no query_start, no blocks.
        pattern: a `Pattern` in place of all options that say one: causal, groups and blocks.
        device, dtype: of the scorer.
    Attributes:
        context_parallel: where its sequences lie (`longstride.parallel.place`); None: each with this process.
    Raises:
        ValueError: what `Pattern.dilated` refuses; a pattern beside such options; softmax_scale that is not finite;
            dropout outside [0, 1).
    """

    def __init__(
        self,
        segment_lengths: Sequence[int] = (),
        dilation_rates: Sequence[int] = (),
        *,
        causal: bool = False,
        head_offset: str = "modulo",
        offsets: Sequence[int] | None = None,
        mixing: str = "joint",
        average: bool = False,
        padding: str = "masked",
        softmax_scale: float | None = None,
        attention_dropout: float = 0.0,
        blocks: Sequence[Mapping[str, Any]] = (),
        learned: Mapping[str, Any] | None = None,
        pattern: Pattern | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        given = dict(locals())
        require_types(DilatedAttention, given)
        if pattern is not None:
            require_alone(pattern, DilatedAttention, given)
        self.scorer: BlockScorer | None = None
        if learned is not None:
            causal = causal if pattern is None else json.loads(pattern.json())["causal"]
            rules = blocks if pattern is None else flat(pattern)["blocks"]
            self.scorer = scorer_of(learned, rules, causal=causal, device=device, dtype=dtype)
            blocks = [{"pattern": "list", "block_size": self.scorer.options["block_size"]}]
            if pattern is not None:
                pattern = pattern | Pattern(text_of({"causal": causal, "blocks": blocks}))
        self.pattern = pattern or pattern_of(
            segment_lengths, dilation_rates, causal, blocks, head_offset=head_offset, offsets=offsets, mixing=mixing,
            average=average, padding=padding,
        )  # fmt: skip
        require_dropout("attention_dropout", attention_dropout)
        if softmax_scale is not None and not math.isfinite(softmax_scale):
            refuse("softmax_scale", "must be finite", softmax_scale)
        self.context_parallel: ContextParallel | None = None
        self.softmax_scale = softmax_scale
        self.attention_dropout = attention_dropout

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        own: dict[str, Any] = {"softmax_scale": self.softmax_scale, "attention_dropout": self.attention_dropout, "learned": None}
        if self.scorer is not None:
            own |= {"blocks": [], "learned": dict(self.scorer.options)}
        return {**flat(self.pattern), **own}

    def reset_parameters(self) -> None:
        """The scorer's, from torch's generator."""
        if self.scorer is not None:
            self.scorer.reset_parameters()

    def extra_repr(self) -> str:
        return f"{self.pattern!r}, softmax_scale={self.softmax_scale}, attention_dropout={self.attention_dropout}"

    @property
    def over_ranks(self) -> ContextParallel | None:
        """Where its sequences lie, if it is with more than this process."""
        placed = self.context_parallel
        return placed if placed is not None and placed.ranks.size > 1 else None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        cu_seqlens: Lengths = None,
        lengths: Lengths = None,
        query_start: int | None = None,
        deterministic: bool = False,
        alibi_slopes: Tensor | None = None,
        choices: list[BlockChoice] | None = None,
        boundaries: Boundaries = None,
    ) -> tuple[Tensor, Tensor]:
        """q [batch, len, heads, dim], k and v [batch, len, kv_heads, dim] -> (out, lse), all as in `attention`.

        boundaries: of a module whose sequences lie with several ranks, as in `longstride.parallel.cp_attention`;
        lengths and cu_seqlens are those of the whole sequence then.
        choices: with learned blocks, a list to which the choice of this call is appended, with its density_loss.
        """
        if not torch.compiler.is_compiling() and q.dim() == 4 and (q.size(3) % 8 or q.size(3) > 128):
            warnings.warn(
                "longstride: a head dim that is not a multiple of 8 or above 128 takes a slower path; got "
                f"{q.size(3)}",
                stacklevel=2,
            )
        drops = self.training and self.attention_dropout > 0
        dropout_p = self.attention_dropout if drops else 0
        if (ranks := self.over_ranks) is not None:
            if query_start is not None:
                remedy = 'decode in one process: longstride.parallel.place(module, "none")'
                refuse("query_start", "must be None where the sequence lies with several ranks", query_start, remedy)
        elif boundaries is not None:
            remedy = "call longstride.parallel.place(module, group), on a group of several ranks"
            refuse("boundaries", "must be None where this process holds the whole sequence", boundaries, remedy)
        chosen: dict[str, Tensor] = {}
        if self.scorer is not None:
            choice = self.chosen(
                self.scorer, q, k, lengths, boundaries, cu_seqlens=cu_seqlens, query_start=query_start
            )
            chosen = {"blocks": choice.blocks}
            if choice.gates.requires_grad:  # they are there for their gradient
                chosen["gates"] = choice.gates
            if choices is not None:
                choices.append(choice)
        elif choices is not None:
            remedy = "set learned in the module's options"
            refuse("choices", "must be None in a module without learned blocks", "a list", remedy)
        call: dict[str, Any] = {
            "cu_seqlens": cu_seqlens, "lengths": lengths, "deterministic": deterministic, "alibi_slopes": alibi_slopes,
            "scale": self.softmax_scale, "dropout_p": dropout_p,
            "dropout_seed": draw_dropout_seed(q.device) if drops else None, **chosen,
        }  # fmt: skip
        if ranks is not None:
            return ranks.attention(q, k, v, self.pattern, boundaries=boundaries, **call)
        return attention(q, k, v, self.pattern, query_start=query_start, return_lse=True, **call)

    def chosen(
        self, scorer: BlockScorer, q: Tensor, k: Tensor, lengths: Lengths, boundaries: Boundaries, **given: Any
    ) -> BlockChoice:
        """The scorer's choice of a call, of which a block is told by all of its row."""
        if given["query_start"] is not None:
            remedy = "a block is chosen by all of its row; run whole sequences"
            refuse("query_start", "must be None with learned blocks", given["query_start"], remedy)
        if given["cu_seqlens"] is not None:
            remedy = "give each document a batch row and lengths"
            refuse("cu_seqlens", "must be None with learned blocks", "documents", remedy)
        if (ranks := self.over_ranks) is None:
            return scorer(q, k, lengths)
        scorer.check_ranks(ranks)
        return scorer(q, k, lengths, over_ranks=ranks, boundaries=boundaries)
