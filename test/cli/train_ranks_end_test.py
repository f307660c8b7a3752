"""How longstride train ends on several ranks: by Ctrl-C, where a rank dies, stops or fails, and by bad numbers."""

import json
import resource
import signal
import subprocess
import time

import program
from ranks import ONE_THREAD, RanksTest


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
