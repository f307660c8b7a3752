"""Installs the build, moves the prefix, and uses it with another torch, as a machine without the checkout would.

The other torch is a folder of links to the files of the build's; a program tells by which names its libraries were loaded.
"""

import os
import pathlib
import shutil
import stat
import sys
import tempfile

from installed_test import ROOT, arguments, run

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(relocated LANGUAGES CXX)
unset(LONGSTRIDE_TORCH_ROOT CACHE)  # what an earlier way found
find_package(longstride ${HOW})
if(longstride_FOUND)
  message(STATUS "torch=${LONGSTRIDE_TORCH_ROOT}")
  foreach(name attends plans)
    add_executable(${name} ${name}.cc)
    target_link_libraries(${name} PRIVATE longstride::longstride)
  endforeach()
else()
  message(STATUS "torch=none: ${longstride_NOT_FOUND_MESSAGE}")
endif()
message(STATUS "went on")
"""

LOADED = """
#include <link.h>
#include <iostream>
int print_name(dl_phdr_info* info, size_t, void*) {
  std::cout << "loaded " << info->dlpi_name << "\\n";
  return 0;
}
"""

# Calls torch itself.
ATTENDS = LOADED + """
#include <ATen/ops/ones.h>
#include <longstride/attention.h>
int main() {
  dl_iterate_phdr(print_name, nullptr);
  const at::Tensor q = at::ones({1, 8, 1, 8});
  const auto pattern = longstride::Pattern::dilated({4}, {1});
  std::cout << "sum " << longstride::attention(q, q, q, pattern).out.sum().item<float>() << "\\n";
}
"""

# Names nothing of torch, which liblongstride.so needs all the same.
PLANS = LOADED + """
#include <longstride/pattern.h>
int main() {
  dl_iterate_phdr(print_name, nullptr);
  std::cout << "groups " << longstride::Pattern::dilated({4}, {1}).groups().size() << "\\n";
}
"""


def fail(text):
    sys.exit(f"failed: {text}")


def linked_copy(torch, copy):
    """A torch folder of links: every library under a name of its own, as a loader sees it."""
    (copy / "lib").mkdir(parents=True)
    for library in (torch / "lib").iterdir():
        (copy / "lib" / library.name).symlink_to(library)
    (copy / "include").symlink_to(torch / "include")
    shutil.copytree(torch / "share", copy / "share")
    return copy


def refuse_foreign_paths(prefix, foreign):
    """No text of the package names the checkout, the build or the torch it was built with."""
    texts = [p for p in prefix.rglob("*") if p.suffix in (".cmake", ".h", ".pc", ".json")]
    if not any(p.name == "longstrideTargets.cmake" for p in texts):
        fail(f"no longstrideTargets.cmake below {prefix}")
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for place in foreign:
            if str(place) in text:
                fail(f"{path} names {place}")


def run_paths(file):
    text = run("readelf", "-d", file)
    lines = [l for l in text.splitlines() if "(RUNPATH)" in l or "(RPATH)" in l]
    return [p for l in lines for p in l.split("[")[1].split("]")[0].split(":") if p]


class Consumer:
    """A project that finds longstride in `prefix`, configured again and again in one folder, which is quicker."""

    def __init__(self, work, given, prefix):
        self.given, self.prefix, self.build = given, prefix, work / "build"
        self.source = work / "source"
        self.source.mkdir()
        (self.source / "CMakeLists.txt").write_text(PROJECT)
        (self.source / "attends.cc").write_text(ATTENDS)
        (self.source / "plans.cc").write_text(PLANS)
        # A python3 without a torch, before any other.
        self.bin = work / "bin"
        self.bin.mkdir()
        self.python(None)

    def python(self, torch):
        """What `python3` says of torch from now on."""
        script = self.bin / "python3"
        script.write_text("#!/bin/sh\n" + (f"echo '{torch}'\n" if torch else "exit 1\n"))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def configure(self, *options, **environment):
        """The torch that longstride found, or "none: " and the reason."""
        kept = {k: v for k, v in os.environ.items() if k not in ("CMAKE_PREFIX_PATH", "Torch_DIR", "Torch_ROOT")}
        kept |= {k: str(v) for k, v in environment.items()}
        kept["PATH"] = f"{self.bin}{os.pathsep}{kept['PATH']}"
        text = run(self.given.cmake, "-S", self.source, "-B", self.build, "-G", self.given.generator,
                   f"-DCMAKE_CXX_COMPILER={self.given.compiler}", f"-DCMAKE_CXX_COMPILER_LAUNCHER={self.given.launcher}",
                   "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF",
                   "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", f"-Dlongstride_DIR={self.prefix}/lib/cmake/longstride",
                   "-UTorch_DIR", "-UTorch_ROOT", "-UCMAKE_PREFIX_PATH", "-DHOW=QUIET", *options, env=kept)
        if "-- went on" not in text:
            fail(f"find_package(longstride QUIET) did not go on with {options} {environment}:\n{text}")
        self.said = " ".join(text.split())
        found = [l.removeprefix("-- torch=") for l in text.splitlines() if l.startswith("-- torch=")]
        return found[0]


def check_search(consumer, work, torch):
    """Every way in which a torch is found, each by a folder of its own; then the order among them."""
    other = {}

    def folder(way):
        other[way] = linked_copy(torch, work / f"other_{way}")
        return other[way]

    def expect(way, *options, **environment):
        found = consumer.configure(*options, **environment)
        if found != str(other[way]):
            fail(f"{way}: {options} {environment} found torch {found}, not {other[way]}")
        print(f"found by {way}")

    missing = consumer.configure()
    if not missing.startswith("none: ") or "CMAKE_PREFIX_PATH" not in missing:
        fail(f"without a torch longstride_NOT_FOUND_MESSAGE should say what to set, but is {missing!r}")
    print(missing)
    consumer.configure("-DHOW=")
    if "LibTorch was not found; set CMAKE_PREFIX_PATH" not in consumer.said:
        fail(f"find_package(longstride) without a torch should give the reason, but says {consumer.said}")

    consumer.python(folder("python"))
    expect("python")
    expect("prefix_env", CMAKE_PREFIX_PATH=f"{work}:{folder('prefix_env')}")
    before = {"CMAKE_PREFIX_PATH": other["prefix_env"]}
    expect("dir_env", Torch_DIR=folder("dir_env") / "share/cmake/Torch", **before)
    expect("prefix", f"-DCMAKE_PREFIX_PATH={work};{folder('prefix')}", **before)
    before_root = f"-DCMAKE_PREFIX_PATH={other['prefix']}"
    expect("root_env", before_root, Torch_ROOT=folder("root_env"), **before)
    before = {"Torch_ROOT": other["root_env"]}
    expect("root", f"-DTorch_ROOT={folder('root')}", before_root, **before)
    expect("dir", f"-DTorch_DIR={folder('dir')}/share/cmake/Torch", f"-DTorch_ROOT={other['root']}", before_root, **before)

    # Another series of LibTorch is taken, and said; not where the caller wants quiet.
    expect("root", f"-DTorch_ROOT={other['root']}", "-DHOW=")
    if "what LibTorch promises" in consumer.said:
        fail(f"the build's own version of LibTorch is warned of: {consumer.said}")
    (folder("series") / "share/cmake/Torch/TorchConfigVersion.cmake").write_text('set(PACKAGE_VERSION "1.99.0")\n')
    expect("series", f"-DTorch_ROOT={other['series']}", "-DHOW=")
    if "and meets 1.99.0" not in consumer.said:
        fail(f"another version of LibTorch is not said: {consumer.said}")
    expect("series", f"-DTorch_ROOT={other['series']}")
    if "1.99.0" in consumer.said:
        fail(f"find_package(longstride QUIET) is not quiet: {consumer.said}")
    return other["root"]


def main():
    given = arguments()
    torch = pathlib.Path(given.torch)

    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder).resolve()
        run(given.cmake, "--install", given.build, "--prefix", work / "prefix")
        prefix = work / "moved" / "away"
        prefix.parent.mkdir()
        (work / "prefix").rename(prefix)
        foreign = {ROOT, pathlib.Path(given.build).resolve(), torch, torch.resolve(), work / "prefix"}
        refuse_foreign_paths(prefix, foreign)
        libraries = [p for p in prefix.rglob("liblongstride.so*") if not p.is_symlink()]
        for file in [prefix / "bin" / "longstride", *libraries]:
            paths = run_paths(file)
            print(f"{file.name} looks in {paths}")
            absolute = [p for p in paths if not p.startswith("$ORIGIN")]
            if absolute != [str(torch / "lib")]:
                fail(f"{file.name} has the run paths {paths}; LibTorch's folder is the only one that is not beside it")

        consumer = Consumer(work, given, prefix)
        other = check_search(consumer, work, torch)
        consumer.configure(f"-DTorch_ROOT={other}")
        run(given.cmake, "--build", consumer.build)
        for name, result in (("attends", "sum 64"), ("plans", "groups 1")):
            text = run(consumer.build / name)
            loaded = [pathlib.Path(l.removeprefix("loaded ")) for l in text.splitlines() if l.startswith("loaded /")]
            ours = [p for p in loaded if p.name.startswith(("libtorch", "libc10"))]
            if result not in text or not ours:
                fail(f"{name} printed\n{text}")
            for path in ours:
                if path.parent != other / "lib":
                    fail(f"{name} loaded {path}, not the torch in {other} that it was linked with")
            print(f"{name}: {result}, with {sorted(p.name for p in ours)} of the other torch")
        # The program itself, where the torch of the build is gone: it takes the one that it is shown.
        text = run("ldd", prefix / "bin" / "longstride", env={**os.environ, "LD_LIBRARY_PATH": str(other / "lib")})
        if f"libtorch_cpu.so => {other}/lib/libtorch_cpu.so" not in text:
            fail(f"the program does not take the torch in LD_LIBRARY_PATH:\n{text}")


if __name__ == "__main__":
    main()
