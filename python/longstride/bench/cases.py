"""One case of bench: shape, pattern, who takes part; timed in rounds in which everybody runs once."""

import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._attention import attention
from .._engine import use_engine
from .._pattern import Pattern
from .flex import Flex, LeftOut, check_backward, compiler_missing, wait
from .official import official, refusal

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
OURS = "longstride"
PEERS = ("dense", "flex", "official")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Say = Callable[[str], None]
HOW_TO_LEAVE_OUT = "--peers dense,official runs without it, --no-compile as it is"


@dataclasses.dataclass(frozen=True)
class Case:
    pattern: Pattern
    length: int
    heads: int = 8
    kv_heads: int = 8
    dim: int = 64
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    backward: bool = False
    engine: str = ""  # for ours, as use_engine() takes it

    def inputs(self) -> list[Tensor]:
        """q, k, v and the gradient of out: normal random numbers, the same for everybody."""
        generator = torch.Generator().manual_seed(1)

        def one(heads: int) -> Tensor:
            numbers = torch.randn(self.batch, self.length, heads, self.dim, generator=generator)
            return numbers.to(self.device, DTYPES[self.dtype])

        return [one(heads) for heads in (self.heads, self.kv_heads, self.kv_heads, self.heads)]

    def __str__(self) -> str:
        causal = ", causal" if self.pattern.causal else ""
        passes = "forward + backward" if self.backward else "forward"
        kv = f" ({self.kv_heads} KV heads)" if self.kv_heads != self.heads else ""
        batch = f"batch {self.batch}, " if self.batch > 1 else ""
        engine = f", on {self.engine}" if self.engine else ""
        return f"{self.dtype}{causal}, {passes}, {batch}{self.length} tokens, {self.heads} heads of {self.dim}{kv}{engine}"


@dataclasses.dataclass
class Runs:
    """Who ran, and how long in each round."""

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    error: float | None = None  # the largest, of out, beside ours; None: another sum, or ours itself
    error_of_gradients: float | None = None
    mask_seconds: float | None = None  # FlexAttention's, beside the calls
    extra_bytes: int | None = None  # of memory, beside inputs and results; None: not measured
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclasses.dataclass
class Result:
    case: Case
    runs: list[Runs]  # ours last
    left_out: dict[str, str]  # peers that did not run: why

    @property
    def ours(self) -> Runs:
        return self.runs[-1]


def shows_all(pattern: Pattern, n: int) -> bool:
    """Whether the pattern is dense attention: one group over everything, or a window without sides."""
    data = json.loads(pattern.json())
    if "blocks" in data:
        window = data["blocks"][0]
        return len(data["blocks"]) == 1 and "dilated" not in data and window["pattern"] == "sliding_window" and all(
            window.get(side, n) >= n - 1 for side in ("left", "right")
        )  # fmt: skip
    groups = data["dilated"]
    return groups["dilation_rates"] == [1] and groups["segment_lengths"][0] >= n


def dense_attention(causal: bool) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.size(1) != k.size(1)).transpose(1, 2)

    return attend


def official_attention(case: Case) -> Attend:
    data = json.loads(case.pattern.json())
    dilated = data.get("dilated")
    if dilated is None or "blocks" in data:
        raise LeftOut("LongNet's algorithm has dilated groups alone")
    rule = dilated.get("head_offset", "modulo")
    if dilated.get("mixing", "joint") != "joint" or "offsets" in dilated or rule not in ("modulo", "block"):
        raise LeftOut("LongNet's algorithm has joint mixing, and offsets modulo or block")
    if case.kv_heads != case.heads:
        raise LeftOut(f"LongNet's algorithm has as many KV heads as heads, got {case.kv_heads} for {case.heads}")
    if case.device != "cpu" and case.dtype == "float64":
        raise LeftOut("torch's attention with lse has no float64 on this device")
    groups = dilated["segment_lengths"], dilated["dilation_rates"]
    why = refusal(*groups, case.length, dilated.get("padding", "masked"))
    if why:
        raise LeftOut(why)
    return lambda q, k, v: official(q, k, v, *groups, data["causal"], rule)


def once(case: Case, attend: Attend, inputs: Sequence[Tensor]) -> list[Tensor]:
    """[out], with its gradients in a case of both passes: what is timed."""
    if not case.backward:
        with torch.no_grad():
            return [attend(*inputs[:3])]
    leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    out = attend(*leaves)
    out.backward(inputs[3])
    return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]


def first_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no words'}"


def flex_attention(case: Case, inputs: Sequence[Tensor], compiled: bool, say: Say) -> tuple[Attend, Runs]:
    """FlexAttention, compiled if it can be: what cannot be is told by a first call."""
    q, k = inputs[:2]
    why = compiler_missing(case.device) if compiled else "--no-compile"
    try:
        check_backward(case.backward, case.device)
        if not why:
            say(f"flex: torch.compile of its mask and kernel for {case.length} tokens, a minute or more; {HOW_TO_LEAVE_OUT}")
            try:
                attend = Flex(case.pattern, q, k, True)
                once(case, attend, inputs)
                return attend, Runs("flex, compiled", mask_seconds=attend.mask_seconds)
            except LeftOut:
                raise
            except Exception as error:  # of any kind: what a compiler or torch's tracing says
                why = first_words(error)
                torch._dynamo.reset()
        attend = Flex(case.pattern, q, k, False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this is slow: the table says that it is not compiled
            once(case, attend, inputs)
        return attend, Runs("flex, not compiled", mask_seconds=attend.mask_seconds, note=why)
    except (NotImplementedError, RuntimeError) as error:  # what it does not have on this device or for this dtype
        raise LeftOut(first_words(error)) from None


def largest_gap(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Absolute; nan and infinities stay what they are."""
    return max((a.double() - b.double()).abs().max().item() if a.numel() else 0.0 for a, b in zip(ours, theirs))


def taking_part(
    name: str, case: Case, inputs: Sequence[Tensor], dense_limit: int, compiled: bool, say: Say
) -> tuple[Attend, Runs]:
    """How one of PEERS or OURS computes the case. Raises LeftOut."""
    if name == OURS:
        return lambda q, k, v: attention(q, k, v, case.pattern), Runs(OURS)
    if name != "official" and case.length > dense_limit:
        raise LeftOut(f"more tokens than --dense-limit, {dense_limit}")
    if name == "flex":
        return flex_attention(case, inputs, compiled, say)
    if name == "official":
        constant = "its gradient takes the mixing for constant" if case.backward else ""
        return official_attention(case), Runs(name, note=constant)
    return dense_attention(case.pattern.causal), Runs(name)


def run_case(
    case: Case,
    peers: Sequence[str] = PEERS,
    repeats: int = 5,
    dense_limit: int = 16384,
    compiled: bool = True,
    say: Say = lambda words: None,
) -> Result:
    """Runs everybody once untimed, then `repeats` rounds. `say` is told what takes long before it begins. Raises what
    `attention` raises for the case."""
    with use_engine(case.engine):
        return run_on_engine(case, peers, repeats, dense_limit, compiled, say)


def run_on_engine(
    case: Case, peers: Sequence[str], repeats: int, dense_limit: int, compiled: bool, say: Say
) -> Result:
    inputs = case.inputs()
    ours, run_of_ours = taking_part(OURS, case, inputs, dense_limit, compiled, say)
    wanted = once(case, ours, inputs)
    runs: list[tuple[Attend, Runs]] = []
    left_out: dict[str, str] = {}
    for name in peers:
        try:
            runs.append(taking_part(name, case, inputs, dense_limit, compiled, say))
        except LeftOut as why:
            left_out[name] = str(why)
    for attend, run in runs:
        theirs = once(case, attend, inputs)
        if run.name == "dense" and not shows_all(case.pattern, case.length):
            run.note = "over all pairs: another sum"
            continue
        run.error = largest_gap(wanted[:1], theirs[:1])
        run.error_of_gradients = largest_gap(wanted[1:], theirs[1:]) if case.backward else None
    runs.append((ours, run_of_ours))
    for _ in range(repeats):
        for attend, run in runs:
            wait(case.device)
            begin = time.perf_counter()
            once(case, attend, inputs)
            wait(case.device)
            run.seconds.append(time.perf_counter() - begin)
    return Result(case, [run for _, run in runs], left_out)
