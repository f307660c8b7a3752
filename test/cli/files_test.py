"""Files that the program reads and writes: names of any bytes, outputs that cannot be written, inputs that cannot be read."""

import json
import os
import pathlib
import shutil
import subprocess
import xml.etree.ElementTree

import program
from program import TINY, ProgramTest

BAD = b"bad\xff.txt"
# The rule of src/core/json.h: byte b that is no part of UTF-8 is U+EF00 + b.
BAD_IN_JSON = "bad\uefff.txt"


class AnyNames(ProgramTest):
    """Paths are bytes, and JSON is UTF-8: nothing is lost between them."""

    def setUp(self):
        super().setUp()
        self.names = os.fsencode(self.folder) + b"/\xff\xfe"
        os.mkdir(self.names)
        self.bad = self.names + b"/" + BAD
        with open(self.bad, "wb") as file:
            file.write(b"one two three four\n" * 200)

    def program(self, *words, code=0):
        done = subprocess.run([os.fsencode(program.PROGRAM), *(os.fsencode(str(w)) if not isinstance(w, bytes) else w for w in words)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200)
        self.assertEqual(done.returncode, code, done)
        return done

    def test_a_run_on_such_a_text_saves_resumes_and_reports(self):
        out, log = self.names + b"/out\x80", self.names + b"/log\xe9"
        done = self.program("train", self.bad, "--out", out, *TINY, "--steps", "4", "--stop-after", "2", "--log", log, "--json")
        summary = json.loads(done.stdout)
        self.assertTrue(summary["checkpoint"].endswith("/out\uef80/step-00000002"), summary)
        state = json.loads(pathlib.Path(os.fsdecode(out), "latest/state.json").read_text("utf-8"))
        self.assertTrue(state["settings"]["data"][0].endswith(BAD_IN_JSON))
        again = json.loads(self.program("train", "--resume", out, "--json").stdout)
        self.assertEqual((again["status"], again["steps"], again["steps_this_sitting"]), ("finished", 4, 2))
        with open(log, encoding="utf-8") as lines:
            events = [json.loads(line) for line in lines]
        self.assertEqual(events[0]["settings"]["data"], state["settings"]["data"])
        scored = json.loads(self.program("eval", out, "--contexts", "64", "--scored", "32", "--json", "--quiet").stdout)
        self.assertIn("out\uef80", scored["checkpoint"])
        made = json.loads(self.program("generate", out, "--length", "3", "--prompt", b"\xff", "--json").stdout)
        self.assertEqual((made["prompt_bytes"], made["bytes"]), (1, 3))

    def test_settings_copied_into_a_config_name_the_same_file(self):
        config = self.folder / "c.json"
        config.write_text(json.dumps({"data": [os.fsencode(self.folder).decode() + "/\uefff\ueffe/" + BAD_IN_JSON]}))
        self.json("train", "--config", config, "--out", self.folder / "run", *TINY, "--steps", "1")

    def test_names_of_patterns_and_pictures(self):
        file, picture = self.names + b"/p\xff.json", self.names + b"/p\xff.svg"
        pattern = {"causal": True, "dilated": {"segment_lengths": [8, 24], "dilation_rates": [1, 2]}}
        with open(file, "w") as out:
            json.dump(pattern, out)
        found = json.loads(self.program("compare", file, "--len", "32", "--picture", picture, "--json").stdout)
        self.assertEqual(found["patterns"][0]["name"], "p\uefff")
        words = "".join(xml.etree.ElementTree.parse(os.fsdecode(picture)).getroot().itertext())
        self.assertIn("p\ufffd", words)  # for people: what is no character is shown as such

    def test_options_that_are_no_text(self):
        for words, says in ((["--positions", b"\xff"], b"positions"), (["--activation", b"\xfe\xff"], b"activation"),
                            (["--precision", b"\xff"], b"--precision"), (["--preset", b"\xff"], b"preset")):
            done = self.program("train", self.text, "--steps", "1", *words, code=2)
            self.assertIn(says, done.stderr)


class Outputs(ProgramTest):
    """What cannot be written is refused before the work, and nothing stays behind."""

    def writers(self):
        """Of every option that names an output: the command without it."""
        pattern = self.folder / "p.json"
        pattern.write_text(json.dumps({"dilated": {"segment_lengths": [8], "dilation_rates": [1]}}))
        return [(["show"], "--picture"), (["show"], "--plan-picture"),
                (["bench", "--lens", "64,128", "--no-memory", "--repeats", "1"], "--curve"),
                (["bench", "--len", "64", "--no-memory", "--repeats", "1"], "--save"),
                (["compare", pattern, "--len", "64"], "--picture"),
                (["eval", self.folder / "run", "--contexts", "64", "--scored", "32"], "--curve"),
                (["train", self.text, "--out", self.folder / "out", *TINY, "--steps", "1"], "--log")]

    def test_every_output_of_every_command(self):
        self.train("run", "--eval-windows", "0", steps=1)
        folder, file = self.folder / "folder.svg", self.folder / "file"
        folder.mkdir()
        file.write_text("kept")
        (self.folder / "dangling.svg").symlink_to("absent/x.svg")
        (self.folder / "loop.svg").symlink_to("loop.svg")
        places = [("", "got ''"), (folder, "it is a folder"), (file / "x.svg", "Not a directory"),
                  (self.folder / "absent" / "x.svg", "there is no folder"), ("/proc/x.svg", "no file can be made"),
                  ("/sys/x.svg", "/sys/x.svg"), (self.folder / "dangling.svg", "there is no folder"),
                  (self.folder / "loop.svg", "links"), (self.folder / ("x" * 300 + ".svg"), "too long")]
        for turn, (words, option) in enumerate(self.writers()):
            before = sorted(self.folder.rglob("*"))
            # One option meets them all; a process each is too slow for all of all.
            for place, says in places if turn == 0 else [places[(3 * turn + i) % len(places)] for i in range(3)] + places[4:5]:
                with self.subTest(command=words[0], option=option, place=str(place)[-20:]):
                    message = self.refused(*words, option, place, says=option)
                    self.assertIn(says, message)
            self.assertEqual(sorted(self.folder.rglob("*")), before)
        self.assertEqual(file.read_text(), "kept")

    def test_out_of_train(self):
        file = self.folder / "file"
        file.write_text("kept")
        (self.folder / "dangling").symlink_to("absent")
        before = sorted(self.folder.rglob("*"))
        for place, says in [("", "got ''"), (file, "is a file"), (file / "run", "is a file"), ("/proc/x", "cannot write into"),
                            ("/sys/x/y", "cannot write into"), (self.folder / "dangling", "leads to no folder"),
                            (self.folder / "a" / ("x" * 300), "too long")]:
            with self.subTest(place=str(place)[-20:]):
                self.refused("train", self.text, *TINY, "--steps", "1", "--out", place, says=says)
        # Refused for its text after the folder was tried: no folder is left.
        self.refused("train", self.folder / "absent", *TINY, "--steps", "1", "--out", self.folder / "a/b/c", says="no such file")
        self.assertEqual(sorted(self.folder.rglob("*")), before)

    def test_what_stood_there_survives_what_fails(self):
        log, picture = self.folder / "log", self.folder / "p.svg"
        log.write_text("old\n")
        picture.write_text("old")
        self.refused("train", self.folder / "absent", *TINY, "--steps", "1", "--log", log, says="no such file")
        self.assertEqual(log.read_text(), "old\n")
        self.refused("show", "--picture", picture, "--head", "9", says="--head")
        self.assertEqual(picture.read_text(), "old")

        def limit_files():
            import resource
            import signal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

        self.call("show", "--picture", picture, code=1, preexec_fn=limit_files)
        self.assertEqual(picture.read_text(), "old")
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name.startswith(".")], [])
        os.chmod(picture, 0o640)
        self.call("show", "--picture", picture)
        self.assertTrue(picture.read_text().endswith("</svg>\n"))
        self.assertEqual(picture.stat().st_mode & 0o777, 0o640)

    def test_links_and_devices(self):
        (self.folder / "link.svg").symlink_to("real.svg")
        self.call("show", "--picture", self.folder / "link.svg")
        self.assertTrue((self.folder / "link.svg").is_symlink())
        self.assertTrue((self.folder / "real.svg").read_text().endswith("</svg>\n"))
        bench = ["bench", "--len", "64", "--no-memory", "--repeats", "1", "--no-dense", "--no-official", "--no-per-group"]
        done = self.call(*bench, "--save", "/dev/stdout")
        self.assertIn(b'"brgemm_gflops"', done.stdout)
        self.assertIn(b"/dev/full", self.call(*bench, "--save", "/dev/full", code=1).stderr)
        self.assertTrue(pathlib.Path("/dev/full").is_char_device())


class Inputs(ProgramTest):
    """What cannot be read is refused in the program's own words."""

    def test_folders_and_absent_files_where_files_belong(self):
        run = self.folder / "run"
        self.train("run", "--eval-windows", "0", steps=1)
        (self.folder / "loop").symlink_to("loop")
        train = ["train", self.text, "--steps", "1", *TINY, "--out", self.folder / "out"]
        bare = ["train", self.text, "--steps", "1", "--out", self.folder / "out"]
        for words, option in ((train, "--config"), (["generate", run], "--prompt-file"), (["show"], "--pattern"),
                              (["bench"], "--pattern"), (bare, "--pattern")):
            for place, says in ((self.text, "a folder"), (self.folder / "absent", "file"),
                                ("", "must not be empty"), ("/proc/self/mem", "")):
                with self.subTest(command=words[0], option=option, place=place):
                    self.assertIn(option, self.refused(*words, option, place, says=says))
        self.refused("train", self.folder / "loop", "--steps", "1", says="symbolic links")
        self.refused("train", "/dev/null", "--steps", "1", says="neither a file nor a folder")
        self.refused("compare", self.folder / "loop", says="symbolic links")
        self.refused("generate", run, "--prompt-file", "-", says="--prompt-file", preexec_fn=lambda: os.close(0))
        self.assertFalse((self.folder / "out").exists())

    def test_a_part_of_a_text_that_cannot_be_read(self):
        nobody = shutil.which("setpriv")
        if os.geteuid() == 0:  # who reads everything
            self.assertTrue(nobody, "install util-linux for setpriv, or run this test as another user than root")
        user = [nobody, "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        os.chmod(self.folder, 0o755)
        out = self.folder / "out"
        out.mkdir()
        os.chmod(out, 0o777)
        inner = self.text / "inner"
        inner.mkdir()
        (inner / "more.py").write_text("x = 1\n" * 100)
        for part in inner, self.text / "part_00.py":
            os.chmod(part, 0)
            done = subprocess.run([*user, program.PROGRAM, "train", self.text, "--steps", "1", *TINY, "--out", out / "run"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200)
            self.assertEqual(done.returncode, 2, done)
            self.assertIn(f"cannot read '{part}': Permission denied", done.stderr.decode())
            os.chmod(part, 0o755)
        # A hidden folder is passed over, readable or not.
        inner.rename(self.text / ".inner")
        os.chmod(self.text / ".inner", 0)
        done = subprocess.run([*user, program.PROGRAM, "train", self.text, "--steps", "1", *TINY, "--out", out / "run"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200)
        self.assertEqual(done.returncode, 0, done)

    def test_a_state_that_says_what_cannot_be(self):
        self.train("run", "--stop-after", "1", "--eval-windows", "0")
        file = self.folder / "run/latest/state.json"
        whole = json.loads(file.read_text())
        wrong = [("position", "fingerprint", value) for value in ("", "xyz", "0" * 15, "0" * 17, "-" + "0" * 15, 7, None)]
        wrong += [("position", "step", value) for value in (-1, 2**63, 2**64 - 1, 1.5, "1", None)]
        wrong += [("position", "threads", value) for value in (0, 5000, 2**64 - 1)]
        wrong += [("position", "seconds", value) for value in (-1, "x")]
        wrong += [("files", "model.safetensors", value) for value in (3, {}, {"bytes": "x"}, {"bytes": -1, "fnv1a": ""})]
        wrong += [("settings", "lr", value) for value in ("x", None)]
        for part, key, value in wrong:
            damaged = json.loads(json.dumps(whole))
            damaged[part][key] = value
            file.write_text(json.dumps(damaged))
            with self.subTest(part=part, key=key, value=value):
                self.refused("train", "--resume", self.folder / "run", says="corrupt")
        file.write_text(json.dumps(whole | {"format": "x"}))
        self.refused("train", "--resume", self.folder / "run", says="format")
        file.unlink()
        file.mkdir()
        self.refused("train", "--resume", self.folder / "run", says="state.json")


if __name__ == "__main__":
    program.main()
