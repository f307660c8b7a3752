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


if __name__ == "__main__":
    program.main()
