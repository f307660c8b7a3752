"""Tables, JSON and the chart of bench."""

import json
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from .._chart import Line, line_chart
from .._picture import Picture
from .._version import __version__
from .cases import OURS, Result, Runs


def say(words: str) -> None:
    """Beside the tables, which go to standard output."""
    print(words, file=sys.stderr, flush=True)


def processor() -> dict[str, str]:
    """Name, family and model of the first processor; a name alone does not tell which one it is."""
    facts = {}
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if not line:
                break
            facts[key.strip()] = value.strip()
    except OSError:
        pass
    wanted = {"processor": "model name", "family": "cpu family", "model": "model"}
    found = {name: facts[key] for name, key in wanted.items() if key in facts}
    return found or {"processor": platform.processor() or platform.machine()}


def machine(device: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "longstride": __version__,
        "torch": torch.__version__,
        **processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if device == "cuda":
        result["gpu"] = torch.cuda.get_device_name()
    return result


def machine_words(facts: dict[str, Any]) -> str:
    numbered = f", family {facts['family']}, model {facts['model']}" if "family" in facts and "model" in facts else ""
    gpu = f"{facts['gpu']}; " if "gpu" in facts else ""
    threads = f"{facts['threads']} thread{'' if facts['threads'] == 1 else 's'}"
    return (
        f"{gpu}{facts['processor']}{numbered}, {facts['capability']}, {threads}; "
        f"torch {facts['torch']}, longstride {facts['longstride']}"
    )


def milliseconds(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first and the last to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        cells[0], cells[-1] = row[0].ljust(widths[0]), row[-1]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def result_text(result: Result) -> str:
    def error(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}"

    head = ["", "median ms", "lowest", "highest", "times ours", "error of out"]
    if result.case.backward:
        head.append("of gradients")
    measured = any(run.extra_bytes is not None for run in result.runs)
    if measured:
        head.append("extra MiB")
    rows = [[*head, ""]]
    for run in (result.ours, *result.runs[:-1]):
        notes = [run.note] if run.note else []
        if run.mask_seconds is not None:
            notes.insert(0, f"beside it its mask: {milliseconds(run.mask_seconds)} ms")
        row = [run.name, *map(milliseconds, (run.median, min(run.seconds), max(run.seconds)))]
        row += [f"{run.median / result.ours.median:.2f}" if run is not result.ours else "1", error(run.error)]
        if result.case.backward:
            row.append(error(run.error_of_gradients))
        if measured:
            row.append("-" if run.extra_bytes is None else f"{run.extra_bytes / 2**20:.1f}")
        rows.append([*row, "; ".join(notes)])
    lines = [str(result.case), *table(rows)]
    lines += [f"  {name} did not run: {why}" for name, why in result.left_out.items()]
    return "\n".join(lines)


def run_json(run: Runs, ours: Runs) -> dict[str, Any]:
    one: dict[str, Any] = {
        "seconds": run.seconds,
        "median": run.median,
        "min": min(run.seconds),
        "max": max(run.seconds),
        "times_ours": run.median / ours.median,
    }
    for name in ("error", "error_of_gradients", "mask_seconds", "extra_bytes"):
        if getattr(run, name) is not None:
            one[name] = getattr(run, name)
    return {**one, "note": run.note} if run.note else one


def report_json(facts: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    cases = []
    for result in results:
        case = result.case
        cases.append(
            {
                "pattern": json.loads(case.pattern.json()),
                "len": case.length,
                "batch": case.batch,
                "heads": case.heads,
                "kv_heads": case.kv_heads,
                "dim": case.dim,
                "dtype": case.dtype,
                "device": case.device,
                "engine": case.engine,
                "pass": "forward_backward" if case.backward else "forward",
                "runs": {run.name: run_json(run, result.ours) for run in result.runs},
                "left_out": result.left_out,
            }
        )
    return {"machine": facts, "cases": cases}


def chart(facts: dict[str, Any], results: Sequence[Result]) -> Picture:
    """Medians over length, a line each; FlexAttention's without its mask."""
    lines: dict[str, Line] = {}
    for result in results:
        for run in (result.ours, *result.runs[:-1]):
            label = run.name + (", without its mask" if run.mask_seconds is not None else "")
            line = lines.setdefault(label, Line(label, [], [], dashed=run.name != OURS))
            line.points.append((result.case.length, run.median * 1e3))
            line.spread.append((min(run.seconds) * 1e3, max(run.seconds) * 1e3))
    case = results[0].case
    title = f"Attention, {case.dtype}{', causal' if case.pattern.causal else ''}, "
    title += f"{'forward + backward' if case.backward else 'forward'}, {case.heads} heads of {case.dim}"
    return line_chart(title, machine_words(facts), "length, in tokens", "median time, in ms", list(lines.values()))
