"""Every relative link of the Markdown files leads to a file of the repository, and every #anchor to a heading."""

import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def documents():
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])


def anchors(path):
    """The anchors of a page's headings, as the usual Markdown renderers make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def broken(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"{path.relative_to(ROOT)}: {target}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{path.relative_to(ROOT)}: {target}: no such heading"


class Docs(unittest.TestCase):
    def test_links(self):
        pages = documents()
        self.assertGreater(len(pages), 5)
        self.assertEqual([problem for page in pages for problem in broken(page)], [])

    def test_broken_links_are_seen(self):
        page = ROOT / "docs" / "semantics.md"
        self.assertIn("1-who-sees-whom", anchors(page))
        self.assertNotIn("nobody", anchors(page))


if __name__ == "__main__":
    unittest.main()
