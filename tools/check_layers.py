#!/usr/bin/env python3
"""Checks that the rooms of the house know only whom they may (DESIGN: "who may know whom").

Reads every #include of include/, src/, python/, bench/ and oracle/, every longstride_room(... DEPS ...) and
target_link_libraries of src/, and those of python/ and bench/, and fails when one crosses a layer. Names a file may not
have are refused too, and in src/ and include/ files over 400 lines and functions over 100; elsewhere long files are noted.
Called by `make layers`, by `make test`, and by its own test on small trees.

usage: check_layers.py [ROOT]
"""

import pathlib
import re
import sys

# A room's public header belongs to the room of its name, but for those named here.
HEADER_ROOM = {"error": "core", "fields": "core", "memory_pool": "core", "attention": "op", "parallel": "op"}

# Whose private files (src/<room>/...) a room may include, beside its own.
PRIVATE = {
    "core": set(),
    "pattern": {"core"},
    "plan": {"core", "pattern"},
    "engine": {"core"},
    "op": {"core", "pattern", "plan", "engine", "parallel"},
    # What an engine is given, but no engine.
    "parallel": {"core", "pattern", "plan", "engine/contract"},
    "nn": {"core", "op", "parallel"},
    "factory": {"core", "nn", "parallel"},
    "picture": {"core"},
    "train": {"core", "nn", "picture"},
    "peer": set(),
    "cli": {"core", "parallel", "picture", "train", "peer"},
}

# Whose public headers (longstride/...) a room may include, beside its own. None: everyone's.
PUBLIC = {
    "core": set(),
    "pattern": {"core"},
    "plan": {"core", "pattern"},
    "engine": {"core", "plan"},
    "op": {"core", "pattern", "plan"},
    "parallel": {"core", "pattern", "plan"},
    "nn": {"core", "pattern", "plan", "op", "parallel"},
    "factory": {"core", "pattern", "plan", "op", "parallel", "nn"},
    "picture": {"core"},
    "train": {"core", "pattern", "op", "nn"},
    "peer": set(),
    "cli": None,
}

# What each room may link to. The program's room links to the whole library: what it uses of it, its includes say.
LINKS = {
    "core": set(),
    "pattern": {"core"},
    "plan": {"core", "pattern"},
    "engine": {"core"},
    "op": {"core", "pattern", "plan", "engine", "parallel"},
    "parallel": {"core", "pattern", "plan"},
    "nn": {"core", "op", "parallel"},
    "factory": {"core", "nn", "parallel"},
    "picture": {"core"},
    "train": {"core", "nn", "picture"},
    "peer": set(),
    "cli": {"core", "op", "parallel", "nn", "factory", "picture", "train", "peer"},
}

NO_TORCH = {"core", "pattern", "plan", "parallel", "engine", "picture"}
NO_CUDA = NO_TORCH - {"engine"}  # src/engine/cuda is where CUDA lives; the rest of the engine room is checked apart
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
# src/op is compiled against LibTorch's stable ABI, src/op/autograd against the full one: what each may include of
# LibTorch, and which of src/op's headers hold tensors of the stable one.
STABLE_TORCH = re.compile(r"^torch/(headeronly|csrc/stable|csrc/inductor/aoti_torch/c)/")
STABLE_ONLY = re.compile(r"^torch/csrc/(stable|inductor/aoti_torch/c)/")
FULL_ROOM = "op/autograd/"
CUDA = re.compile(r"^(cuda|cute/|cutlass/|cudnn|cublas|nccl|thrust/|cub/)")
BANNED = {"fast", "optimized", "new", "v2", "utils", "helpers", "common", "misc"}
# Modules that stand in for another library's have its names.
FOREIGN_NAMES = "python/longstride/compat"
# Text is parsed in one place, where it is bounded first.
JSON_READER = "core/json.cc"
PARSES_JSON = re.compile(r"\b(?:json|Json)::(?:parse|sax_parse|accept)\s*\(")
CODE = {".cc", ".h", ".cu", ".cuh", ".cpp", ".hpp", ".inl"}
LONG_LINES = 400
LONG_FUNCTION = 100
# Longer, and meant to be: a table; and the roles of a warp-specialised kernel, which are read from top to bottom.
LONG_FUNCTIONS = {
    "src/factory/legacy_tables.cc": {"all_classes"},
    "src/engine/cuda/sm90/backward.cuh": {"consume_backward"},
    "src/engine/cuda/sm90/backward_load.cuh": {"produce_backward"},
    "src/engine/cuda/sm90/forward.cuh": {"consume"},
    "src/engine/cuda/sm90/gradient.cuh": {"consume_gradient"},
}
# A function as clang-format writes it, outside a class or in one: its bracket closes at the indent of its first line.
OPENS_FUNCTION = re.compile(r"^ *(?! |(namespace|class|struct|union|enum|extern|for|while|if|switch|do)\b|\}|//|#)\S.*\{$")
ENDS_BEFORE = re.compile(r"[;{}>]$|^\s*(//|#)|^ *\w+:$")
FUNCTION_NAME = re.compile(r"([\w~]+|operator\S+)\s*\(")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def owner(header):
    """The room of the public header longstride/<header>."""
    stem = header.split("/")[0].removesuffix(".h")
    return HEADER_ROOM.get(stem, stem)


def engine_part(path):
    """The engine that a file below engine/ belongs to ("cpu", "cuda/sm90"), or "" for what they share."""
    parts = path.split("/")[1:-1]
    if not parts:
        return ""
    if parts[0] == "cuda" and len(parts) > 1 and parts[1].startswith("sm"):
        return "/".join(parts[:2])
    return parts[0]


def engines_apart(mine, theirs):
    """Whether a part of the engine room may not know another: each knows itself and what it shares, but what is shared
    knows no engine, or they would reach each other through it."""
    return theirs != "" and not f"{mine}/".startswith(f"{theirs}/")


class Checker:
    def __init__(self, root):
        self.root = root
        self.errors = []
        self.notes = []

    def error(self, path, text):
        self.errors.append(f"{path.relative_to(self.root)}: {text}")

    def files(self, folder):
        base = self.root / folder
        return sorted(p for p in base.rglob("*") if p.is_file()) if base.is_dir() else []

    def includes(self, path):
        return INCLUDE.findall(path.read_text(encoding="utf-8"))

    def check_room_file(self, path, src):
        inside = path.relative_to(src).as_posix()
        room = inside.split("/")[0]
        if room not in PRIVATE:
            self.error(path, f"there is no room '{room}'; one of {sorted(PRIVATE)}")
            return
        if inside != JSON_READER and PARSES_JSON.search(path.read_text(encoding="utf-8")):
            self.error(path, "parses JSON; call parse_json() or read_json() of src/core/json.h")
        for quote, name in self.includes(path):
            if quote == "<" or TORCH.match(name) or CUDA.match(name):
                self.check_outside(path, inside, room, name)
            elif name.startswith("longstride/"):
                self.check_public(path, room, name)
            else:
                self.check_private(path, inside, room, name, src)

    def check_outside(self, path, inside, room, name):
        if room in NO_TORCH and TORCH.match(name):
            self.error(path, f"includes <{name}>, but room '{room}' knows no torch")
        if TORCH.match(name) and inside.startswith(FULL_ROOM) and STABLE_ONLY.match(name):
            self.error(path, f"includes <{name}>, but src/{FULL_ROOM} is in LibTorch's full ABI")
        if TORCH.match(name) and room == "op" and not inside.startswith(FULL_ROOM) and not STABLE_TORCH.match(name):
            self.error(path, f"includes <{name}>, but src/op is in LibTorch's stable ABI; that is for src/{FULL_ROOM}")
        cuda_may_be = room not in NO_CUDA and not (room == "engine" and not inside.startswith("engine/cuda/"))
        if CUDA.match(name) and not cuda_may_be:
            self.error(path, f"includes <{name}>, but only src/engine/cuda and the rooms above it know CUDA")
        if name.startswith("longstride/"):
            self.error(path, f"includes <{name}>; write \"{name}\"")

    def check_public(self, path, room, name):
        theirs = owner(name.removeprefix("longstride/"))
        if not (self.root / "include" / name).is_file():
            self.error(path, f"includes {name}, which is not in include/")
        elif theirs != room and PUBLIC[room] is not None and theirs not in PUBLIC[room]:
            self.error(path, f"includes {name} of room '{theirs}', which room '{room}' may not know")

    def check_private(self, path, inside, room, name, src):
        # Beside the file, or counted from src/.
        target = path.parent / name if (path.parent / name).is_file() else src / name
        if not target.is_file():
            if self.is_generated(path.parent, name):
                return
            self.error(path, f"includes \"{name}\", which is neither beside it nor in src/")
            return
        target_inside = target.resolve().relative_to(src.resolve()).as_posix()
        theirs = target_inside.split("/")[0]
        if theirs == room:
            if room == "op":
                self.check_torch_worlds(path, inside, target_inside, src)
            if room == "engine" and engines_apart(engine_part(inside), engine_part(target_inside)):
                self.error(path, f"includes {target_inside}: engines do not know each other")
            return
        allowed = PRIVATE[room]
        if theirs not in allowed and target_inside.rsplit(".", 1)[0] not in allowed:
            self.error(path, f"includes {target_inside} of room '{theirs}', which room '{room}' may not know")

    def check_torch_worlds(self, path, mine, theirs, src):
        """Between src/op and src/op/autograd: the kernels know nothing of the latter, and it sees no stable tensor."""
        if mine.startswith(FULL_ROOM) == theirs.startswith(FULL_ROOM):
            return
        if theirs.startswith(FULL_ROOM):
            self.error(path, f"includes {theirs}, but src/op is in LibTorch's stable ABI")
        elif self.holds_stable_tensors(src / theirs, src, set()):
            self.error(path, f"includes {theirs}, which holds tensors of LibTorch's stable ABI")

    def holds_stable_tensors(self, path, src, seen):
        seen.add(path)
        for _, name in self.includes(path):
            if STABLE_ONLY.match(name):
                return True
            if (src / name).is_file() and src / name not in seen and self.holds_stable_tensors(src / name, src, seen):
                return True
        return False

    def is_generated(self, folder, name):
        """Whether the build writes this header: the folder's CMakeLists.txt names it as a byproduct."""
        lists = folder / "CMakeLists.txt"
        return lists.is_file() and re.search(rf"BYPRODUCTS\s+\S*/{re.escape(name)}", lists.read_text(encoding="utf-8"))

    def check_public_header(self, path):
        name = path.relative_to(self.root / "include").as_posix()
        room = owner(name.removeprefix("longstride/"))
        if room not in PUBLIC:
            self.error(path, f"belongs to no room; name it after one, or enter it in HEADER_ROOM of {__file__}")
            return
        for quote, included in self.includes(path):
            if included.startswith("longstride/"):
                self.check_public(path, room, included)
            elif quote == '"' and not TORCH.match(included):
                self.error(path, f"includes \"{included}\"; a public header includes public headers, torch and std")
            elif room in NO_TORCH and TORCH.match(included):
                self.error(path, f"includes <{included}>, but room '{room}' knows no torch")
            elif CUDA.match(included):
                self.error(path, f"includes <{included}>; a public header knows no CUDA")
            elif "/" in included and not TORCH.match(included) and not included.startswith("sys/"):
                self.error(path, f"includes <{included}>; a public header includes public headers, torch and std")

    def check_oracle(self, path):
        for quote, name in self.includes(path):
            own = (path.parent / name).is_file() or name.startswith("oracle/")
            if name.startswith("longstride/") or (quote == '"' and not own and not TORCH.match(name)):
                self.error(path, f"includes {name}; the oracle includes nothing of src/ or include/")

    def check_python(self, path):
        for quote, name in self.includes(path):
            if quote == '"' and not name.startswith("longstride/") and not (path.parent / name).is_file():
                self.error(path, f"includes \"{name}\"; Python's binding knows public headers only")

    def check_bench(self, path, src):
        """A measurement may look into every room below the program, and at what a test measures its bounds on."""
        for quote, name in self.includes(path):
            if name.startswith("longstride/"):
                if quote == "<":
                    self.error(path, f"includes <{name}>; write \"{name}\"")
                elif not (self.root / "include" / name).is_file():
                    self.error(path, f"includes {name}, which is not in include/")
            elif quote == '"' and not (path.parent / name).is_file():
                room = name.split("/")[0]
                if room == "test" and (self.root / name).is_file():
                    continue
                if not (src / name).is_file():
                    self.error(path, f"includes \"{name}\", which is neither beside it nor in src/")
                elif room == "cli":
                    self.error(path, f"includes {name} of room 'cli', which bench/ may not know")

    def check_outer_links(self, path, folder):
        """What python/ and bench/ link to: Python's binding the library alone, a measurement any room but the program's."""
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        for words in re.findall(r"target_link_libraries\s*\(([^)]*)\)", text):
            for word in re.findall(r"(?<![:\w])longstride_(\w+)", words.split(None, 1)[1]):
                if folder == "python" or word in ("cli", "program", "oracle", "cases"):
                    self.error(path, f"links to longstride_{word}, which {folder}/ may not know")

    def check_links(self, path, src):
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        calls = [(m[1], m[2]) for m in re.finditer(r"longstride_room\s*\(\s*(\w+)([^)]*)\)", text)]
        calls += [(m[1], m[2]) for m in re.finditer(r"target_link_libraries\s*\(\s*longstride_(\w+)([^)]*)\)", text)]
        for target, rest in calls:
            room = self.room_of(target)
            if room is None:
                continue
            for word in re.findall(r"\blongstride_(\w+)", rest):
                theirs = self.room_of(word)
                if theirs is None:
                    if word in ("program", "oracle"):
                        self.error(path, f"longstride_{target} links to longstride_{word}")
                elif theirs == room == "engine" and target != word:
                    self.error(path, f"longstride_{target} links to longstride_{word}: engines do not know each other")
                elif theirs != room and theirs not in LINKS[room]:
                    self.error(path, f"longstride_{target} links to longstride_{word}, which room '{room}' may not know")

    @staticmethod
    def room_of(target):
        return next((r for r in LINKS if target == r or target.startswith(r + "_")), None)

    def check_name(self, path):
        if path.is_relative_to(self.root / FOREIGN_NAMES):
            return
        words = set(re.split(r"[._\-]", path.name.lower()))
        words |= set(re.split(r"[._\-]", path.parent.name.lower()))
        bad = words & BANNED
        if bad:
            self.error(path, f"its name says '{sorted(bad)[0]}'; name it for its one role")

    def check_length(self, path, bounded):
        lines = path.read_text(encoding="utf-8").split("\n")
        count = len(lines) - 1
        if count > LONG_LINES and bounded:
            self.error(path, f"has {count} lines, more than {LONG_LINES}; split it by role")
        elif count > LONG_LINES:
            self.notes.append(f"{path.relative_to(self.root)}: {count} lines (over {LONG_LINES}); has it one role?")
        if bounded:
            self.check_functions(path, lines)

    def check_functions(self, path, lines):
        meant = LONG_FUNCTIONS.get(path.relative_to(self.root).as_posix(), set())
        for opened, line in enumerate(lines):
            if not OPENS_FUNCTION.match(line):
                continue
            first = opened  # its name may stand some lines above its bracket
            while first > 0 and lines[first - 1].strip() and not ENDS_BEFORE.search(lines[first - 1]):
                first -= 1
            head = " ".join(lines[first : opened + 1])
            closing = re.match(" *", lines[first])[0] + "}"
            end = next((n for n in range(opened + 1, len(lines)) if lines[n].startswith(closing)), len(lines))
            name = FUNCTION_NAME.search(head)
            if end - first >= LONG_FUNCTION and name and name[1] not in meant:
                text = f"has {end - first + 1} lines, more than {LONG_FUNCTION}; give its phases names"
                self.error(path, f"{name[1]} {text}")

    def run(self):
        src = self.root / "src"
        checked = 0
        for folder in ("include", "src", "oracle", "python", "test", "bench", "examples", "tools", "cmake"):
            for path in self.files(folder):
                if "__pycache__" in path.parts:
                    continue
                self.check_name(path)
                if path.suffix in CODE:
                    checked += 1
                    self.check_length(path, folder in ("src", "include"))
                    if folder == "src":
                        self.check_room_file(path, src)
                    elif folder == "include":
                        self.check_public_header(path)
                    elif folder == "oracle":
                        self.check_oracle(path)
                    elif folder == "python":
                        self.check_python(path)
                    elif folder == "bench":
                        self.check_bench(path, src)
                elif folder in ("python", "bench") and path.name == "CMakeLists.txt":
                    self.check_outer_links(path, folder)
                elif folder == "src" and path.name == "CMakeLists.txt":
                    self.check_links(path, src)
        if checked == 0:
            self.errors.append(f"no C++ file below {self.root}")
        return checked


def main(arguments):
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(arguments[0]) if arguments else pathlib.Path(__file__).resolve().parent.parent
    checker = Checker(root.resolve())
    checked = checker.run()
    for note in checker.notes:
        print(f"layers: note: {note}")
    for error in checker.errors:
        print(f"layers: {error}", file=sys.stderr)
    if checker.errors:
        return 1
    print(f"layers: {checked} files keep to their rooms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
