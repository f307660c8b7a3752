"""Lines for people and for the log that cannot be written are dropped: train saves, generate and eval finish, and nothing
lands in a file that it was not meant for."""

import json
import os
import pty
import resource
import signal
import subprocess

import program
from program import TINY, ProgramTest


def closing(*descriptors):
    return lambda: [os.close(d) for d in descriptors]


class BrokenOutput(ProgramTest):
    def broken_errors(self):
        """(what it is, keywords of subprocess.run) of each standard error that takes no line."""
        ours, theirs = os.pipe()
        os.close(ours)
        self.addCleanup(os.close, theirs)
        full = open("/dev/full", "wb")
        self.addCleanup(full.close)
        readonly = open("/dev/null", "rb")
        self.addCleanup(readonly.close)
        return [("a pipe that nobody reads", {"stderr": theirs}), ("a full disk", {"stderr": full}),
                ("opened for reading", {"stderr": readonly}), ("closed", {"preexec_fn": closing(2)})]

    def call_broken(self, *words, code=0, **more):
        """As call, but for a standard error that is not caught."""
        words = [str(program.PROGRAM), *(str(w) for w in words)]
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=1200, **{"stderr": None, **more})
        self.assertEqual(done.returncode, code, f"{' '.join(words)}\n{done.stdout!r}")
        return done

    def test_train_goes_on_and_saves(self):
        for i, (name, broken) in enumerate(self.broken_errors()):
            with self.subTest(name):
                run = self.folder / f"run-{i}"
                done = self.call_broken("train", self.text, "--out", run, *TINY, "--steps", "3", "--eval-every", "1", "--json", **broken)
                self.assertEqual(json.loads(done.stdout)["status"], "finished")
                self.assertEqual(os.readlink(run / "latest"), "step-00000003")
                done = self.call_broken("train", "--resume", run, "--steps", "4", "--threads", "1", "--json", **broken)
                self.assertEqual(json.loads(done.stdout)["steps"], 4)

    def test_generate_and_eval_finish(self):
        self.train("run", "--eval-windows", "0")
        run = self.folder / "run"
        first = sorted(self.text.iterdir())[0]
        first.write_text(first.read_text() + "x = 1\n")  # so that eval has a note to tell
        generate = ["generate", run, "--length", "9", "--seed", "1", "--raw"]
        score = ["eval", run, "--contexts", "64,128", "--scored", "64"]
        compare = ["compare", json.dumps({"causal": True, "dilated": {"segment_lengths": [8], "dilation_rates": [1]}}), "--len", "64"]
        for words in generate, score, compare:
            right = self.call(*words).stdout
            self.assertTrue(right)
            for name, broken in self.broken_errors():
                with self.subTest(name, command=words[0]):
                    self.assertEqual(self.call_broken(*words, **broken).stdout, right)

    def test_bad_usage_keeps_its_exit_code(self):
        for name, broken in self.broken_errors():
            with self.subTest(name):
                self.call_broken("train", self.text, "--stepps", "3", code=2, **broken)
                self.call_broken("eval", self.folder / "absent", code=2, **broken)

    def test_no_line_lands_in_a_file_that_got_a_closed_descriptor(self):
        log = self.folder / "log"
        for closed in (2,), (0, 2), (0, 1, 2):
            out = self.folder / f"run-{len(closed)}"
            # With standard output closed the summary has nowhere to go; the run is saved all the same.
            process = subprocess.run([program.PROGRAM, "train", self.text, "--out", out, *TINY, "--steps", "3", "--log", log],
                                     preexec_fn=closing(*closed), timeout=1200)
            with self.subTest(closed=closed):
                if 1 not in closed:
                    self.assertEqual(process.returncode, 0)
                events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
                self.assertEqual((events[0], events[-1], events.count("step")), ("start", "end", 3))
                for file in (out / "latest").iterdir():  # the digests are checked too
                    self.assertNotIn(b"held out", file.read_bytes())
                self.call("generate", out, "--length", "2", "--quiet")

    def test_a_prompt_from_a_closed_standard_input_is_refused(self):
        self.train("run", "--eval-windows", "0", steps=1)
        done = self.call("generate", self.folder / "run", "--prompt-file", "-", code=2, preexec_fn=closing(0))
        self.assertIn(b"standard input", done.stderr)

    def test_a_terminal_that_goes_away_lets_the_run_save(self):
        log = self.folder / "log"
        ours, theirs = pty.openpty()
        process = subprocess.Popen([program.PROGRAM, "train", self.text, "--out", self.folder / "run", *TINY, "--steps", "100000",
                                    "--log", log], stdout=subprocess.PIPE, stderr=theirs)
        self.addCleanup(lambda: (process.kill(), process.communicate()))
        os.close(theirs)
        while not (log.exists() and log.read_text().count('"event":"step"') >= 3):
            os.read(ours, 4096)  # a bar is drawn
            self.assertIsNone(process.poll())
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=1200)
        self.assertEqual(process.returncode, 130)
        steps = json.loads(log.read_text().splitlines()[-1])["steps"]
        self.assertEqual(os.readlink(self.folder / "run/latest"), f"step-{steps:08}")

    def test_nohup_is_heeded(self):
        log = self.folder / "log"
        process = subprocess.Popen([program.PROGRAM, "train", self.text, "--out", self.folder / "run", *TINY, "--steps", "30", "--log",
                                    log, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.addCleanup(lambda: (process.kill(), process.communicate()))
        while not (log.exists() and '"event":"step"' in log.read_text()):
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=1200)
        self.assertEqual((process.returncode, json.loads(out)["status"]), (0, "finished"))


class BrokenLog(ProgramTest):
    def test_a_log_that_cannot_be_written_is_told_once(self):
        done = self.call("train", self.text, "--out", self.folder / "run", *TINY, "--steps", "3", "--log", "/dev/full", "--json", "--quiet")
        summary = json.loads(done.stdout)
        self.assertEqual((summary["status"], summary["steps"]), ("finished", 3))
        self.assertEqual(summary["log_lines_dropped"], 10)  # start, 4 evaluations, 3 steps, save, end
        [note] = [line for line in done.stderr.decode().splitlines() if "the log" in line]
        self.assertIn("cannot write the log '/dev/full': No space left on device", note)
        self.assertEqual(os.readlink(self.folder / "run/latest"), "step-00000003")
        done = self.call("train", "--resume", self.folder / "run", "--steps", "4", "--log", "/dev/full", "--eval-windows", "0")
        self.assertIn(b"log: 4 lines could not be written", done.stdout)  # resume, step, save, end

    def test_a_pipe_that_nobody_reads_any_more(self):
        reader, writer = os.pipe()
        os.close(reader)
        result = self.json("train", self.text, "--out", self.folder / "run", *TINY, "--steps", "3", "--log", f"/dev/fd/{writer}",
                           "--eval-windows", "0", pass_fds=[writer])
        os.close(writer)
        self.assertEqual((result["status"], result["log_lines_dropped"]), ("finished", 6))
        self.assertEqual(os.readlink(self.folder / "run/latest"), "step-00000003")

    def test_a_full_disk_leaves_whole_lines(self):
        log, limit = self.folder / "log", 1 << 20
        before = (b'{"event":"before"}\n' * limit)[-(limit - 1500):]
        before = before[before.index(b"\n") + 1:]
        log.write_bytes(before)
        self.train("run", "--eval-windows", "0", "--stop-after", "1", steps=20)
        result = self.json("train", "--resume", self.folder / "run", "--log", log, "--eval-windows", "0",
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        self.assertEqual((result["status"], result["steps"]), ("finished", 20))
        after = log.read_bytes()
        self.assertEqual(after[:len(before)], before)
        lines = [json.loads(line) for line in after[len(before):].splitlines()]
        self.assertTrue(after.endswith(b"\n"))
        # resume, 19 steps, save, end; the first line of settings does not fit, then some steps do.
        self.assertEqual(len(lines) + result["log_lines_dropped"], 22)
        self.assertIn("step", [line["event"] for line in lines])

    def test_a_log_that_cannot_be_opened_is_refused_before_the_work(self):
        self.refused("train", self.text, "--out", self.folder / "run", *TINY, "--steps", "1", "--log", self.folder, says="--log")
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    program.main()
