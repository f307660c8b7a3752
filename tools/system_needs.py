#!/usr/bin/env python3
"""Prints what a library of a wheel, with those in its folder that it needs, asks of the system that it is loaded on: the
versions of the C library and of libstdc++. Called by tools/wheel.

    glibc >= 2.34, libstdc++ with GLIBCXX_3.4.29; torch's: libtorch_cpu.so; carried: libfmt.so.9, libhwy.so.1

The numbers are those that the compiler's machine left in it: a system with an older glibc refuses to load it ("version
`GLIBC_2.34' not found"). A library that is neither the system's nor torch's nor in the folder is an error: others do not have it.

usage: system_needs.py LIBRARY
"""

import pathlib
import re
import subprocess
import sys

# Of the C library and the compiler, on every Linux with Python and torch; what a manylinux wheel may need of a system.
SYSTEM = re.compile(r"(lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)|ld-linux.*)\.so\.\d+")
# Those that torch has loaded before us.
TORCH = re.compile(r"lib(torch|c10)\w*\.so")
VERSION = re.compile(r"Name: (GLIBC|GLIBCXX|CXXABI)_(\d+(?:\.\d+)+)\b")


def readelf(*arguments):
    done = subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SystemExit(f"system_needs: {done.stderr.strip()}")
    return done.stdout


def versions(library):
    """[("GLIBC", (2, 34)), ...] that the library asks for."""
    needs = readelf("--version-info", library).partition("Version needs section")[2]
    return [(kind, tuple(map(int, text.split(".")))) for kind, text in VERSION.findall(needs)]


def needed_by(library):
    return re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("-d", library))


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = pathlib.Path(arguments[0]).parent
    looked_at, needed = [arguments[0]], set()
    for library in looked_at:
        for name in set(needed_by(library)) - needed:
            needed.add(name)
            if (folder / name).is_file():
                looked_at.append(folder / name)
    carried = {pathlib.Path(library).name for library in looked_at[1:]}
    of_torch = {name for name in needed if TORCH.fullmatch(name)}
    missing = sorted(name for name in needed - of_torch - carried if not SYSTEM.fullmatch(name))
    highest = {}
    for kind, numbers in [one for library in looked_at for one in versions(library)]:
        highest[kind] = max(numbers, highest.get(kind, numbers))
    found = {kind: ".".join(map(str, numbers)) for kind, numbers in highest.items()}
    words = f"glibc >= {found['GLIBC']}" if "GLIBC" in found else "any glibc"
    if "GLIBCXX" in found:
        words += f", libstdc++ with GLIBCXX_{found['GLIBCXX']}"
    for whose, names in (("torch's", of_torch), ("carried", carried)):
        words += f"; {whose}: {', '.join(sorted(names))}" if names else ""
    print(words)
    if missing:
        print(f"system_needs: {', '.join(missing)} would have to be carried in the wheel", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
