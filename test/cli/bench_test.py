"""longstride bench: tiny runs measure what they say with the engine they say, and bad input is refused."""

import json
import xml.etree.ElementTree

import program
from program import ProgramTest

TINY = ["--segments", "64,256", "--rates", "1,4", "--heads", "4", "--dim", "16", "--threads", "2", "--repeats", "3"]


class Bench(ProgramTest):
    def test_forward_and_backward(self):
        for words, passes in (([], "forward"), (["--backward"], "forward_backward")):
            for dtype in ("float32", "bfloat16"):
                with self.subTest(passes, dtype=dtype):
                    result = self.json("bench", *TINY, "--len", "512", "--no-memory", "--dtype", dtype, "--causal", *words)
                    self.assertEqual(result["machine"]["threads"], 2)
                    self.assertTrue(result["machine"]["commit"])
                    self.assertIn(dtype, result["brgemm_gflops"])
                    [case] = result["cases"]
                    self.assertEqual((case["pass"], case["dtype"], case["len"], case["causal"]), (passes, dtype, 512, True))
                    self.assertEqual(case["engine"], "cpu")
                    self.assertEqual(set(case["runs"]), {"dense", "official", "per_group", "longstride"})
                    for run in case["runs"].values():
                        self.assertEqual(len(run["seconds"]), 3)
                        self.assertTrue(0 < run["min"] <= run["median"] <= run["max"])
                    ours = case["runs"]["longstride"]
                    self.assertAlmostEqual(ours["useful_gflops"] * ours["median"] * 1e9 / case["useful_flops"], 1, places=6)
                    ratio = case["runs"]["dense"]["median"] / ours["median"]
                    self.assertAlmostEqual(case["speedup"]["dense"], ratio, places=6)

    def test_flops_are_those_of_the_pattern(self):
        # One group that is plain causal attention: 4 * dim a pair, and len * (len + 1) / 2 pairs a head.
        result = self.json("bench", "--segments", "128", "--rates", "1", "--len", "128", "--heads", "2", "--dim", "8",
                           "--causal", "--no-memory", "--repeats", "1")
        [case] = result["cases"]
        self.assertEqual(case["useful_flops"], 4 * 8 * 2 * 128 * 129 // 2)
        both = self.json("bench", "--segments", "128", "--rates", "1", "--len", "128", "--heads", "2", "--dim", "8",
                         "--causal", "--no-memory", "--repeats", "1", "--backward")
        self.assertEqual(both["cases"][0]["useful_flops"], 3.5 * case["useful_flops"])

    def test_memory_is_measured(self):
        # Dense attention and ours need at least nothing; the peer keeps an output for each of its groups.
        result = self.json("bench", "--segments", "4k,16k", "--rates", "1,4", "--len", "16k", "--heads", "4", "--repeats", "1",
                           "--no-dense", "--threads", "2")
        runs = result["cases"][0]["runs"]
        tensor = 16384 * 4 * 64 * 4
        for peer in ("official", "per_group"):
            self.assertGreater(runs[peer]["extra_bytes"], tensor)
            self.assertLess(runs[peer]["extra_bytes"], 40 * tensor)
        self.assertLess(runs["longstride"]["extra_bytes"], 64 * 2**20 + 3 * tensor)

    def test_a_peer_says_why_it_does_not_run(self):
        for words, why in ((["--len", "500"], "does not divide len"), (["--len", "512", "--rates", "1,3"], "multiple of its rate")):
            result = self.json("bench", *TINY[:2], *(["--rates", "1,4"] if "--rates" not in words else []), *TINY[4:], *words,
                               "--no-memory", "--no-dense")
            [case] = result["cases"]
            self.assertEqual(set(case["runs"]), {"longstride"})
            self.assertIn(why, case["refusals"]["per_group"])
            self.assertIn(why, case["refusals"]["official"])

        result = self.json("bench", *TINY, "--len", "512", "--no-memory", "--kv-heads", "2", "--no-per-group")
        [case] = result["cases"]
        self.assertEqual(set(case["runs"]), {"dense", "longstride"})
        self.assertIn("as many KV heads as heads", case["refusals"]["official"])

    def test_a_pattern_from_a_file(self):
        pattern = {"causal": True, "blocks": [{"pattern": "local_window", "block_size": 32, "window": 64}]}
        file = self.folder / "pattern.json"
        file.write_text(json.dumps(pattern))
        words = ["--len", "512", "--heads", "2", "--dim", "16", "--threads", "2", "--repeats", "2"]
        for given in file, json.dumps(pattern):
            result = self.json("bench", "--pattern", given, *words)
            [case] = result["cases"]
            self.assertEqual((case["pattern"], case["segments"], case["causal"]), (pattern, [], True))
            self.assertEqual(set(case["runs"]), {"dense", "longstride"})
            for peer in "official", "per_group":
                self.assertIn("no block patterns", case["refusals"][peer])
            # 16 blocks on the diagonal and 15 whole ones below, of 32 x 32; 4 * dim FLOPs a pair and head.
            self.assertEqual(case["useful_flops"], 4 * 16 * 2 * (16 * 32 * 33 // 2 + 15 * 32 * 32))
            # Memory is measured in processes of their own, which get the pattern too.
            self.assertGreaterEqual(case["runs"]["longstride"]["extra_bytes"], 0)
        text = self.call("bench", "--pattern", file, *words, "--no-memory", "--backward").stdout.decode()
        for word in ("blocks local_window of 32", "causal, forward + backward", "official did not run"):
            self.assertIn(word, text)
        curve = self.folder / "curve.svg"
        self.call("bench", "--pattern", file, "--lens", "128,256", "--no-memory", "--repeats", "1", "--curve", curve)
        self.assertIn("causal", "".join(xml.etree.ElementTree.parse(curve).getroot().itertext()))

    def test_a_sliding_window(self):
        words = ["--window", "64", "--sinks", "3", "--causal", "--len", "512", "--heads", "2", "--dim", "16", "--repeats", "1"]
        [case] = self.json("bench", *words)["cases"]
        pairs = sum(q + 1 if q < 64 + 3 else 65 + 3 for q in range(512))
        self.assertEqual(case["useful_flops"], 4 * 16 * 2 * pairs)
        self.assertEqual(case["pattern"]["blocks"], [{"pattern": "sliding_window", "left": 64, "right": 64, "sink_tokens": 3}])
        self.assertGreaterEqual(case["runs"]["longstride"]["extra_bytes"], 0)  # in a process that gets the window too
        text = self.call("bench", *words, "--no-memory").stdout.decode()
        self.assertIn("causal; blocks sliding_window of 64 before, 64 after, 3 sinks", text)
        self.refused("bench", "--window", "1,2,3", says="--window: got 3 numbers, expected LEFT or LEFT,RIGHT")
        self.refused("bench", "--window", "-1", says="--window: must be a whole number from 0")
        self.refused("bench", "--window", "8", "--rates", "1", says="--rates")
        self.refused("bench", "--window", "8", "--pattern", "{}", says="--pattern")
        self.refused("bench", "--sinks", "8", says="--window")

    def test_curve_and_saved_file(self):
        curve, saved = self.folder / "curve.svg", self.folder / "bench.json"
        done = self.call("bench", *TINY, "--lens", "256,512,1k", "--dense-limit", "512", "--no-memory", "--curve", curve, "--save",
                         saved)
        text = done.stdout.decode()
        for words in ("longstride is", "1024 tokens", "engine cpu", "brgemm", "dense did not run"):
            self.assertIn(words, text)
        root = xml.etree.ElementTree.parse(curve).getroot()
        for peer in ("official", "per_group", "dense"):
            self.assertIn(peer, "".join(root.itertext()))
        cases = json.loads(saved.read_text())["cases"]
        self.assertEqual([case["len"] for case in cases], [256, 512, 1024])
        self.assertEqual(["dense" in case["runs"] for case in cases], [True, True, False])

    def test_time_budget(self):
        result = self.json("bench", *TINY[:-2], "--len", "512", "--no-memory", "--repeats", "1000000", "--seconds", "0.2")
        self.assertLess(len(result["cases"][0]["runs"]["longstride"]["seconds"]), 1000000)

    def test_bad_input(self):
        self.refused("bench", "--dtype", "float3", says="did you mean 'float32'")
        self.refused("bench", "--len", "0", says="--len: must be a whole number from 1")
        self.refused("bench", "--heads", "0", says="--heads: must be a whole number from 1")
        self.refused("bench", "--dim", "0", says="--dim: must be a whole number from 1")
        self.refused("bench", "--heads", "4", "--kv-heads", "3", says="heads")
        self.refused("bench", "--segments", "8", "--rates", "1,2", says="must have the same length")
        self.refused("bench", "--suite", "gpu", says="unknown 'gpu'")
        self.refused("bench", "--suite", "cpu", "--causal", says="--suite")
        self.refused("bench", "--suite", "cpu", "--len", "64", says="--suite")
        self.refused("bench", "--suite", "cpu", "--pattern", "{}", says="--suite")
        self.refused("bench", "--pattern", self.folder / "absent.json", says="no file")
        self.refused("bench", "--pattern", '{"blocks": [{"pattern": "lokal", "block_size": 8}]}', says="lokal")
        self.refused("bench", "--pattern", "{}", "--causal", says="--causal")
        self.refused("bench", "--check", says="--check: needs --suite")
        self.refused("bench", "--curve", "c.svg", says="--curve: needs")
        self.refused("bench", "--curve", "c.gif", "--lens", "64,128", says="ends in .svg or .png")
        self.refused("bench", "--lens", "64", "--len", "64", says="--len")
        self.refused("bench", "--repeats", "0", says="--repeats: must be a whole number from 1")
        self.refused("bench", "--seconds", "-1", says="--seconds: must be a number from 0")
        self.refused("bench", "--threads", "-1", says="--threads")


if __name__ == "__main__":
    program.main()
