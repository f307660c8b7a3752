"""`python -m longstride compare`: a table of patterns, how much they show and in how many layers they reach everything."""

import argparse
import json
import math
import pathlib

from ._options import text_of_pattern, whole
from ._pattern import Pattern
from ._reach import Reach


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="a pattern's JSON, or a file of it")
    parser.add_argument("--len", type=whole(1), default=2048, dest="length", metavar="N", help="tokens (2048)")
    parser.add_argument("--heads", type=whole(1), default=4, metavar="N", help="KV heads (4)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")


def layers_of(found: Reach) -> str:
    """Rounded down, so that what is never reached is not called all of it."""
    return str(len(found.reached)) if found.all else f"never: {math.floor(1000 * found.reached[-1]) / 10:.1f} %"


def compare_command(given: argparse.Namespace) -> int:
    patterns = [Pattern.from_json(text_of_pattern(text, "PATTERN")) for text in given.patterns]
    names = [repr(pattern) if "{" in text else pathlib.Path(text).stem for text, pattern in zip(given.patterns, patterns)]
    rows = [(name, pattern.reach(given.length, given.heads)) for name, pattern in zip(names, patterns)]
    if given.json:
        listed = [{"name": name, "density": found.density, "reached": list(found.reached)} for name, found in rows]
        print(json.dumps({"len": given.length, "kv_heads": given.heads, "patterns": listed}, indent=2))
        return 0
    width = max(7, *(len(name) for name in names))
    print(f"  {'pattern':<{width}}  pairs seen  layers to reach all")
    for name, found in rows:
        print(f"  {name:<{width}}  {100 * found.density:>8.1f} %  {layers_of(found):>19}")
    print(f"{given.length} tokens, {given.heads} KV heads")
    return 0
