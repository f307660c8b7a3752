"""tools/system_needs.py on small libraries whose needs are known."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "system_needs.py"
# Of two versions of one function the linker is told which.
OLD = 'asm(".symver copy, memcpy@GLIBC_2.2.5"); extern "C" void* copy(void*, const void*, unsigned long);'
LATER = 'asm(".symver copy, memcpy@GLIBC_2.14"); extern "C" void* copy(void*, const void*, unsigned long);'
USE = "void* f(void* a, void* b, unsigned long n) { return copy(a, b, n); }"


def needs(source, other=None, beside=False, source_of_other="int x;"):
    """Exit code, output and errors of the tool on the library of a source, which needs `other` if it is given."""
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        build = ["c++", "-shared", "-fPIC", "-nostartfiles", "-x", "c++"]
        links = []
        if other:
            named = [*build, "-", "-o", at / other, f"-Wl,-soname,{other}"]
            subprocess.run(named, input=source_of_other, text=True, check=True)
            links = ["-x", "none", "-Wl,--no-as-needed", at / other]
        subprocess.run([*build, "-", "-o", at / "lib.so", *links], input=source, text=True, check=True)
        if other and not beside:
            (at / other).unlink()
        done = subprocess.run([sys.executable, TOOL, at / "lib.so"], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr


class SystemNeeds(unittest.TestCase):
    def test_the_highest_version_counts_as_a_number(self):
        self.assertEqual(needs(OLD + USE)[:2], (0, "glibc >= 2.2.5\n"))
        self.assertEqual(needs(LATER + USE)[:2], (0, "glibc >= 2.14\n"))  # and not 2.2.5 for its text

    def test_libstdcxx(self):
        code, words, _ = needs("#include <string>\nstd::string f(std::string a) { return a + a; }")
        self.assertEqual(code, 0)
        self.assertRegex(words, r"^any glibc, libstdc\+\+ with GLIBCXX_3\.4\.\d+\n$")

    def test_torchs_libraries_are_there(self):
        self.assertEqual(needs(OLD + USE, "libtorch_cpu.so")[:2], (0, "glibc >= 2.2.5; torch's: libtorch_cpu.so\n"))

    def test_what_stands_in_the_folder_is_carried_and_counts(self):
        code, words, errors = needs(OLD + USE, "libfmt.so.9", beside=True, source_of_other=LATER + USE)
        self.assertEqual((code, words, errors), (0, "glibc >= 2.14; carried: libfmt.so.9\n", ""))

    def test_what_nobody_else_has_is_an_error(self):
        code, _, errors = needs(OLD + USE, "libfmt.so.9")
        self.assertEqual((code, errors), (1, "system_needs: libfmt.so.9 would have to be carried in the wheel\n"))

    def test_what_is_no_library(self):
        with tempfile.NamedTemporaryFile(suffix=".so") as text:
            done = subprocess.run([sys.executable, TOOL, text.name], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("system_needs: ", done.stderr)


if __name__ == "__main__":
    unittest.main()
