"""tools/check_symbols.py on small libraries: one that is right, and ones with one thing wrong each."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECKER = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_symbols.py"

RIGHT = """
extern "C" int aoti_torch_listed();
extern "C" [[gnu::weak]] int torch_later();
const char* name = "_ZN2at6by_nameEv";
int f() { return aoti_torch_listed() + (torch_later ? torch_later() : 0); }
"""
LIST = """
always aoti_torch_listed  # a word for people
weak torch_later
by-name _ZN2at6by_nameEv
by-name aoti_torch_cuda_alone
"""


def check(source, listed=LIST, needed=None):
    """Exit code and output of the checker on the library of a source."""
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        (at / "list.txt").write_text(listed, encoding="utf-8")
        build = ["c++", "-shared", "-fPIC", "-x", "c++"]
        links = []
        if needed:
            subprocess.run([*build, "-", "-o", at / needed], input="int x;", text=True, check=True)
            links = ["-x", "none", "-Wl,--no-as-needed", at / needed]
        subprocess.run([*build, "-", "-o", at / "lib.so", *links], input=source, text=True, check=True)
        done = subprocess.run(
            [sys.executable, CHECKER, at / "lib.so", at / "list.txt"], capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr


class CheckSymbols(unittest.TestCase):
    def refused(self, words, *library, **options):
        code, output = check(*library, **options)
        self.assertEqual(code, 1, output)
        self.assertIn(words, output)

    def test_right(self):
        self.assertEqual(check(RIGHT), (0, "symbols: 3 of LibTorch, all listed\n"))

    def test_not_listed(self):
        self.refused("torch_other is asked for (always)", RIGHT + 'extern "C" int torch_other(); int g() { return torch_other(); }')

    def test_mangled_and_not_listed(self):
        source = RIGHT + "namespace c10 { struct S { static int f(); }; } int g() { return c10::S::f(); }"
        self.refused("_ZN3c101S1fEv is asked for", source)

    def test_looked_up_and_not_listed(self):
        self.refused("_ZN2at5otherEv is asked for (by-name)", RIGHT + 'const char* other = "_ZN2at5otherEv";')

    def test_asked_for_in_another_way(self):
        self.refused("torch_later is asked for (always), but listed as weak", RIGHT.replace("[[gnu::weak]] ", ""))

    def test_listed_in_vain(self):
        self.refused("torch_never is listed, but not asked for", RIGHT, LIST + "always torch_never\n")

    def test_nothing_of_torch(self):
        self.refused("asks LibTorch for nothing", "int f() { return 1; }")

    def test_needs_another_library_of_torchs(self):
        self.refused("libc10.so is needed", RIGHT, needed="libc10.so")

    def test_list_that_cannot_be_read(self):
        self.refused("list.txt:6: must be one of", RIGHT, LIST + "often torch_x\n")


if __name__ == "__main__":
    unittest.main()
