"""Installs the build into an empty prefix, builds examples/ and the README's C++ block against it, and runs them all."""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(str(c) for c in command)}\n{done.stdout}")
    return done.stdout


def readme_programs():
    """The C++ blocks of the README that are whole programs."""
    blocks = re.findall(r"^```cpp\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [b for b in blocks if "int main()" in b]


def arguments():
    """What CTest says of the build to install."""
    parser = argparse.ArgumentParser()
    for name in ("cmake", "build", "generator", "compiler", "torch"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--launcher", default="")
    return parser.parse_args()


def main():
    given = arguments()
    programs = readme_programs()
    if not programs:
        sys.exit("README.md holds no ```cpp block with a main(): its example is gone")

    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        run(given.cmake, "--install", given.build, "--prefix", work / "prefix")
        sources = []
        for number, text in enumerate(programs):
            sources.append(work / f"readme_{number}.cc")
            sources[-1].write_text(text, encoding="utf-8")
        run(given.cmake, "-S", ROOT / "examples", "-B", work / "build", "-G", given.generator,
            f"-DCMAKE_CXX_COMPILER={given.compiler}", f"-DCMAKE_CXX_COMPILER_LAUNCHER={given.launcher}",
            f"-DCMAKE_PREFIX_PATH={work / 'prefix'};{given.torch}",
            f"-DLONGSTRIDE_EXTRA_EXAMPLES={';'.join(str(s) for s in sources)}")
        run(given.cmake, "--build", work / "build")
        names = sorted(p.stem for p in (ROOT / "examples").glob("*.cc")) + [s.stem for s in sources]
        for name in names:
            print(f"--- {name}\n{run(work / 'build' / name)}")
        program = work / "prefix" / "bin" / "longstride"
        print(f"--- longstride --help\n{run(program, '--help')}")


if __name__ == "__main__":
    main()
