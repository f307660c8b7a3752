"""longstride eval: the table is what the definition says, and bad input is refused."""

import json
import xml.etree.ElementTree

import program
from program import ProgramTest, read_png, write_text


class Eval(ProgramTest):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        self.train("run", "--lr", "1e-2", "--batch", "2", "--eval-windows", "0", steps=20)

    def table(self, *words):
        return self.json("eval", self.run_folder, "--contexts", "64,128,256", "--scored", "64", *words)

    def test_rows(self):
        result = self.table("--windows", "5")
        self.assertEqual([row["context"] for row in result["contexts"]], [64, 128, 256])
        self.assertEqual(result["windows"], 5)
        for row in result["contexts"]:
            self.assertGreater(row["bits_per_byte"], 2.0)
            self.assertLess(row["bits_per_byte"], 8.5)
            self.assertAlmostEqual(row["gain"], result["contexts"][0]["bits_per_byte"] - row["bits_per_byte"], places=9)
        self.assertEqual(result, self.table("--windows", "5"))

    def test_a_context_is_scored_alike_in_any_list(self):
        alone = self.json("eval", self.run_folder, "--contexts", "256", "--scored", "64")["contexts"][0]["bits_per_byte"]
        self.assertAlmostEqual(alone, self.table()["contexts"][2]["bits_per_byte"], places=5)

    def test_an_untrained_model_costs_eight_bits(self):
        # Text of bytes drawn evenly: no model can know more, and one that claims less than 8 bits cheats.
        import random
        noise = self.folder / "noise.txt"
        noise.write_bytes(random.Random(1).randbytes(4000))
        result = self.json("eval", self.run_folder, noise, "--contexts", "64,256", "--scored", "64")
        for row in result["contexts"]:
            self.assertGreater(row["bits_per_byte"], 7.9)

    def test_table_and_curve(self):
        curve = self.folder / "curve.svg"
        done = self.call("eval", self.run_folder, "--contexts", "64,256", "--scored", "64", "--curve", curve)
        rows = [line.split() for line in done.stdout.decode().splitlines()]
        self.assertEqual([row[0] for row in rows[:3]], ["context", "64", "256"])
        root = xml.etree.ElementTree.parse(curve).getroot()
        self.assertTrue(root.tag.endswith("svg"))
        self.assertEqual(len([e for e in root if e.tag.endswith("circle")]), 2)

    def test_the_curve_as_png_shows_what_the_svg_does(self):
        for ending in "svg", "png":
            self.call("eval", self.run_folder, "--contexts", "64,128,256", "--scored", "64", "--windows", "3", "--curve",
                      self.folder / f"curve.{ending}")
        root = xml.etree.ElementTree.parse(self.folder / "curve.svg").getroot()
        width, height, rows = read_png(self.folder / "curve.png")
        scale = 2
        self.assertEqual((width, height), (scale * int(root.get("width")), scale * int(root.get("height"))))
        dots = [e for e in root if e.tag.endswith("circle")]
        self.assertEqual(len(dots), 3)
        for dot in dots:
            pixel = rows[round(scale * float(dot.get("cy")))][round(scale * float(dot.get("cx")))]
            self.assertEqual("#%02x%02x%02x" % pixel, dot.get("fill"))
        [curve] = [e for e in root if e.tag.endswith("polyline")]
        (x0, y0), (x1, y1) = [tuple(map(float, p.split(","))) for p in curve.get("points").split()[:2]]
        middle = rows[int(scale * (y0 + y1) / 2)][int(scale * (x0 + x1) / 2)]
        self.assertEqual("#%02x%02x%02x" % middle, curve.get("stroke"))
        ink = sum(sum(pixel) < 3 * 128 for row in rows[:100] for pixel in row)
        self.assertGreater(ink, 500)  # the title is written

    def test_other_text_and_windows_across_files(self):
        other = self.folder / "other"
        write_text(other, files=3, lines=4, seed=8)
        self.refused("eval", self.run_folder, other, "--contexts", "256", "--scored", "64", says="--across-files")
        result = self.json("eval", self.run_folder, other, "--contexts", "256", "--scored", "64", "--across-files")
        self.assertGreaterEqual(result["windows"], 1)

    def test_changed_text_is_told(self):
        first = sorted(self.text.iterdir())[0]
        first.write_text(first.read_text() + "x = 1\n")
        done = self.call("eval", self.run_folder, "--contexts", "64", "--scored", "64")
        self.assertIn(b"has changed since the run", done.stderr)

    def test_bad_input(self):
        run = self.run_folder
        self.refused("eval", run, "--contexts", "0", says="--contexts: must be a whole number from 1")
        self.refused("eval", run, "--contexts", "32", "--scored", "64", says="--contexts must be at least --scored")
        self.refused("eval", run, "--contexts", "4q", says="4q'; give it in decimal digits")
        self.refused("eval", run, "--scored", "0", says="--scored: must be a whole number from 1")
        self.refused("eval", run, "--windows", "0", says="--windows: must be a whole number from 1")
        self.refused("eval", run, "--curve", "c.gif", says="--curve: got 'c.gif', expected a file name that ends in .svg or .png")
        self.refused("eval", run, "--contexts", "64k", says="no file of the text has 65537 bytes")
        self.refused("eval", run, self.folder / "absent", says="no such file or folder")
        self.refused("eval", self.text, says="is not a checkpoint")
        self.refused("eval", run, "--context", "64", says="did you mean '--contexts'")
        model = run / "latest" / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-1])
        self.refused("eval", run, says="corrupt")


if __name__ == "__main__":
    program.main()
