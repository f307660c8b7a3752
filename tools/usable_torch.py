#!/usr/bin/env python3
"""Prints the version of this interpreter's torch and the folder that holds it, if it is one to build with.

Usable is a torch of at least the given version whose LibTorch lies beside it. Fails, with a reason, if there is none.
Called by tools/setup with every interpreter that may have one.

usage: usable_torch.py OLDEST
"""

import importlib.metadata
import importlib.util
import os
import re
import sys


def series(version):
    """(2, 13) of "2.13.0+cpu" and of "2.13.0a0+git1234"."""
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:2])


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        version = importlib.metadata.version("torch")
        root = importlib.util.find_spec("torch").submodule_search_locations[0]
    except (importlib.metadata.PackageNotFoundError, AttributeError):
        print("no torch", file=sys.stderr)
        return 1
    if series(version) < series(arguments[0]):
        print(f"torch {version} is older than {arguments[0]}", file=sys.stderr)
        return 1
    if not os.path.exists(os.path.join(root, "lib", "libtorch_cpu.so")):
        print(f"torch at {root} has no libtorch_cpu.so", file=sys.stderr)
        return 1
    print(version, os.path.dirname(root))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
