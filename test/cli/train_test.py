"""longstride train: it learns, resumes bit for bit, and survives Ctrl-C and kill -9."""

import json
import os
import pathlib
import pty
import resource
import signal
import subprocess
import time

import program
from program import TINY, ProgramTest

MODEL, MOMENTS = "model.safetensors", "training.safetensors"


class Train(ProgramTest):
    def files(self, out):
        return {name: (self.folder / out / "latest" / name).read_bytes() for name in (MODEL, MOMENTS)}

    def start(self, out, *words):
        """A long run in the background, with a checkpoint a step."""
        process = subprocess.Popen([program.PROGRAM, "train", self.text, "--out", self.folder / out, *TINY, "--steps", "100000",
                                    "--eval-windows", "0", "--quiet", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(lambda: (process.kill(), process.communicate()))
        return process

    def wait_for_steps(self, out, log, steps):
        for _ in range(3000):
            if log.exists() and log.read_text().count('"event":"step"') >= steps:
                return
            time.sleep(0.02)
        self.fail("the run made no steps in a minute")

    def test_loss_falls_and_the_log_tells(self):
        log = self.folder / "log.jsonl"
        result = self.train("run", "--lr", "1e-2", "--batch", "4", "--log", log, steps=60)
        self.assertEqual(result["status"], "finished")
        self.assertEqual(result["steps"], 60)
        before, after = result["held_out_bits_per_byte_before"], result["held_out_bits_per_byte"]
        self.assertGreater(before, 7.0)
        self.assertLess(after, 4.5)  # 8 bits untrained; the letters and spaces alone, without any context, cost 4.1
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        steps = [line for line in lines if line["event"] == "step"]
        self.assertEqual([line["step"] for line in steps], list(range(1, 61)))
        self.assertEqual(lines[0]["event"], "start")
        self.assertEqual(lines[-1]["event"], "end")
        self.assertLess(steps[0]["lr"], steps[3]["lr"])
        self.assertLess(steps[-1]["lr"], 0.002)
        self.assertGreater(result["peak_memory_bytes"], 10 << 20)

    def resumes_bit_for_bit(self, *words):
        once = self.train("once", *words, steps=6)
        self.assertEqual(self.train("parts", *words, "--stop-after", "3", steps=6)["status"], "paused")
        parts = self.json("train", "--resume", self.folder / "parts")
        self.assertEqual((parts["status"], parts["steps"], parts["steps_this_sitting"]), ("finished", 6, 3))
        self.assertEqual(self.files("once"), self.files("parts"))
        self.assertEqual(once["loss"], parts["loss"])

    def test_resume_is_bit_for_bit_with_dropout_and_accumulation(self):
        self.resumes_bit_for_bit("--dropout", "0.1", "--attention-dropout", "0.1", "--accumulate", "2", "--batch", "2")

    def test_resume_is_bit_for_bit_in_bf16_with_recomputation(self):
        self.resumes_bit_for_bit("--precision", "bf16", "--checkpoint-activations", "--dropout", "0.1")

    def test_resume_is_bit_for_bit_with_alibi(self):
        self.resumes_bit_for_bit("--positions", "alibi")
        config = json.loads((self.folder / "once" / "latest" / "config.json").read_text())
        self.assertEqual(config["config"]["positions"], "alibi")
        self.call("generate", self.folder / "once", "--prompt", "abc", "--length", "8", "--quiet")

    def test_resume_is_bit_for_bit_while_the_context_grows(self):
        log = self.folder / "log.jsonl"
        self.resumes_bit_for_bit("--context-from", "16", "--batch", "2", "--step-bytes", "64")
        self.train("logged", "--context-from", "16", "--batch", "2", "--log", log, steps=6)
        contexts = [line["context"] for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "step"]
        self.assertEqual(contexts, [16, 16, 32, 64, 64, 128])

    def test_forwards_of_a_short_context_take_more_samples(self):
        def losses(name, *options):
            log = self.folder / f"{name}.jsonl"
            self.train(name, "--context-from", "64", *options, "--log", log, steps=4)
            lines = map(json.loads, log.read_text().splitlines())
            return [(line["context"], line["loss"]) for line in lines if line["event"] == "step"]

        one, two, filled = losses("one"), losses("two", "--batch", "2"), losses("filled", "--step-bytes", "128")
        self.assertEqual(filled[0], two[0])  # 64 bytes, twice
        self.assertNotEqual(filled[0], one[0])
        self.assertEqual(filled[-1][0], 128)  # one sample is enough

    def test_resume_is_bit_for_bit_over_epochs(self):
        one = self.folder / "one.txt"
        one.write_bytes(b"".join(bytes([65 + i % 26]) for i in range(700)))
        once = self.train("once", "--batch", "3", steps=9, text=one)
        self.train("parts", "--batch", "3", "--stop-after", "4", steps=9, text=one)
        self.assertEqual(self.json("train", "--resume", self.folder / "parts")["loss"], once["loss"])
        self.assertEqual(self.files("once"), self.files("parts"))

    def test_the_seed_matters_and_repeats(self):
        for out, seed in ("a", 1), ("b", 1), ("c", 2):
            self.train(out, "--seed", seed, "--eval-windows", "0")
        self.assertEqual(self.files("a"), self.files("b"))
        self.assertNotEqual(self.files("a"), self.files("c"))

    def test_recomputing_activations_changes_nothing(self):
        self.train("kept", "--dropout", "0.1", "--attention-dropout", "0.1")
        self.train("recomputed", "--dropout", "0.1", "--attention-dropout", "0.1", "--checkpoint-activations")
        self.assertEqual(self.files("kept"), self.files("recomputed"))

    def test_ctrl_c_saves_and_stops(self):
        log = self.folder / "log"
        process = self.start("run", "--log", log)
        self.wait_for_steps("run", log, 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=1200)
        self.assertEqual(process.returncode, 130, err)
        step = json.loads((self.folder / "run/latest/state.json").read_text())["position"]["step"]
        self.assertGreaterEqual(step, 3)
        self.assertEqual(step, json.loads(log.read_text().splitlines()[-1])["steps"])
        self.assertIn(b"interrupted", out)
        again = self.json("train", "--resume", self.folder / "run", "--stop-after", "2", "--eval-windows", "0")
        self.assertEqual(again["steps"], step + 2)

    def test_a_second_ctrl_c_kills(self):
        # The second signal may come when the run has stopped by itself; then it is tried again.
        for attempt in range(10):
            if b"interrupted" not in self.killed_by_two_signals(f"run{attempt}"):
                self.call("generate", self.folder / f"run{attempt}", "--length", "2", "--quiet")  # a whole checkpoint
                return
        self.fail("ten runs stopped by themselves before a second signal came")

    def killed_by_two_signals(self, name):
        log = self.folder / f"{name}.log"
        # A step takes a second or so, in which the run means to stop by itself.
        process = self.start(name, "--log", log, "--batch", "1024", "--save-every", "1")
        self.wait_for_steps(name, log, 2)  # so the first one's checkpoint is there

        def catches():
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
            return int(caught, 16) >> (signal.SIGINT - 1) & 1

        self.assertTrue(catches())
        process.send_signal(signal.SIGINT)
        for _ in range(3000):  # until the first is noted: from then on the default holds
            if not catches():
                break
            time.sleep(0.001)
        self.assertNotEqual(process.poll(), -signal.SIGINT, "the first Ctrl-C must not kill")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=1200)
        if b"interrupted" not in out:
            self.assertEqual(process.returncode, -signal.SIGINT, out)
        return out

    def test_kill_leaves_a_whole_checkpoint(self):
        log = self.folder / "log"
        process = self.start("run", "--log", log, "--save-every", "1")
        killed_between = 0
        for round in range(5):
            self.wait_for_steps("run", log, 3)
            time.sleep(0.013 * round)
            process.kill()
            process.communicate()
            log.unlink()
            run = self.folder / "run"
            self.call("generate", run, "--length", "2", "--quiet")  # checks the digests of all files
            killed_between += sum(1 for p in run.iterdir() if p.name != os.readlink(run / "latest"))
            process = subprocess.Popen([program.PROGRAM, "train", "--resume", run, "--save-every", "1", "--quiet", "--log", log,
                                        "--eval-windows", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.addCleanup(lambda p=process: (p.kill(), p.communicate()))
        self.wait_for_steps("run", log, 2)
        self.assertGreater(killed_between, 0)

    def test_a_failed_save_leaves_the_checkpoint_before(self):
        self.train("run", "--stop-after", "2", "--eval-windows", "0")
        before = self.files("run")

        def limit_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        done = self.call("train", "--resume", self.folder / "run", "--eval-windows", "0", "--quiet", code=1,
                         preexec_fn=limit_files)
        self.assertIn(b"could not save", done.stderr)
        self.assertEqual(self.files("run"), before)
        self.assertEqual(self.json("train", "--resume", self.folder / "run")["status"], "finished")
        leftovers = [p.name for p in (self.folder / "run").iterdir() if not p.name.startswith("step-") and p.name != "latest"]
        self.assertEqual(leftovers, [])

    def test_old_checkpoints_go(self):
        self.train("run", "--save-every", "1", "--keep", "2", steps=5)
        names = sorted(p.name for p in (self.folder / "run").iterdir())
        self.assertEqual(names, ["latest", "step-00000004", "step-00000005"])
        self.assertEqual(os.readlink(self.folder / "run/latest"), "step-00000005")

    def test_a_budget_in_minutes_ends_and_counts_over_sittings(self):
        result = self.json("train", self.text, "--out", self.folder / "run", *TINY, "--minutes", "0.05", "--eval-windows", "0")
        self.assertEqual(result["status"], "finished")
        self.assertGreaterEqual(result["seconds"], 3.0)
        again = self.json("train", "--resume", self.folder / "run")
        self.assertEqual((again["status"], again["steps"]), ("finished", result["steps"]))
        more = self.json("train", "--resume", self.folder / "run", "--minutes", "0.08")
        self.assertGreater(more["steps"], result["steps"])

    def test_a_config_file_reaches_every_field_of_the_model(self):
        config = self.folder / "c.json"
        settings = {"dim": 16, "layers": 1, "heads": 2, "context": 64, "steps": 2,
                    "model": {"head_offset": "block", "fused_qkv": False, "gamma_init": 0.5}}
        config.write_text(json.dumps(settings))
        self.json("train", self.text, "--config", config, "--out", self.folder / "run")
        model = json.loads((self.folder / "run/latest/config.json").read_text())["config"]
        self.assertEqual((model["head_offset"], model["fused_qkv"], model["gamma_init"]), ("block", False, 0.5))
        for wrong, says in (({"head_ofset": "block"}, "did you mean 'head_offset'"), ({"dim": 32}, "model.dim is said"),
                            ({"gamma_init": -1}, "gamma_init must be positive"), (3, "setting 'model'")):
            config.write_text(json.dumps(settings | {"model": wrong}))
            self.refused("train", self.text, "--config", config, "--out", self.folder / "other", says=says)
            self.assertFalse((self.folder / "other").exists())

    def test_a_sliding_window(self):
        words = ["train", self.text, "--out", self.folder / "run", "--dim", 24, "--layers", 1, "--heads", 2, "--context", 128,
                 "--steps", 3]
        result = self.json(*words, "--window", 40, "--sinks", 2)
        self.assertEqual(result["status"], "finished")
        model = json.loads((self.folder / "run/latest/config.json").read_text())["config"]
        self.assertEqual(model["blocks"], [{"pattern": "sliding_window", "left": 40, "sink_tokens": 2}])
        self.assertEqual(model["segment_lengths"], [])
        self.refused(*words, "--window", 40, "--rates", 1, says="--rates")
        self.refused(*words, "--window", 40, "--pattern", "{}", says="--pattern")
        self.refused(*words, "--sinks", 2, says="--window")

    def test_presets_and_config_files_are_laid_over_each_other(self):
        config = self.folder / "c.json"
        config.write_text(json.dumps({"dim": 16, "layers": 1, "heads": 2, "context": 64, "steps": 2, "segments": [16, 64]}))
        self.json("train", self.text, "--preset", "demo", "--config", config, "--layers", "2", "--rates", "1,2",
                  "--out", self.folder / "run")
        model = json.loads((self.folder / "run/latest/config.json").read_text())["config"]
        self.assertEqual((model["dim"], model["layers"]), (16, 2))
        self.assertEqual((model["segment_lengths"], model["dilation_rates"]), ([16, 64], [1, 2]))
        state = json.loads((self.folder / "run/latest/state.json").read_text())
        self.assertEqual((state["settings"]["context"], state["settings"]["held_out_share"]), (64, 0.1))

    def test_plain_output_has_no_control_characters(self):
        done = self.call("train", self.text, "--out", self.folder / "run", *TINY, "--steps", "3")
        self.assertIn(b"held-out bits per byte", done.stdout)
        self.assertIn(b"LibTorch", done.stderr)
        self.assertNotIn(b"\x1b", done.stderr + done.stdout)
        self.assertNotIn(b"\r", done.stderr)

    def test_a_terminal_shows_one_line_that_is_rewritten(self):
        ours, theirs = pty.openpty()
        # Steps of a tenth of a second and more, for the bar is drawn ten times a second at most.
        process = subprocess.Popen([program.PROGRAM, "train", self.text, "--out", self.folder / "run", *TINY, "--batch", "64",
                                    "--steps", "8", "--eval-windows", "0"], stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        os.close(ours)
        self.assertEqual(process.wait(), 0)
        self.assertIn(b"\r[", shown)
        self.assertIn(b"bits/byte", shown)
        self.assertIn(b"left", shown)
        self.assertTrue(all(len(line) < 80 + 8 for line in shown.split(b"\r") if line.startswith(b"[")), shown)


if __name__ == "__main__":
    program.main()
