"""Blocks that are learned: a scorer looks at the queries and keys of a call and chooses which blocks of them are computed.
The options, parameters and choices of C++ (include/longstride/nn/learned_blocks.h). How it learns: docs/block_sparse.md.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from .._attention import Lengths
from .._read import number, read
from .._refusal import dtype as dtype_name
from .._refusal import refuse, shape
from ..parallel import ContextParallel
from ..parallel._shards import Boundaries, check_device, check_rows
from ._block_grid import Grid, Tables
from ._checks import require_positive
from ._config import refuse_unknown

# Name: (type, default), in the order of C++.
FIELDS: dict[str, tuple[str, Any]] = {
    "block_size": ("int", 64),
    "density": ("float", 0.1),
    "min_density": ("float | None", None),
    "max_density": ("float | None", None),
    "hidden": ("int", 32),
    "temperature": ("float", 1.0),
    "head_dim": ("int", 0),
    "kv_heads": ("int", 0),
}


def filled(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """With every field, of the types of C++; None as it is. Raises ValueError."""
    return None if given is None else all_fields(given)


def all_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    given = read("learned", given, "dict")
    for key in given:
        if key not in FIELDS:
            refuse_unknown("key of learned", key, FIELDS)
    return {key: read(key, given.get(key, default), kind) for key, (kind, default) in FIELDS.items()}


def require_temperature(value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        refuse("temperature", "must be finite and not negative", number(value))


def validate(learned: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers out of range. head_dim and kv_heads are a module's to know."""
    require_positive("block_size", learned["block_size"])
    require_positive("hidden", learned["hidden"])
    require_temperature(learned["temperature"])
    density = learned["density"]
    for name in ("density", "min_density", "max_density"):
        if learned[name] is not None and not 0 < learned[name] < 1:
            refuse(name, "must be in (0, 1)", number(learned[name]))
    least, most = learned["min_density"], learned["max_density"]
    if least is not None and most is not None and least >= most:
        refuse("min_density", f"must be below max_density {number(most)}", number(least))
    least, most = density if least is None else least, density if most is None else most
    if not least <= density <= most:
        got = f"{number(density)} outside [{number(least)}, {number(most)}]"
        refuse("density", "must be from min_density to max_density", got)


class BlockChoice(NamedTuple):
    """What a scorer chose in one call.

    Attributes:
        blocks: int32 [rows, 4]: (batch row, KV head, query block, key block), as `attention` takes them. On q's GPU, where
            nothing waits for how many were chosen: with bounds it has as many rows as max_density gives, and those that are
            not needed are (0, 0, 0, 0). Otherwise, and of a sequence that lies with several ranks, on the host.
        gates: [rows] on q's device: 1, with the gradient of the block's score (straight-through). The diagonal's have none:
            it is there in any case.
        scores: [batch, kv_heads, query blocks, key blocks], without noise; differentiable.
        density_loss: scalar, (mean of sigmoid(score), 1 on the diagonal, - density)^2. Add it, weighted, to the loss: it
            sets where the scores' 0 lies, and with bounds how many blocks are taken. Of a sequence that lies with several
            ranks it is this rank's equal part; the ranks' losses, and their gradients, are summed.
    """

    blocks: Tensor
    gates: Tensor
    scores: Tensor
    density_loss: Tensor


def normalised(t: Tensor) -> Tensor:
    """Divided by its root mean square; zero stays zero."""
    return t * (t.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


def features(pooled: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """A perceptron, normalised on both sides: scores neither depend on the scale of q and k, nor run away with the gates'
    gradient, which is the same however large they are."""
    return normalised(gelu(normalised(pooled) @ first.to(pooled.dtype)) @ second.to(pooled.dtype))


class BlockScorer(nn.Module):
    """Scores every pair of blocks by two perceptrons a KV head, dim -> hidden (GELU) -> hidden, one for the mean of a block's
    queries and one for the mean of its keys: their product over sqrt(hidden), and a bias.

    If causal, the first query stands for its block: the mean would let later queries choose what earlier ones see. Query
    heads of one KV head are averaged. No gradient flows into q and k. Each row takes its best blocks, the diagonal
    always. While training, Gumbel noise of the given temperature is added first, so that blocks which are not among the
    best are tried too: lower `temperature` to 0 in the course of training.

    Args:
        head_dim, kv_heads: of q and k, >= 1. Each KV head has a scorer of its own.
        causal: whether blocks above the diagonal are left out.
        block_size: tokens, >= 1.
        density: in (0, 1): the share of block pairs (of those on and below the diagonal if causal) that every row is
            given, to the block; what density_loss pulls to.
        min_density, max_density: bounds for the rows, in (0, 1), density between them; None: density itself. A row always
            takes its best blocks up to min_density, and of the next ones up to max_density those that score above 0.
        hidden: width of the perceptrons, >= 1.
        temperature: >= 0, of the noise.
    Raises:
        ValueError: values outside these ranges.
    """

    query_in: nn.Parameter
    query_out: nn.Parameter
    key_in: nn.Parameter
    key_out: nn.Parameter

    def __init__(
        self,
        head_dim: int,
        kv_heads: int,
        *,
        causal: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ):
        super().__init__()
        self.options = all_fields({**options, "head_dim": head_dim, "kv_heads": kv_heads})
        for name in ("head_dim", "kv_heads"):
            require_positive(name, self.options[name])
        validate(self.options)
        self.causal, self.temperature = causal, self.options["temperature"]
        hidden = self.options["hidden"]
        for side in ("query", "key"):
            for name, rows in ((f"{side}_in", head_dim), (f"{side}_out", hidden)):
                weight = torch.empty(kv_heads, rows, hidden, device=device, dtype=dtype)
                self.register_parameter(name, nn.Parameter(weight))
        self.bias = nn.Parameter(torch.empty(kv_heads, 1, 1, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def temperature(self) -> float:
        """Of the noise while training; `options` keep what the module was built with."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        require_temperature(value)
        self._temperature = value

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(rows), from torch's generator; the bias is 0."""
        with torch.no_grad():
            for weight in (self.query_in, self.query_out, self.key_in, self.key_out):
                bound = 1 / math.sqrt(weight.size(1))
                weight.uniform_(-bound, bound)
            self.bias.zero_()

    def extra_repr(self) -> str:
        shown = ("head_dim", "kv_heads", "block_size", "density", "hidden")
        return ", ".join(f"{name}={self.options[name]}" for name in shown)

    def check(self, q: Tensor, k: Tensor) -> None:
        head_dim, kv_heads = self.options["head_dim"], self.options["kv_heads"]
        if k.dim() != 4 or k.shape[2:] != (kv_heads, head_dim):
            refuse("k", f"must be [batch, len, {kv_heads}, {head_dim}]", shape(k))
        if q.dim() != 4 or q.size(3) != head_dim or q.shape[:2] != k.shape[:2] or q.size(2) % kv_heads:
            refuse("q", f"must be [{k.size(0)}, {k.size(1)}, a multiple of {kv_heads}, {head_dim}]", shape(q))
        for name, t in (("q", q), ("k", k)):
            if not t.is_floating_point():
                refuse(name, "must be a floating-point tensor", dtype_name(t.dtype), "convert it with to()")
            if t.device != self.bias.device:
                refuse(name, f"must be on the scorer's device {self.bias.device}", t.device, "move one of them with to()")

    def forward(
        self, q: Tensor, k: Tensor, lengths: Lengths = None, *, causal: bool | None = None,
        over_ranks: ContextParallel | None = None, boundaries: Boundaries = None,
    ) -> BlockChoice:  # fmt: skip
        """Scores, and a choice by them. On a GPU nothing waits for it once a call of the same lengths was there, unless the
        sequence lies with several ranks; else it is read to the host once.

        Args:
            q: [batch, len, heads, head_dim].
            k: [batch, len, kv_heads, head_dim].
            lengths: one per batch row: blocks beyond them choose and are chosen by none.
            causal: in place of the scorer's own.
            over_ranks: where the sequence lies if that is with several ranks, of which q and k are this one's shard, cut at
                `boundaries`, and lengths those of the whole. Each has all scores; the first one draws and chooses for all.
        Raises:
            ValueError: shapes that do not fit; a density that the diagonal alone exceeds.
        """
        causal = self.causal if causal is None else causal
        if over_ranks is not None and over_ranks.ranks.size > 1:
            return self.over(over_ranks, q, k, lengths, causal, boundaries)
        if boundaries is not None:
            refuse("boundaries", "must be None where this process holds the whole sequence", boundaries, "leave them out")
        self.check(q, k)
        grid = self.grid(k.size(0), k.size(1), lengths, causal)
        queries, keys = self.read(q, k, grid, torch.arange(grid.n, device=k.device))
        of_queries = queries[:, :: grid.block_size].transpose(1, 2) if causal else grid.means(grid.sums(queries))
        return self.choice(self.scored(of_queries, grid.means(grid.sums(keys))), grid)

    def over(
        self, placed: ContextParallel, q: Tensor, k: Tensor, lengths: Lengths, causal: bool, boundaries: Boundaries
    ) -> BlockChoice:
        """The choice where the sequence lies with several ranks, who send one another the sums of their blocks."""
        what, error, call, pieces = "the choice of blocks", None, {}, []
        try:
            self.check(q, k)
            check_device("q", q, placed.ranks)
            pieces = placed.pieces(k.size(1), boundaries)
            check_rows("q", q, q.size(1), pieces, placed.ranks)
            grid = self.grid(k.size(0), sum(end - begin for part in pieces for begin, end in part), lengths, causal)
            call = {
                **self.options, "training": self.training, "causal": causal, "lengths": grid.lengths, "pieces": pieces,
                "batch": q.size(0), "heads of q": q.size(2), "dtype": dtype_name(q.dtype), "device": q.device.type,
            }  # fmt: skip
        except (ValueError, TypeError) as refused:
            error = refused
        placed.agree(what, call, error)
        at = placed.positions(k.size(1), boundaries, k.device)
        queries, keys = self.read(q, k, grid, at)
        if causal:
            queries = queries.masked_fill((at % grid.block_size != 0)[:, None, None], 0)
        both = torch.stack((queries, keys)).movedim(2, 0)  # [rows, 2, batch, kv_heads, dim]
        sums = placed.block_sums(what, both.flatten(1), grid.block_size, pieces)
        of_queries, of_keys = sums.unflatten(1, both.shape[1:]).movedim(0, 2).unbind(0)
        pooled = of_queries.transpose(1, 2) if causal else grid.means(of_queries)
        return self.choice(self.scored(pooled, grid.means(of_keys)), grid, placed)

    def check_ranks(self, placed: ContextParallel) -> None:
        """Before attention that gives gates a gradient, for which ranks divide the heads."""
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        size, kv_heads = placed.ranks.size, self.options["kv_heads"]
        if learns and kv_heads % size:
            wanted = f"must go by exchange heads({size}), for which {size} must divide kv_heads"
            remedy = "take as many ranks as divide kv_heads, or parameters of the scorer that require no gradient"
            refuse("learned blocks", wanted, kv_heads, remedy)

    def grid(self, batch: int, n: int, lengths: Lengths, causal: bool) -> Grid:
        rows = [n]
        if lengths is not None:
            rows = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
            if len(rows) != batch:
                refuse("lengths", f"must have one entry a batch row, {batch}", len(rows))
            for length in rows:
                if not 0 <= length <= n:
                    refuse("lengths", f"must be in [0, {n}]", length)
        density = self.options["density"]
        bounds = (self.options[name] for name in ("min_density", "max_density"))
        grid = Grid(self.options["block_size"], n, causal, rows, *(density if bound is None else bound for bound in bounds))
        grid.check(density)
        return grid

    def read(self, q: Tensor, k: Tensor, grid: Grid, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, averaged over the heads of each KV head, and keys at these positions, 0 beyond a row's length: in
        float32, or float64 of float64 tensors."""
        queries, keys = q.detach(), k.detach()
        if (beyond := grid.beyond(positions)) is not None:
            queries, keys = queries.masked_fill(beyond, 0), keys.masked_fill(beyond, 0)
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        kv_heads = self.options["kv_heads"]
        return queries.to(dtype).unflatten(2, (kv_heads, q.size(2) // kv_heads)).mean(3), keys.to(dtype)

    def choice(self, scores: Tensor, grid: Grid, placed: ContextParallel | None = None) -> BlockChoice:
        tables = grid.tables(scores.device)
        if placed is None or placed.ranks.rank == 0:
            taken = self.taken(scores.detach(), tables)
        else:
            taken = torch.empty_like(scores, dtype=torch.bool)
        if placed is not None:  # ranks' scores may differ by rounding
            taken = placed.of_first("the choice of blocks", taken.to(torch.uint8)).bool()
        if placed is None and scores.is_cuda:
            # What is too much of it names the first block again, whose gate, on the diagonal, has no gradient.
            rows = tables.taken_at_most * (scores.size(0) // max(1, len(grid.lengths))) * scores.size(1)
            cells = torch.nonzero_static(taken, size=rows, fill_value=0)
        else:
            cells = taken.cpu().nonzero()
        places = cells.to(scores.device).unbind(1)
        score = scores[places]
        # A score that is NaN leaves its gate at 1.
        through = torch.nan_to_num(score - score.detach()) * (places[2] != places[3])
        opened = scores.sigmoid().masked_fill(tables.diagonal, 1).masked_fill(~tables.there, 0)
        of_all = grid.pairs() * (scores.size(0) // max(1, len(grid.lengths))) * self.options["kv_heads"]
        density_loss = (opened.sum() / max(1, of_all) - self.options["density"]).square()
        part = 1 if placed is None else placed.ranks.size
        return BlockChoice(cells.int(), 1 + through, scores, density_loss / part)

    def scored(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[batch, kv_heads, width, width] of what stands for each block, [batch, kv_heads, width, dim]."""
        with torch.autocast(queries.device.type, enabled=False):
            of_queries = features(queries, self.query_in, self.query_out)
            of_keys = features(keys, self.key_in, self.key_out)
            root = math.sqrt(self.options["hidden"])
            return of_queries @ of_keys.transpose(2, 3) / root + self.bias.to(queries.dtype)

    def taken(self, ranked: Tensor, tables: Tables) -> Tensor:
        """bool, shaped as the scores: the diagonal, and the best of each row as far as its count goes."""
        if self.training and self.temperature > 0:
            ranked = ranked - self.temperature * (-torch.rand_like(ranked).clamp_min(1e-20).log()).log()
        ranked = ranked.masked_fill(~tables.there | ranked.isnan(), -math.inf).masked_fill(tables.diagonal, math.inf)
        rank = ranked.argsort(dim=3, descending=True, stable=True).argsort(dim=3)
        return tables.there & ((rank < tables.least) | ((rank < tables.most) & (ranked > 0)))
