"""longstride show: counts and pictures are what the definition of the pattern says, and bad input is refused."""

import json
import pathlib
import struct
import xml.etree.ElementTree

import program
from program import ProgramTest, read_png

SVG = "{http://www.w3.org/2000/svg}"


def multiplicity(length, segments, rates, kv_head, kv_heads, causal=False, offset="modulo", documents=None, start=0):
    """m(h, q, k) from docs/semantics.md, pair by pair."""
    starts, begin = [], 0
    for document in documents or [length]:
        starts += [begin] * document
        begin += document

    def shown(q, k, g):
        if starts[q] != starts[k] or (causal and k > q):
            return False
        w, r = segments[g], rates[g]
        o = {"modulo": kv_head, "block": kv_head // -(-kv_heads // r), "group": g}[offset] % r
        a, b = q - starts[q], k - starts[k]
        return a // w == b // w and a % w % r == o and b % w % r == o

    return [[sum(shown(q, k, g) for g in range(len(segments))) for k in range(length)] for q in range(start, length)]


class Show(ProgramTest):
    def test_multiplicity_is_the_definition(self):
        cases = [
            dict(length=24, segments=[4, 8, 24], rates=[1, 2, 3], heads=4),
            dict(length=23, segments=[5, 9], rates=[2, 3], heads=3, causal=True),
            dict(length=20, segments=[8, 64], rates=[1, 4], heads=6, offset="block", causal=True),
            dict(length=21, segments=[3, 7], rates=[2, 5], heads=2, offset="group", documents=[0, 10, 11]),
            dict(length=19, segments=[6, 12], rates=[1, 2], heads=2, start=7, causal=True),
        ]
        for case in cases:
            heads = case.pop("heads")
            words = ["--len", case["length"], "--segments", ",".join(map(str, case["segments"])),
                     "--rates", ",".join(map(str, case["rates"])), "--heads", heads, "--offset", case.get("offset", "modulo")]
            words += ["--causal"] if case.get("causal") else []
            words += ["--documents", ",".join(map(str, case["documents"]))] if case.get("documents") else []
            words += ["--query-start", case["start"]] if case.get("start") else []
            for head in range(heads):
                with self.subTest(case, head=head):
                    shown = self.json("show", *words, "--head", head, "--tile-rows", "8", "--verify")
                    self.assertEqual(shown["multiplicity"], multiplicity(kv_head=head, kv_heads=heads, **case))
                    self.assertEqual(shown["verify"], "ok")

    def test_long_tiles_are_cut_for_workers(self):
        step = ["--segments", "32k", "--rates", 1, "--len", "32k", "--query-start", 32767, "--heads", 2, "--causal"]
        whole, parts = (self.json("show", *step, "--verify", "--workers", n) for n in (1, 8))
        self.assertEqual([whole["counts"][n] for n in ("split_tiles", "parts", "merged_rows")], [0, 0, 0])
        self.assertEqual([parts["counts"][n] for n in ("split_tiles", "parts", "merged_rows")], [2, 16, 16])
        self.assertEqual(parts["counts"]["seen_pairs"], whole["counts"]["seen_pairs"])
        self.assertEqual(parts["verify"], "ok")
        text = self.call("show", *step, "--workers", 8).stdout.decode()
        self.assertIn("1 tile cut into 8 parts", text)
        self.assertIn("2 tiles cut into 16 parts", text)

    def test_block_patterns_beside_groups(self):
        pattern = {"causal": True, "dilated": {"segment_lengths": [8, 24], "dilation_rates": [1, 2]},
                   "blocks": [{"pattern": "local_window", "block_size": 4, "window": 9},
                              {"pattern": "list", "block_size": 8, "blocks": [[-1, -1, 3, 0], [-1, 0, 3, 1]]}]}
        shown = self.json("show", "--pattern", json.dumps(pattern), "--len", 30, "--heads", 2, "--head", 1,
                          "--tile-rows", 8, "--verify")
        groups = multiplicity(30, [8, 24], [1, 2], 1, 2, causal=True)

        def blocks(q, k):
            return k <= q and (abs(q // 4 - k // 4) <= 3 // 2 or (q // 8, k // 8) == (3, 0))

        self.assertEqual(shown["multiplicity"],
                         [[groups[q][k] + blocks(q, k) for k in range(30)] for q in range(30)])
        self.assertEqual(shown["verify"], "ok")
        self.assertEqual(shown["pattern"]["blocks"], pattern["blocks"])

    def test_block_pattern_in_words(self):
        pattern = '{"blocks": [{"pattern": "axial", "block_size": 4}]}'
        text = self.call("show", "--pattern", pattern, "--len", 64, "--heads", 1).stdout.decode()
        self.assertIn("axial", text)
        self.assertIn("43.75 %", text)  # 4 x 4 blocks: 7 of 16 a row
        path = self.folder / "blocks.svg"
        self.call("show", "--pattern", pattern, "--len", 64, "--heads", 1, "--picture", path)
        self.assertIn("axial of 4", path.read_text())
        file = self.folder / "pattern.json"
        file.write_text(pattern)
        self.assertEqual(self.call("show", "--pattern", file, "--len", 64, "--heads", 1).stdout.decode().split("plan size")[0],
                         text.split("plan size")[0])
        self.refused("show", "--pattern", self.folder / "absent.json", says="no file")
        self.refused("show", "--pattern", pattern, "--causal", says="--causal")
        self.refused("show", "--pattern", pattern.replace("axial", "axel"), says="did you mean 'axial'")

    def test_a_sliding_window(self):
        for words, left, right, sinks, causal in ((["--window", "5"], 5, 5, 0, False), (["--window", "4,0"], 4, 0, 0, False),
                                                  (["--window", "3", "--sinks", "2", "--causal"], 3, 3, 2, True)):
            shown = self.json("show", *words, "--len", 23, "--heads", 1, "--tile-rows", 8, "--verify")
            self.assertEqual(shown["multiplicity"], [[int((q - left <= k <= q + right or k < sinks) and not (causal and k > q))
                                                      for k in range(23)] for q in range(23)])
            self.assertEqual(shown["verify"], "ok")
        path = self.folder / "window.svg"
        words = ["show", "--window", "1k", "--sinks", "4", "--causal", "--len", "64k", "--heads", "1", "--picture", path]
        text = self.call(*words).stdout.decode()
        self.assertIn("sliding_window of 1024 before, 1024 after, 4 sinks", text)
        self.assertIn("sliding_window of 1024 before", path.read_text())
        self.refused("show", "--window", "2", "--segments", "8", says="--segments")

    def test_alibi_slopes(self):
        window = ["show", "--window", "24", "--sinks", "4", "--causal", "--len", "96"]
        self.assertNotIn("alibi_slopes", self.json(*window, "--heads", 4))
        slopes = self.json(*window, "--heads", 3, "--alibi")["alibi_slopes"]
        self.assertEqual(slopes, [2.0**-4, 2.0**-8, 2.0**-2])  # of two heads, and the first of four
        path = self.folder / "slopes.svg"
        text = self.call(*window, "--heads", 3, "--alibi", "--picture", path).stdout.decode()
        self.assertRegex(text, r"0 +0.0625 +11.09 tokens")
        root = xml.etree.ElementTree.parse(path).getroot()
        words = [t.text for t in root.iter(SVG + "text")]
        self.assertIn("head 2: slope 0.25", words)
        self.assertNotIn("head 3: slope", " ".join(words))
        # The steepest head has lost the most at each distance.
        lines = [[tuple(map(float, point.split(","))) for point in line.get("points").split()]
                 for line in root.iter(SVG + "polyline")]
        self.assertEqual(len(lines), 3)
        middle = [line[len(line) // 2][1] for line in lines]
        self.assertLess(middle[1], middle[0])
        self.assertLess(middle[0], middle[2])

    def test_counts_add_up(self):
        shown = self.json("show", "--len", "96", "--segments", "16,96", "--rates", "1,4", "--heads", "4", "--causal",
                          "--tile-rows", "16")
        classes = shown["plan"]["classes"]
        for name, total in shown["counts"].items():
            self.assertEqual(total, sum(classes[c]["counts"][name] for c in shown["plan"]["class_of"]), name)
        self.assertEqual(shown["counts"]["rows"], 4 * 96)
        self.assertAlmostEqual(shown["per_row"]["seen"], shown["counts"]["seen_pairs"] / (4 * 96))
        self.assertGreaterEqual(shown["per_row"]["computed"], shown["per_row"]["seen"])
        self.assertGreater(shown["plan"]["bytes"], 0)

    def test_groups_that_show_different_pairs_are_counted_exactly(self):
        # One group: what is seen is what the definition shows, whatever the tiles are.
        shown = self.json("show", "--len", "50", "--segments", "20", "--rates", "3", "--heads", "2", "--causal")
        pairs = sum(sum(map(sum, multiplicity(50, [20], [3], head, 2, causal=True))) for head in range(2))
        self.assertEqual(shown["counts"]["seen_pairs"], pairs)

    def test_svg_shows_each_pair(self):
        path = self.folder / "pattern.svg"
        self.call("show", "--len", "16", "--segments", "4,16", "--rates", "1,4", "--heads", "1", "--picture", path)
        root = xml.etree.ElementTree.parse(path).getroot()
        self.assertEqual(root.tag, SVG + "svg")
        want = multiplicity(16, [4, 16], [1, 4], 0, 1)
        side = 560 / 16
        seen = [[False] * 16 for _ in range(16)]
        for box in root.iter(SVG + "rect"):
            x, y, w, h = (float(box.get(name, 0)) for name in ("x", "y", "width", "height"))
            if abs(h - side) < 0.01 and 84 <= x < 644 and 118 <= y < 678:  # of the large panel
                row = round((y - 118) / side)
                for column in range(round((x - 84) / side), round((x + w - 84) / side)):
                    seen[row][column] = True
        self.assertEqual(seen, [[m > 0 for m in row] for row in want])
        words = " ".join(text.text for text in root.iter(SVG + "text"))
        for word in ("key position", "query position", "segment 4, rate 1", "segment 16, rate 4"):
            self.assertIn(word, words)

    def test_png_has_a_color_for_each_pair(self):
        path = self.folder / "pattern.png"
        self.call("show", "--len", "8", "--segments", "4,8", "--rates", "1,2", "--heads", "1", "--picture", path)
        width, height, rows = read_png(path)
        self.assertEqual(width, 2000)
        self.assertEqual(height, len(rows))
        want = multiplicity(8, [4, 8], [1, 2], 0, 1)
        colors = {}
        for q in range(8):
            for k in range(8):
                pixel = rows[2 * 118 + 140 * q + 70][2 * 84 + 140 * k + 70]
                group = None if want[q][k] == 0 else "short" if q // 4 == k // 4 else "long"
                colors.setdefault((want[q][k], group), set()).add(pixel)
        self.assertEqual(colors.pop((0, None)), {(255, 255, 255)})
        self.assertEqual(set(colors), {(1, "short"), (2, "short"), (1, "long")})
        self.assertTrue(all(len(found) == 1 for found in colors.values()), colors)
        self.assertEqual(len(set.union(*colors.values())), 3, "a colour for each group and multiplicity")

    def test_plan_picture(self):
        for ending in ("svg", "png"):
            path = self.folder / f"plan.{ending}"
            self.call("show", "--len", "64", "--tile-rows", "8", "--causal", "--plan-picture", path)
            if ending == "png":
                read_png(path)
            else:
                words = " ".join(t.text for t in xml.etree.ElementTree.parse(path).getroot().iter(SVG + "text"))
                self.assertIn("level 0: stride", words)
                self.assertIn("base", words)
                self.assertIn("weight 1", words)

    def test_text(self):
        text = self.call("show", "--len", "16", "--segments", "4,16", "--rates", "1,4", "--heads", "1").stdout.decode()
        rows = [line.split()[-1] for line in text.splitlines() if line and set(line.split()[-1]) <= set(".12")
                and len(line.split()[-1]) == 16]
        want = multiplicity(16, [4, 16], [1, 4], 0, 1)
        self.assertEqual(rows, ["".join(str(m) if m else "." for m in row) for row in want])
        self.assertIn("computed", text)
        self.assertIn("nominal", text)
        self.assertNotIn("\x1b", text)

    def test_bad_input(self):
        self.refused("show", "--segments", "8,16", "--rates", "1", says="must have the same length")
        self.refused("show", "--segments", "8,0", "--rates", "1,2", says="segment")
        self.refused("show", "--offset", "modolu", says="did you mean 'modulo'")
        self.refused("show", "--heads", "4", "--kv-heads", "3", says="heads")
        self.refused("show", "--head", "4", says="--head: got 4, expected 0 to 3")
        self.refused("show", "--documents", "10,20", says="add up to 30, expected --len, which is 64")
        self.refused("show", "--query-start", "65", says="--query-start: got 65")
        self.refused("show", "--picture", "p.gif", says=".svg or .png")
        self.refused("show", "--mixing", "head_partition", "--heads", "2", says="head_partition")
        self.refused("show", "--segmets", "8", says="did you mean '--segments'")
        self.refused("show", "--tile-rows", "0", says="--tile-rows")
        self.refused("show", "--transposed", "--plan-picture", "p.svg", says="--plan-picture")
        self.refused("show", "--len", "1m", "--segments", "1m", "--rates", "1", "--heads", "1", "--causal",
                     "--tile-rows", "4", "--plan-picture", self.folder / "p.svg", says="take a smaller --len")
        self.assertFalse((self.folder / "p.svg").exists())
        self.refused("show", "--picture", self.folder / "absent" / "p.svg", says="there is no folder")

    def test_a_billion_tokens(self):
        longnet = ["--segments", "2k,4k,8k,16k,32k", "--rates", "1,2,4,8,16", "--causal", "--heads", "4"]
        shown = self.json("show", "--len", "1000m", *longnet)
        self.assertEqual(shown["counts"]["rows"] % (1000 * 2**20), 0)
        # What would take minutes or gigabytes is refused before any of it is done, and says what there is too much of.
        for words, says in ((["--segments", "16", "--rates", "1"], "segments, show takes up to 4194304"),
                            (["--segments", "2048,999999937", "--rates", "1,1"], "tiles, show takes up to 2097152"),
                            (["--pattern", '{"blocks": [{"pattern": "local_window", "block_size": 64, "window": 512}]}'],
                             "rows of blocks"),
                            (["--pattern", '{"blocks": [{"pattern": "random", "block_size": 1024, "density": 0.5}]}'],
                             "active blocks, or more")):
            self.refused("show", "--len", "100m" if "random" in words[1] else "1000m", *words, says=says)

    LONGNET = ["--segments", "16,32,64,128", "--rates", "1,2,4,8", "--len", 128, "--heads", 8, "--kv-heads", 4, "--dim", 8]

    def needed(self, positions, kv_heads, causal):
        """Rows that each rank needs of each other, by the definition: [receiver][sender]."""
        rows = [[0] * len(positions) for _ in positions]
        for head in range(kv_heads):
            seen = multiplicity(128, [16, 32, 64, 128], [1, 2, 4, 8], head, kv_heads, causal)
            for to, queries in enumerate(positions):
                for sender, keys in enumerate(positions):
                    if sender != to:
                        rows[to][sender] += sum(any(seen[q][k] for q in queries) for k in keys)
        return rows

    def test_ranks_receive_what_the_definition_shows(self):
        for ranks in (1, 2, 3, 8):
            for layout in ("contiguous", "zigzag"):
                for causal in (False, True):
                    with self.subTest(ranks=ranks, layout=layout, causal=causal):
                        shown = self.json("show", *self.LONGNET, "--ranks", ranks, "--layout", layout,
                                          *["--causal"] * causal)
                        chunks = ranks if layout == "contiguous" else 2 * ranks
                        ends = [0]
                        for i in range(chunks):
                            ends.append(ends[-1] + 128 // chunks + (i < 128 % chunks))
                        chunk = [list(range(a, b)) for a, b in zip(ends, ends[1:])]
                        held = chunk if layout == "contiguous" else [chunk[i] + chunk[-1 - i] for i in range(ranks)]
                        rows = self.needed(held, 4, causal)
                        self.assertEqual(shown["rows"], rows)
                        for rank, received in enumerate(shown["received"]):
                            self.assertEqual(received["rows"], sum(rows[rank]))
                            # K and V of 8 elements: of 2 bytes, their gradients of 4.
                            self.assertEqual(received["forward_bytes"], 2 * 8 * 2 * sum(rows[rank]))
                            self.assertEqual(received["backward_bytes"], 2 * 8 * 4 * sum(rows[rank]))
                            self.assertEqual(sum(g["forward_bytes"] for g in received["by_group"]),
                                             received["forward_bytes"])
                        self.assertEqual(shown["exchange"], "direct" if ranks > 1 else "none")
                        runs = [plan["exchange"] for plan in shown["model"]["plans"] if plan["runs"]]
                        self.assertEqual(runs[0], shown["exchange"])
                        self.assertIn("ring", runs)
                        self.assertNotIn("ladder", runs)

    def test_ranks_in_words(self):
        text = self.call("show", *self.LONGNET, "--ranks", 8, "--measured", "near_bytes=2e11,launch_s=4e-6").stdout.decode()
        for line in ("ranks     8 ranks, contiguous, 16 tokens each; 8 heads, 4 KV heads, dim 8, bfloat16",
                     "exchange  direct: one all-to-all of the rows that are needed, each once; others that run by "
                     "their names",
                     "a model, not a measurement: ms a layer on the slowest rank",
                     "figures measured: near_bytes 2e+11, launch_s 4e-06"):
            self.assertIn(line + "\n", text)
        self.assertIn("figures assumed: forward_flops 4e+14", text)
        self.assertIn("ladder (in the model alone)", text)
        grid = [line.split()[-1] for line in text.split("who sends to whom")[1].splitlines()[1:9]]
        rows = self.json("show", *self.LONGNET, "--ranks", 8)["rows"]
        self.assertEqual([[mark != "." for mark in line] for line in grid], [[n > 0 for n in row] for row in rows])
        local = self.call("show", "--segments", 16, "--rates", 1, "--len", 128, "--ranks", 2).stdout.decode()
        self.assertIn("exchange  none: every key that is seen is the rank's own", local)
        self.assertNotIn("who sends to whom", local)

    def test_the_picture_of_ranks(self):
        path = self.folder / "ranks.svg"
        self.call("show", *self.LONGNET, "--ranks", 8, "--causal", "--out", path)
        root = xml.etree.ElementTree.parse(path).getroot()
        seen = [[False] * 8 for _ in range(8)]
        for box in root.iter(SVG + "rect"):
            x, y, w, h = (float(box.get(name, 0)) for name in ("x", "y", "width", "height"))
            if w == h == 70:  # of the square
                seen[round((y - 168) / 70)][round((x - 84) / 70)] = True
        rows = self.json("show", *self.LONGNET, "--ranks", 8, "--causal")["rows"]
        self.assertEqual(seen, [[n > 0 or to == sender for sender, n in enumerate(row)] for to, row in enumerate(rows)])
        words = " ".join(text.text for text in root.iter(SVG + "text"))
        for word in ("rank that sends keys and values", "A model, not a measurement", "figures measured: none",
                     "Bytes that a rank receives forward, by group; backward 2 times as many", "128/8"):
            self.assertIn(word, words)

    def test_a_billion_tokens_on_1024_ranks(self):
        growing = ["--segments", ",".join(f"{2 << i}k" for i in range(20)), "--rates", ",".join(str(1 << i) for i in range(20)),
                   "--heads", 12, "--causal", "--dim", 64]
        path = self.folder / "ranks.png"
        shown = self.json("show", "--len", "1024m", *growing, "--ranks", 1024, "--out", path)
        self.assertEqual(max(r["rows"] for r in shown["received"]), 12 * 10240)  # docs/parallel.md, what has to travel
        self.assertNotIn("rows", shown)
        self.assertEqual(read_png(path)[0], 2000)
        text = self.call("show", "--len", "1024m", *growing, "--ranks", 1024).stdout.decode()
        self.assertIn("a cell is 32 x 32 ranks", text)
        self.assertIn("the most that any rank receives; ", text)

    def test_bad_input_of_ranks(self):
        self.refused("show", "--ranks", 0, says="--ranks")
        self.refused("show", "--ranks", 1025, says="--ranks")
        self.refused("show", "--ranks", 2, "--layout", "striped", says="--layout must be contiguous or zigzag")
        self.refused("show", "--ranks", 2, "--dtype", "float8", says="--dtype must be bfloat16, float16, float32 or float64")
        self.refused("show", "--ranks", 2, "--measured", "speed=3", says="names are forward_flops, backward_flops")
        self.refused("show", "--ranks", 2, "--measured", "launch_s=-1", says="launch_s must be positive and finite")
        self.refused("show", "--layout", "zigzag", says="--ranks")
        for option in (["--verify"], ["--tile-rows", 8], ["--head", 1], ["--query-start", 3], ["--plan-picture", "p.svg"]):
            self.refused("show", "--ranks", 2, *option, says=option[0])
        self.refused("show", "--ranks", 1024, "--heads", 65536, "--rates", "1,2,65536", "--segments", "64k,128k,1m", "--len",
                     "4m", says="steps to plan for ranks")


if __name__ == "__main__":
    program.main()
