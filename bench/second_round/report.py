"""Lines of JSON of what was measured, and their summary: the table, and the page that holds it."""

import json
import os
import pathlib
import re
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- cuda_round: {} -->", "<!-- cuda_round ends -->"
MORE_IS_BETTER = "TFLOP/s"
# Cases that share a row: the two passes of one, and lengths of one kind.
PART = re.compile(r"^(?P<before>one query,|host, a warm call of|.*(?= forward| backward)) (?P<part>\S+)(?P<after>.*)$")


def output_of(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine(given) -> dict[str, Any]:
    import longstride
    import torch

    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "longstride": longstride.__version__,
        "library": os.path.basename(os.environ.get("LONGSTRIDE_LIBRARY", "installed")),
        "commit": given.commit or output_of("git", "rev-parse", "--short", "HEAD"),
        "repeats": given.repeats,
        "l2": "cleared",
    }
    if given.scale > 1:
        facts["scale"] = given.scale
    if given.device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"], facts["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        facts["driver"] = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {key: value for key, value in facts.items() if value is not None}


def holds(value: float | None, unit: str, accept: float | None) -> bool | str | None:
    if accept is None:
        return None
    if value is None:
        return "no peer here"
    return value >= accept if unit == MORE_IS_BETTER else value <= accept


def head(case) -> dict[str, Any]:
    return {"case": case.name, "shape": case.shape, "dtype": case.dtype, "unit": case.unit}


def line(case, measured) -> dict[str, Any]:
    def short(x: float | None) -> float | None:
        return None if x is None else float(f"{x:.5g}")

    found = head(case) | {
        "value": short(measured.value),
        "peer": measured.peer or "no peer here",
        "peer_value": short(measured.peer_value),
        "accept": case.accept,
        "goal": case.goal,
        "holds": holds(measured.value, case.unit, case.accept),
        **measured.extra,
    }
    return found | ({"peers_left_out": measured.left_out} if measured.left_out else {})


def failed(case, words: str) -> dict[str, Any]:
    return head(case) | {"value": None, "accept": case.accept, "goal": case.goal, "holds": False, "error": words}


def words(case) -> str:
    asked = "no figure asked" if case.accept is None else f"accept {case.accept:g}"
    goal = "" if case.goal is None else f", goal {case.goal:g}"
    return f"{case.name}  ({case.shape}, {case.dtype}): {case.unit}, {asked}{goal}; about {case.seconds:g} s"


def read(path: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The machine, and the lines of cases."""
    lines = [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines() if one.strip()]
    found = [one["machine"] for one in lines if "machine" in one]
    return (found[0] if found else {}), [one for one in lines if "case" in one]


def number(x: float | None) -> str:
    if x is None:
        return "-"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def table(lines: list[dict[str, Any]]) -> list[str]:
    """A row for each case that a figure was asked for; forward and backward share one."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in lines:
        if one["accept"] is None:
            continue
        split = PART.match(one["case"])
        name = (split["before"], split["after"]) if split else (one["case"], "")
        rows.setdefault((*name, one["unit"]), []).append(one)
    text = ["| case | measure | ours | beside | accept | goal | holds |", "|---|---|---|---|---|---|---|"]
    for (before, after, unit), several in rows.items():

        def cell(key: str) -> str:
            return " / ".join(number(one.get(key)) for one in several)

        beside = list(dict.fromkeys(one["peer"] for one in several if one.get("peer_value") is not None))
        mine = cell("value")
        in_peers = unit == "times the peer" and bool(beside)  # of which the peer's own is 1: milliseconds say more
        peer = f"{' / '.join(beside)}: {cell('peer_ms' if in_peers else 'peer_value')}" if beside else "-"
        if in_peers:
            mine, peer = f"{mine} ({cell('ours_ms')} ms)", f"{peer} ms"
        parts = [PART.match(one["case"]) for one in several]
        named = f"{before} {' / '.join(p['part'] for p in parts)}{after}" if all(parts) else before
        verdicts = {True: "yes", False: "**no**"}
        held = " / ".join("failed" if "error" in one else verdicts.get(one["holds"], one["holds"]) for one in several)
        text.append(f"| {named} | {unit} | {mine} | {peer} | {cell('accept')} | {cell('goal')} | {held} |")
    return text


def crossover(lines: list[dict[str, Any]]) -> list[str]:
    """Batches of short sequences, ours over dense attention, as a table of batch and length."""
    cells = {}
    for one in lines:
        shape = re.fullmatch(r"batch (\d+) x (\d+) .*, crossover", one["case"])
        if shape:
            cells[int(shape[1]), int(shape[2])] = one
    if not cells:
        return []
    lengths = sorted({n for _, n in cells})
    text = ["", "Batches of short sequences, ms of ours / of dense SDPA:", ""]
    text += [f"| batch | {' | '.join(map(str, lengths))} |", "|---" * (len(lengths) + 1) + "|"]
    for batch in sorted({batch for batch, _ in cells}):
        row = [cells.get((batch, n), {}) for n in lengths]
        text.append(f"| {batch} | " + " | ".join(f"{number(c.get('value'))} / {number(c.get('peer_value'))}" for c in row) + " |")
    return text


def page_text(path: pathlib.Path) -> str:
    facts, lines = read(path)
    asked = [one for one in lines if one["accept"] is not None]
    reached = sum(one["holds"] is True for one in asked)
    named = ", ".join(f"{key} {value}" for key, value in facts.items() if key in ("gpu", "torch", "cudnn", "driver", "commit"))
    first = f"{reached} of {len(asked)} figures hold, {sum('error' in one for one in lines)} cases failed. {named}."
    return "\n".join([first, "", *table(lines), *crossover(lines)])


def written(page: str, source: str, text: str) -> str:
    """The page with the text between its marks."""
    whole = re.compile(re.escape(BEGIN).replace(r"\{\}", r"[^\n]*") + r"\n.*?" + re.escape(END), re.S)
    if len(whole.findall(page)) != 1:
        raise ValueError(f"the page must hold {BEGIN.format('FILE')} once, and {END} behind it")
    return whole.sub(lambda _: f"{BEGIN.format(source)}\n{text}\n{END}", page)


def summary(given) -> int:
    text = page_text(given.summary)
    if given.chart:
        from .chart import drawn

        drawn(*read(given.summary)).save(given.chart)
    if given.page:
        source = os.path.relpath(given.summary.resolve(), ROOT)
        page = given.page.read_text(encoding="utf-8")
        given.page.write_text(written(page, source, text), encoding="utf-8")
    else:
        print(text)
    return 0
