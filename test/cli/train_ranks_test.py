"""longstride train on several ranks: the run of one process within rounding, resumed on any number of them; Ctrl-C, a
rank that dies, stops or fails, and bad numbers."""

import json
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import time

import program
from program import ProgramTest

MODEL = ["--dim", "24", "--layers", "2", "--heads", "3", "--segments", "32,128", "--rates", "1,4", "--threads", "1"]
SIX_HEADS = ["6" if before == "--heads" else word for before, word in zip(["", *MODEL], MODEL)]
ONE_THREAD = [*MODEL, "--context", "128"]
# Ranks add the same products in another order. The sums of a few steps of AdamW differ by some units of float32's
# roundoff; a sample that is lost, or counts twice, changes the second digit.
CLOSE = 2e-5


def tensors(path):
    """The float32 tensors of a safetensors file, by name."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            found[name] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin:8 + size + end])
    return found


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RanksTest(ProgramTest):
    def environment(self, rank, ranks, port):
        return {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port)}

    def start(self, ranks, *words, first=(), last=(), **more):
        """The processes of `ranks` ranks; `first` and `last` are words for the first and the last of them alone."""
        port, started = free_port(), []
        for rank in range(ranks):
            own = [*words, *(first if rank == 0 else ()), *(last if rank == ranks - 1 else ())]
            process = subprocess.Popen([program.PROGRAM, "train", *(str(w) for w in own)], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, env=self.environment(rank, ranks, port), **more)
            self.addCleanup(lambda p=process: (p.kill(), p.communicate()))
            started.append(process)
        return started

    def finish(self, started, code=0):
        """What each process has printed, after all have ended with `code` (one for all, or one each)."""
        said = [(out.decode(), err.decode()) for out, err in (p.communicate(timeout=1200) for p in started)]
        codes = [p.returncode for p in started]
        self.assertEqual(codes, code if isinstance(code, list) else [code] * len(started), said)
        return said

    def on_ranks(self, ranks, out, *words, steps=4, model=ONE_THREAD):
        """The summary of a run, which rank 0 alone prints."""
        words = [self.text, "--out", self.folder / out, *model, "--steps", steps, *words]
        return self.summary(self.finish(self.start(ranks, *words, "--json")))

    def summary(self, said):
        self.assertEqual([out for out, _ in said[1:]], [""] * (len(said) - 1))
        self.assertEqual([err for _, err in said[1:]], [""] * (len(said) - 1))
        return json.loads(said[0][0])

    def resume_on(self, ranks, out, *words):
        return self.summary(self.finish(self.start(ranks, "--resume", self.folder / out, "--json", *words)))

    def one_process(self, out, *words, steps=4, model=ONE_THREAD):
        return self.json("train", self.text, "--out", self.folder / out, *model, "--steps", steps, *words)

    def log(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def steps_of(self, name):
        return [line for line in self.log(name) if line["event"] == "step"]

    def torchrun(self, *words):
        """The command line; behind -- since argparse takes --log for one of torchrun's own."""
        return [str(word) for word in (program.PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port",
                                       free_port(), "--no-python", "--", program.PROGRAM, "train", *words)]

    def assert_close(self, a, b, what):
        self.assertLessEqual(abs(a - b), CLOSE * max(1.0, abs(a)), what)

    def assert_same_run(self, a, b, key_bias=range(0)):
        """Checkpoints of the same run within rounding. `key_bias`: where of a bias of q, k and v that of keys stands, if it
        is added to all keys alike and so has no gradient: its steps are those of rounding errors."""
        self.assertEqual(*(sorted(p.name for p in (self.folder / out / "latest").iterdir()) for out in (a, b)))
        mine, its = (tensors(self.folder / out / "latest" / "model.safetensors") for out in (a, b))
        self.assertEqual(mine.keys(), its.keys())
        for name in mine:
            if name.endswith("qkv_proj.bias"):
                for weights in mine, its:
                    weights[name] = [x for n, x in enumerate(weights[name]) if n not in key_bias]
            far = max(abs(x - y) for x, y in zip(mine[name], its[name], strict=True))
            self.assertLessEqual(far, CLOSE, name)

    def assert_same_steps(self, a, b):
        a, b = self.steps_of(a), self.steps_of(b)
        self.assertEqual(*([(s["step"], s["context"]) for s in steps] for steps in (a, b)))
        for mine, its in zip(a, b):
            for what in "loss", "gradient_norm", "lr":
                self.assert_close(mine[what], its[what], (what, mine, its))

    def wait_for_steps(self, log, steps, processes):
        for _ in range(60000):
            if log.exists() and log.read_text().count('"event":"step"') >= steps:
                return
            if all(p.poll() is not None for p in processes):
                self.fail([p.communicate() for p in processes])
            time.sleep(0.02)
        self.fail("the run made no steps in twenty minutes")

    def endless(self, ranks, out, *words, batch=4, **more):
        """A long run in the background that has made three steps; its processes."""
        log = self.folder / f"{out}.log"
        started = self.start(ranks, self.text, "--out", self.folder / out, *ONE_THREAD, "--steps", "100000", "--batch", batch,
                             "--eval-windows", "0", "--quiet", "--log", log, *words, **more)
        self.wait_for_steps(log, 3, started)
        return started


class SameRun(RanksTest):
    def test_two_ranks_share_the_samples(self):
        options = ["--batch", "4", "--accumulate", "2", "--eval-windows", "3"]
        one = self.one_process("one", *options, "--log", self.folder / "one.log")
        two = self.on_ranks(2, "two", *options, "--log", self.folder / "two.log")
        self.assertEqual((two["status"], two["steps"]), ("finished", 4))
        for what in "loss", "held_out_bits_per_byte_before", "held_out_bits_per_byte":
            self.assert_close(one[what], two[what], what)
        self.assert_same_steps("one.log", "two.log")
        self.assert_same_run("one", "two")
        start = self.log("two.log")[0]
        self.assertEqual((start["ranks"], start["context_parallel"]), (2, 1))

    def test_ranks_with_more_samples_than_others(self):
        # Forwards of 2 samples of 128 bytes, and of 3 of 64.
        options = ["--batch", "2", "--context-from", "64", "--step-bytes", "192", "--eval-windows", "1"]
        self.one_process("one", *options, "--log", self.folder / "one.log")
        self.on_ranks(2, "two", *options, "--log", self.folder / "two.log")
        self.assertEqual({line["context"] for line in self.steps_of("two.log")}, {64, 128})
        self.assert_same_steps("one.log", "two.log")
        self.assert_same_run("one", "two")

    def context_parallel(self, ranks, context, *options, shared=2, model=MODEL, key_bias=range(0)):
        words, model = ["--eval-windows", "3", "--batch", "2", *options], [*model, "--context", context]
        one = self.one_process("one", *words, "--log", self.folder / "one.log", model=model)
        many = self.on_ranks(ranks, "many", *words, "--context-parallel", shared, "--log", self.folder / "many.log", model=model)
        for what in "loss", "held_out_bits_per_byte_before", "held_out_bits_per_byte":
            self.assert_close(one[what], many[what], what)
        self.assert_same_steps("one.log", "many.log")
        self.assert_same_run("one", "many", key_bias)
        start = self.log("many.log")[0]
        self.assertEqual((start["ranks"], start["context_parallel"]), (ranks, shared))

    def test_two_ranks_share_a_sequence(self):
        # A context that does not divide evenly, and one that is shorter at first; recomputed layers send their rows again.
        self.context_parallel(2, 101, "--qk-norm", "--context-from", "27", "--checkpoint-activations")

    def test_three_ranks_divide_the_heads_with_alibi(self):
        self.context_parallel(3, 101, "--positions", "alibi", "--context-from", "27", shared=3, key_bias=range(24, 48))

    def test_two_pairs_of_ranks_divide_heads_of_three_queries_with_alibi(self):
        self.context_parallel(4, 96, "--positions", "alibi", "--kv-heads", "2", model=SIX_HEADS, key_bias=range(24, 32))

    def test_ranks_that_share_a_sequence_drop_the_pairs_of_one(self):
        # By the draws of a rank of its own, as there is one in each of two pairs.
        words = ["--batch", "2", "--kv-heads", "2", "--eval-windows", "2", "--checkpoint-activations"]
        dropping, model = [*words, "--attention-dropout", "0.3"], [*SIX_HEADS, "--context", "101"]
        for ranks, out, options in [(2, "two", dropping), (4, "pairs", [*dropping, "--context-parallel", 2]), (2, "none", words)]:
            self.on_ranks(ranks, out, *options, "--log", self.folder / f"{out}.log", model=model)
        self.assert_same_steps("two.log", "pairs.log")
        self.assert_same_run("two", "pairs")
        self.assertGreater(abs(self.steps_of("none.log")[0]["loss"] - self.steps_of("two.log")[0]["loss"]), 1e-4)

    def test_two_pairs_of_ranks(self):
        self.context_parallel(4, 128, "--qk-norm", "--accumulate", "2")

    def test_a_run_goes_on_on_another_number_of_ranks(self):
        options = ["--batch", "2", "--eval-windows", "0"]
        self.one_process("once", *options, steps=6)
        self.one_process("up", *options, "--stop-after", "3", steps=6)
        self.assertEqual(self.resume_on(2, "up")["steps"], 6)
        self.assert_same_run("once", "up")
        self.on_ranks(2, "down", *options, "--stop-after", "3", steps=6)
        self.assertEqual(self.json("train", "--resume", self.folder / "down")["steps"], 6)
        self.assert_same_run("once", "down")
        self.one_process("shared", *options, "--stop-after", "3", steps=6)
        self.assertEqual(self.resume_on(2, "shared", "--context-parallel", "2")["steps"], 6)
        self.assert_same_run("once", "shared")

    def test_the_same_ranks_go_on_bit_for_bit(self):
        options = ["--batch", "2", "--dropout", "0.1", "--attention-dropout", "0.1", "--eval-windows", "0"]
        for ranks, shared in (2, []), (3, ["--context-parallel", "3"]):
            once, parts = f"once{ranks}", f"parts{ranks}"
            self.on_ranks(ranks, once, *options, *shared, steps=6)
            self.on_ranks(ranks, parts, *options, *shared, "--stop-after", "3", steps=6)
            self.resume_on(ranks, parts, *shared)
            for name in "model.safetensors", "training.safetensors":
                self.assertEqual(*((self.folder / out / "latest" / name).read_bytes() for out in (once, parts)))

    def test_each_rank_draws_dropout_of_its_own(self):
        # All samples are alike, so that ranks which drew alike would have the loss of one process with one sample.
        self.text = self.folder / "alike.txt"
        self.text.write_bytes(bytes(65 + i % 32 for i in range(4095)))
        options = ["--dropout", "0.5", "--held-out-share", "0", "--eval-windows", "0"]
        one = self.one_process("one", *options, steps=1)
        two = self.on_ranks(2, "two", *options, "--batch", "2", steps=1)
        self.assertGreater(abs(one["loss"] - two["loss"]), 1e-3)

    def test_torchrun(self):
        options = ["--batch", "2", "--eval-windows", "0"]
        self.one_process("one", *options)
        line = self.torchrun(self.text, *ONE_THREAD, *options, "--out", self.folder / "two", "--steps", "4", "--json")
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(json.loads(done.stdout)["steps"], 4)
        self.assert_same_run("one", "two")


class Stopped(RanksTest):
    def position(self, out):
        return json.loads((self.folder / out / "latest/state.json").read_text())["position"]["step"]

    def test_ctrl_c_stops_all_at_one_step(self):
        for name, signalled, shared in ("all", (0, 1), 1), ("one", (1,), 1), ("sequence", (1,), 2):
            with self.subTest(name):
                started = self.endless(2, name, "--context-parallel", shared)
                for rank in signalled:
                    started[rank].send_signal(signal.SIGINT)
                said = self.finish(started, code=130)
                self.assertIn("interrupted", said[0][0])
                self.assertEqual(said[1], ("", ""))
                end, step = self.log(f"{name}.log")[-1], self.position(name)
                self.assertEqual((end["status"], end["steps"]), ("interrupted", step))
                self.assertEqual(sum(line["event"] == "save" for line in self.log(f"{name}.log")), 1)
        self.assertEqual(self.json("train", "--resume", self.folder / "all", "--stop-after", "1")["steps"],
                         self.position("all"))
        self.resume_on(2, "one", "--stop-after", "1")

    def test_ctrl_c_of_torchrun(self):
        log = self.folder / "log"
        line = self.torchrun(self.text, *ONE_THREAD, "--batch", "2", "--steps", "100000", "--eval-windows", "0",
                             "--out", self.folder / "run", "--log", log, "--quiet")
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(lambda: (process.kill(), process.communicate()))
        self.wait_for_steps(log, 3, [process])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=1200)
        self.assertEqual(self.log("log")[-1]["status"], "interrupted")
        self.assertEqual(self.log("log")[-1]["steps"], self.position("run"))

    def test_a_second_ctrl_c_kills(self):
        for attempt in range(10):
            name = f"run{attempt}"
            # Steps that take so long that the second signal comes before the run has stopped by itself.
            started = self.endless(2, name, "--save-every", "1", batch=512)
            for process in started:
                process.send_signal(signal.SIGINT)
            time.sleep(0.05)
            for process in started:
                process.send_signal(signal.SIGINT)
            codes = [p.wait(timeout=1200) for p in started]
            self.call("generate", self.folder / name, "--length", "2", "--quiet")  # a whole checkpoint
            if codes == [-signal.SIGINT] * 2:
                return
        self.fail("ten runs stopped by themselves before a second signal came")


class Failures(RanksTest):
    def test_a_killed_rank_ends_the_others(self):
        for killed, shared in (1, 1), (0, 1), (1, 2):
            with self.subTest(killed=killed, shared=shared):
                name = f"killed{killed}{shared}"
                started = self.endless(2, name, "--save-every", "1", "--context-parallel", shared)
                started[killed].kill()
                _, err = started[1 - killed].communicate(timeout=1200)
                self.assertEqual(started[1 - killed].returncode, 1, err)
                who = "no word from rank 1" if killed == 1 else "which rank 0 or torchrun holds, has ended"
                for words in f"longstride: rank {1 - killed} of 2: ", who, "the backend says: ":
                    self.assertIn(words, err.decode())
                self.assertEqual(err.count(b"longstride: "), 1)
                self.call("generate", self.folder / name, "--length", "2", "--quiet")
                self.json("train", "--resume", self.folder / name, "--stop-after", "1", "--eval-windows", "0")

    def test_a_rank_that_stops_is_given_up(self):
        started = self.endless(2, "run", "--save-every", "1", "--rank-timeout", "20")
        started[1].send_signal(signal.SIGSTOP)
        _, err = started[0].communicate(timeout=1200)
        self.assertEqual(started[0].returncode, 1, err)
        self.assertIn("no word from rank 1", err.decode())
        started[1].send_signal(signal.SIGCONT)
        _, err = started[1].communicate(timeout=1200)
        self.assertEqual(started[1].returncode, 1, err)
        self.call("generate", self.folder / "run", "--length", "2", "--quiet")

    def test_a_rank_that_never_comes(self):
        alone = self.start(2, self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2",
                           "--rank-timeout", "2")
        alone[1].kill()
        said = self.finish(alone, code=[1, -signal.SIGKILL])
        self.assertTrue(said[0][1].startswith("longstride: rank 0 of 2: the 2 ranks did not come together at 127.0.0.1:"), said)
        self.assertEqual(said[0][1].count("\n"), 1, said)
        self.assertFalse((self.folder / "run").exists())

    def test_a_failed_save_ends_all_with_its_words(self):
        def limit_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        said = self.finish(self.start(2, self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2",
                                      "--eval-windows", "0", "--quiet", preexec_fn=limit_files), code=1)
        self.assertIn("longstride: rank 0 of 2: could not save", said[0][1])
        self.assertIn("longstride: rank 1 of 2: rank 0 has failed: could not save", said[1][1])

    def test_a_rank_that_fails_alone_is_named(self):
        started = self.start(2, self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "2", "--batch", "2", "--quiet",
                             last=["--config", self.folder / "absent.json"])
        said = self.finish(started, code=2)
        self.assertIn("longstride: rank 0 of 2: rank 1 has failed: --config ", said[0][1])
        self.assertIn("longstride: rank 1 of 2: --config ", said[1][1])


class Refused(RanksTest):
    def refused_by_all(self, ranks, *words, says, **more):
        for rank, (out, err) in enumerate(self.finish(self.start(ranks, *words, **more), code=2)):
            self.assertEqual(out, "")
            self.assertIn(says, err)
            self.assertTrue(err.startswith(f"longstride: rank {rank} of {ranks}: "), err)
            self.assertEqual(err.count("\n"), 1, err)
        self.assertFalse((self.folder / "run").exists())

    def test_a_batch_that_cannot_be_shared(self):
        self.refused_by_all(2, self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "3",
                            says="--batch must be a multiple of 2, among which samples are shared out, got 3")

    def test_ranks_that_do_not_share_evenly(self):
        line = [self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--context-parallel"]
        self.refused_by_all(2, *line, "3", says="--context-parallel must divide the number of ranks, 2, got 3")
        self.refused("train", *line, "2", says="must divide the number of ranks, 1, got 2; start ranks by torchrun")

    def test_ranks_that_do_not_divide_the_heads(self):
        line = [self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--context-parallel", "2"]
        alibi, dropout = ["--positions", "alibi"], ["--attention-dropout", "0.1"]
        for kv_heads, option, more, instead in [(3, "--positions alibi", alibi, "other --positions"),
                                                (1, "--positions alibi", [*alibi, "--kv-heads", "1"], "other --positions"),
                                                (3, "--attention-dropout", dropout, "--dropout in its place")]:
            says = (f"--context-parallel must divide the {kv_heads} heads of keys and values with {option}, got 2; "
                    f"take a divisor, a --kv-heads that it divides, or {instead}")
            self.refused_by_all(2, *line, *more, says=says)

    def test_what_every_rank_refuses_by_itself(self):
        self.refused_by_all(2, self.folder / "absent", "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2",
                            says="absent")

    def test_a_gpu_that_is_not_there(self):
        line = [self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2", "--device"]
        alike = {**self.environment(0, 2, 1), "LOCAL_RANK": "99"}
        self.environment = lambda rank, ranks, port: {**alike, "RANK": str(rank), "MASTER_PORT": str(port)}
        self.refused_by_all(2, *line, "cuda", says="--device must be ")
        self.refused_by_all(2, *line, "cuda", says="got cuda:99")
        self.refused_by_all(2, *line, "cuda:1", says="--device must be cpu or cuda on several ranks, got cuda:1")
        self.refused_by_all(2, *line, "cdua", says="unknown --device 'cdua'; one of [cpu, cuda, cuda:1]; did you mean 'cuda'?")
        del alike["LOCAL_RANK"]
        self.refused_by_all(2, *line, "cuda", says="LOCAL_RANK of the environment must be a whole number from 0")

    def test_ranks_that_differ(self):
        line = [self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2"]
        alike = "must be the same on every rank"
        self.refused_by_all(2, *line, last=["--lr", "0.5"], says=f"lr {alike}, got 0.003 on rank 0 and 0.5 on rank 1")
        self.refused_by_all(2, *line, last=["--eval-every", "3"], says=f"eval_every {alike}, got 0 on rank 0")
        other = self.folder / "other"
        program.write_text(other, files=3)
        self.refused_by_all(2, *line[1:], first=[self.text], last=[other], says=f"text {alike}")

    def test_environments_that_make_no_sense(self):
        line = ["train", self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1"]
        whole = "of the environment must be a whole number from"
        for changed, says in [({"WORLD_SIZE": None}, "lacks WORLD_SIZE; start them by torchrun"),
                              ({"MASTER_PORT": None}, "lacks MASTER_PORT"), ({"RANK": None}, "lacks RANK"),
                              ({"RANK": "2"}, f"RANK {whole} 0 to 1, got '2'"), ({"WORLD_SIZE": "two"}, f"WORLD_SIZE {whole} 1"),
                              ({"MASTER_PORT": "0"}, f"MASTER_PORT {whole} 1 to 65535")]:
            environment = {**self.environment(0, 2, 1), **changed}
            with self.subTest(**changed):
                self.refused(*line, says=says, env={k: v for k, v in environment.items() if v is not None})
        self.json(*line, env=self.environment(0, 1, 1))  # one rank of one needs nobody


if __name__ == "__main__":
    program.main()
