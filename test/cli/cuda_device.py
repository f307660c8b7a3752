"""--device cuda of train, eval and generate, beside the same runs on the CPU. Needs a GPU, and the tests of TwoGpus two;
without them it fails. ctest does not run it.

usage: cuda_device.py --program BUILD/bin/longstride --python PYTHON [OneGpu | TwoGpus]
"""

import json
import signal

import program
from program import TINY, ProgramTest
from ranks import ONE_THREAD, RanksTest

# Without dropout both devices compute the same step, in float32 within rounding; AdamW's first steps, which divide each
# gradient by its own size, make more of that.
CLOSE = 1e-3
PLAIN = ["--dropout", "0", "--attention-dropout", "0"]


class OnGpus:
    def assert_close(self, a, b, what):
        self.assertLessEqual(abs(a - b), CLOSE * max(1.0, abs(a)), (what, a, b))

    def assert_same_end(self, a, b):
        self.assertEqual((a["status"], a["steps"]), (b["status"], b["steps"]))
        for what in "loss", "held_out_bits_per_byte":
            self.assert_close(a[what], b[what], what)


class OneGpu(OnGpus, ProgramTest):
    def test_a_run_is_that_of_the_cpu(self):
        cpu = self.train("cpu", *PLAIN)
        gpu = self.train("gpu", *PLAIN, "--device", "cuda")
        self.assert_same_end(cpu, gpu)
        self.assertNotIn("peak_device_bytes", cpu)
        self.assertGreater(gpu["peak_device_bytes"], 0)
        files = [sorted(p.name for p in (self.folder / out / "latest").iterdir()) for out in ("cpu", "gpu")]
        self.assertEqual(*files)

    def test_bf16_dropout_and_recomputation(self):
        for options in (["--precision", "bf16"], ["--dropout", "0.1", "--attention-dropout", "0.1"],
                        ["--precision", "bf16", "--checkpoint-activations", "--dropout", "0.1"], ["--positions", "alibi"]):
            with self.subTest(options=options):
                said = self.train("-".join(options), "--device", "cuda", *options, "--lr", "0.01", steps=40)
                self.assertLess(said["held_out_bits_per_byte"], said["held_out_bits_per_byte_before"] - 1)

    def test_a_run_goes_on_on_the_other_device(self):
        whole = self.train("whole", *PLAIN)
        for first, second in ("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda:0"):
            with self.subTest(first=first, second=second):
                out = f"{first}-{second[:4]}"
                self.train(out, *PLAIN, "--stop-after", "2", "--device", first)
                self.assert_same_end(whole, self.json("train", "--resume", self.folder / out, "--device", second))

    def test_dropout_is_drawn_alike_after_a_resume(self):
        options = ["--dropout", "0.3", "--attention-dropout", "0.3", "--device", "cuda"]
        whole = self.train("whole", *options)
        self.train("halves", *options, "--stop-after", "2")
        self.assert_same_end(whole, self.json("train", "--resume", self.folder / "halves", "--device", "cuda"))

    def test_eval_and_generate(self):
        self.train("run", "--lr", "0.01", "--device", "cuda", steps=60)
        found = [self.json("eval", self.folder / "run", self.text, "--contexts", "64,128", "--scored", "32",
                           "--device", device)
                 for device in ("cpu", "cuda")]
        for mine, its in zip(*(table["contexts"] for table in found), strict=True):
            self.assert_close(mine["bits_per_byte"], its["bits_per_byte"], mine)
        said = [self.call("generate", self.folder / "run", "--length", "40", "--temperature", "0", "--prompt", "def ", "--quiet",
                          "--device", device).stdout for device in ("cpu", "cuda", "cuda:0")]
        self.assertEqual(said[0], said[1])
        self.assertEqual(said[0], said[2])
        self.call("generate", self.folder / "run", "--length", "40", "--precision", "bf16", "--device", "cuda", "--quiet")

    def test_names_the_gpu(self):
        self.train("run", "--device", "cuda", "--log", self.folder / "log", steps=1)
        machine = json.loads((self.folder / "log").read_text().splitlines()[0])["machine"]
        self.assertRegex(machine, r"^cuda:0 \(.+\), LibTorch .* engine cuda")

    def test_a_gpu_that_is_not_there(self):
        absent = self.folder / "absent"
        for command in ["train", absent, "--out", self.folder / "run", *TINY, "--steps", "1"], ["eval", absent]:
            said = self.refused(*command, "--device", "cuda:99", says="--device must be one of the GPUs cuda:0 to cuda:")
            self.assertIn("got cuda:99; start no more ranks on a machine than it has GPUs", said)
        self.assertFalse((self.folder / "run").exists())


class MixedRanks(OnGpus, RanksTest):
    """Two ranks on one GPU: what goes wrong there is told, by each."""

    def environment(self, rank, ranks, port):
        return {**super().environment(rank, ranks, port), "LOCAL_RANK": "0"}

    def test_one_on_the_cpu(self):
        started = self.start(2, self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2", "--quiet",
                             last=["--device", "cuda"])
        for out, err in self.finish(started, code=2):
            self.assertIn('device must be the same on every rank, got "cpu" on rank 0 and "cuda" on rank 1', err)

    def test_both_on_one_gpu(self):
        started = self.start(2, self.text, "--out", self.folder / "run", *ONE_THREAD, "--steps", "1", "--batch", "2", "--quiet",
                             "--eval-windows", "0", "--device", "cuda", "--rank-timeout", "60")
        for out, err in self.finish(started, code=1):
            self.assertIn("the sum of the gradients over the ranks failed: the backend says: ", err)
            self.assertEqual(err.count("longstride: "), 1, err)


class TwoGpus(OnGpus, RanksTest):
    GPUS = ["--device", "cuda", *PLAIN]

    def test_two_ranks_are_one_run(self):
        for shared in 1, 2:
            with self.subTest(context_parallel=shared):
                options = ["--batch", "4", "--eval-windows", "3", *self.GPUS]
                one = self.one_process(f"one{shared}", *options)
                two = self.on_ranks(2, f"two{shared}", *options, "--context-parallel", shared)
                self.assert_same_end(one, two)
                self.resume_on(1, f"two{shared}", "--steps", "6")

    def test_a_killed_rank_ends_the_other(self):
        for killed, shared in (1, 1), (0, 1), (1, 2):
            with self.subTest(killed=killed, shared=shared):
                name = f"killed{killed}{shared}"
                started = self.endless(2, name, "--save-every", "1", "--context-parallel", shared, "--rank-timeout", "20",
                                       *self.GPUS)
                started[killed].send_signal(signal.SIGKILL)
                _, err = started[1 - killed].communicate(timeout=120)
                self.assertEqual(started[1 - killed].returncode, 1, err)
                who = "no word from rank 1" if killed == 1 else "which rank 0 or torchrun holds, has ended"
                self.assertIn(who, err.decode())
                self.assertEqual(err.count(b"longstride: "), 1, err)
                self.json("train", "--resume", self.folder / name, "--stop-after", "1", "--eval-windows", "0", "--device", "cuda")


if __name__ == "__main__":
    program.main()
