"""Starts longstride train on several ranks, and compares runs; of the tests of ranks."""

import json
import os
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
