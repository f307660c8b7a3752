"""doctor(): what stands here, and whether what it computes is right. Shown by `python -m longstride doctor`."""

import dataclasses
import platform

import torch
from torch import Tensor

from . import _library, _registration
from ._attention import dilated_attention
from ._engine import use_engine
from ._version import __version__

# Lengths that fill no tile, heads that share KV heads, groups that overlap.
LENGTH, HEADS, KV_HEADS, DIM, SEGMENT = 301, 4, 2, 40, 64
# What `longstride doctor` allows: rounding of the inputs' dtype, of the gradients too.
ALLOWED = {torch.float32: 5e-5, torch.bfloat16: 8e-2, torch.float16: 1e-2, torch.float64: 1e-11}


@dataclasses.dataclass(frozen=True)
class Check:
    """attention on one device in one dtype, beside the formula written out densely in float64."""

    device: str
    dtype: torch.dtype
    error: float  # the largest, of out and lse; nan where it was refused
    error_of_gradients: float
    allowed: float
    refusal: str = ""
    may_refuse: bool = False  # a package without CUDA its tensors, an engine that was asked for a dtype: no faults

    @property
    def passed(self) -> bool:
        """Whether the numbers are right."""
        if self.refusal:
            return self.may_refuse
        return max(self.error, self.error_of_gradients) <= self.allowed

    def __str__(self) -> str:
        name = f"  {self.device:5} {str(self.dtype).removeprefix('torch.'):9}"
        if self.refusal:
            return f"{name} refused: {self.refusal}"
        verdict = "ok" if self.passed else "WRONG"
        return f"{name} {self.error:.1e} of gradients {self.error_of_gradients:.1e} allowed {self.allowed:.0e}  {verdict}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What doctor() found. `str` of it is for people; `passed` says whether all checks are right."""

    facts: dict[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return any(not check.refusal for check in self.checks) and all(check.passed for check in self.checks)

    def __str__(self) -> str:
        lines = [f"{name:11} {value}" for name, value in self.facts.items()]
        lines += ["", "self-check: largest errors beside the dense formula in float64", *map(str, self.checks), ""]
        lines.append("All is well." if self.passed else "Something is wrong: see above.")
        return "\n".join(lines)

    __repr__ = __str__


def dense_formula(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse) of two causal groups at rate 1: a pair within one segment of the first counts twice."""
    segment = torch.arange(LENGTH) // SEGMENT
    counted = (1 + (segment[:, None] == segment).double()).tril()
    k, v = (t.repeat_interleave(HEADS // KV_HEADS, 2) for t in (k, v))
    terms = counted * (torch.einsum("bqhd,bkhd->bhqk", q, k) / DIM**0.5).exp()
    total = terms.sum(-1, keepdim=True)
    return torch.einsum("bhqk,bkhd->bqhd", terms / total, v), total.squeeze(-1).log()


def largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest distance; a NaN must not pass as a small number."""
    gaps = torch.cat([(a.double().cpu() - b).abs().flatten() for a, b in zip(ours, theirs)])
    return gaps.max().item() if gaps.isfinite().all() else float("inf")


def checked(device: str, dtype: torch.dtype, may_refuse: bool) -> Check:
    generator = torch.Generator().manual_seed(1)

    def one(heads: int) -> Tensor:
        return torch.randn(1, LENGTH, heads, DIM, generator=generator, dtype=torch.float64).to(dtype)

    # The formula begins with the same rounded numbers.
    rounded = [one(HEADS), one(KV_HEADS), one(KV_HEADS)]
    mine = [t.to(device, copy=True).requires_grad_() for t in rounded]
    true = [t.to(torch.float64, copy=True).requires_grad_() for t in rounded]
    d_out, d_lse = one(HEADS).double(), one(HEADS).double()[..., 0].transpose(1, 2)
    with torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        try:
            got = dilated_attention(mine[0], mine[1], mine[2], [SEGMENT, LENGTH], [1, 1], causal=True, return_lse=True)
            wanted = dense_formula(*true)
            for (out, lse), place in ((got, device), (wanted, "cpu")):
                ((out.double() * d_out.to(place)).sum() + (lse.double() * d_lse.to(place)).sum()).backward()
        except (ValueError, RuntimeError) as error:
            return Check(device, dtype, float("nan"), float("nan"), ALLOWED[dtype], str(error), may_refuse)
    of_results = largest([t.detach() for t in got], [t.detach() for t in wanted])
    of_gradients = largest(*([t.grad for t in of if t.grad is not None] for of in (mine, true)))
    return Check(device, dtype, of_results, of_gradients, ALLOWED[dtype])


def doctor(engine: str = "") -> Report:
    """What longstride, torch and the machine are, and a check of attention and its gradients in every dtype.

    Args:
        engine: check this one alone (see `use_engine`), on its device; dtypes that it does not take are no faults.
    Returns:
        A `Report`: print it, or ask `passed`. CUDA is checked where torch sees a device.
    """
    own = _registration.gradients_are_ours
    cuda = torch.cuda.is_available()
    facts = {
        "longstride": __version__,
        "library": str(_library.path()) if own else "liblongstride.so, which was loaded before this package",
        "torch": f"{torch.__version__}, wanted: {_library.wanted_torch()}",
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "cuda": torch.cuda.get_device_name() if cuda else "torch sees no device",
    }
    checks = []
    with use_engine(engine):
        if not engine.startswith("cuda"):
            checks += [checked("cpu", dtype, engine != "") for dtype in ALLOWED]
        if cuda and (not engine or engine.startswith("cuda")):
            checks += [checked("cuda", dtype, True) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    return Report({**facts, "engine": engine or "each call's own choice"}, tuple(checks))
