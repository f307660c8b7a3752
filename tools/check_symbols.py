#!/usr/bin/env python3
"""Checks that a library asks LibTorch for nothing but what tools/torch_symbols.txt lists: what every LibTorch from 2.10 on
has, and what is used only where it is there. That one build serves them all hangs on it.

Reads the library's undefined symbols and the names that it looks up while it runs. A symbol that is not listed, one that
is asked for in another way than listed, one listed in vain, and a need of another library of LibTorch's are errors.

usage: check_symbols.py LIBRARY [LIST]
"""

import pathlib
import re
import subprocess
import sys

WAYS = ("always", "weak", "by-name")
# Of torch: its C interface, and whatever names its namespaces.
C_NAME = re.compile(r"(aoti_)?torch_\w+|aoti_\w+")
NAMESPACE = re.compile(r"\b(at|c10|caffe2|torch)::")
LOOKED_UP = re.compile(r"\]\s+((?:_ZNK?(?:2at|3c10|5torch|6caffe2)|aoti_torch_)\w+)$", re.M)
# Looked up in builds with CUDA alone.
CUDA = re.compile("cuda")


def read_list(path):
    """{symbol: way} of the list; a line is "way symbol", and what follows a # is for people."""
    listed = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in WAYS or words[1] in listed:
            raise SystemExit(f"{path}:{number}: must be one of {', '.join(WAYS)} and a symbol that stands here once")
        listed[words[1]] = words[0]
    return listed


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout


def undefined(library):
    """{symbol: way} of the torch symbols that the dynamic linker looks for."""
    asked = {}
    for line in output_of("nm", "-D", "--undefined-only", library).splitlines():
        kind, name = line.split()[-2:]
        asked[name.split("@")[0]] = "weak" if kind in "wv" else "always"
    readable = output_of("c++filt", *asked).splitlines() if asked else []
    return {
        name: way
        for (name, way), words in zip(asked.items(), readable)
        if C_NAME.fullmatch(name) or NAMESPACE.search(words)
    }


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    library = arguments[0]
    path = pathlib.Path(arguments[1] if len(arguments) > 1 else pathlib.Path(__file__).with_name("torch_symbols.txt"))
    listed = read_list(path)
    used = undefined(library)
    if not used:
        print(f"symbols: {library} asks LibTorch for nothing, which cannot be", file=sys.stderr)
        return 1
    for name in LOOKED_UP.findall(output_of("readelf", "--string-dump=.rodata", library)):
        used.setdefault(name, "by-name")
    errors = []
    for name, way in sorted(used.items()):
        if name not in listed:
            errors.append(f"{name} is asked for ({way}) and not listed in {path.name}")
        elif listed[name] != way:
            errors.append(f"{name} is asked for ({way}), but listed as {listed[name]}")
    for name in sorted(listed.keys() - used.keys()):
        if not CUDA.search(name):
            errors.append(f"{name} is listed, but not asked for")
    for needed in re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-d", library)):
        name = pathlib.PurePath(needed).name
        if re.match(r"lib(torch|c10)", name) and name != "libtorch_cpu.so":
            errors.append(f"{name} is needed; of LibTorch's libraries libtorch_cpu.so alone may be")
    for error in errors:
        print(f"symbols: {error}", file=sys.stderr)
    if not errors:
        print(f"symbols: {len(used)} of LibTorch, all listed")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
