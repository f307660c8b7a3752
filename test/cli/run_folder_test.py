"""Folders of runs: which run goes on when a checkpoint is resumed, copies in which `latest` is no link, nothing lost."""

import os
import pathlib
import resource
import shutil

import program
from program import TINY, ProgramTest


def contents(folder):
    """Names and bytes of the files of a checkpoint."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class RunFolder(ProgramTest):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        self.train("run", "--save-every", "2", "--stop-after", "4", "--eval-windows", "0", steps=20)

    def resume(self, path, *words, steps=2, **more):
        return self.json("train", "--resume", path, "--stop-after", steps, "--eval-windows", "0", "--quiet", *words, **more)

    def names(self, folder=None):
        return sorted(entry.name for entry in (folder or self.run_folder).iterdir())

    def copy(self, name="copy", follow=True):
        """A copy as `cp -rL` makes it, or one that leaves links out."""
        def links(folder, names):
            return [] if follow else [n for n in names if (pathlib.Path(folder) / n).is_symlink()]
        return pathlib.Path(shutil.copytree(self.run_folder, self.folder / name, symlinks=False, ignore=links))


class Owner(RunFolder):
    def test_the_run_that_owns_the_checkpoint_goes_on(self):
        for step, path in (6, "latest"), (8, "latest/"), (10, "step-00000008"), (12, "./step-00000010/."):
            done = self.resume(f"{self.run_folder}/{path}")
            self.assertEqual(pathlib.Path(done["checkpoint"]), self.run_folder / f"step-{step:08}")
            self.assertEqual(os.readlink(self.run_folder / "latest"), f"step-{step:08}")
            self.assertEqual(self.names(), ["latest", f"step-{step - 2:08}", f"step-{step:08}"])
            for name in self.names():
                self.assertNotIn("latest", self.names(self.run_folder / name))
        # Nothing of it was lost: it ends where an uninterrupted run does.
        self.assertEqual(self.json("train", "--resume", self.run_folder)["status"], "finished")
        self.train("once", "--eval-windows", "0", steps=20)
        for name in "model.safetensors", "training.safetensors":
            self.assertEqual((self.run_folder / "latest" / name).read_bytes(), (self.folder / "once/latest" / name).read_bytes())

    def test_from_within_the_folders(self):
        self.assertEqual(self.resume("latest", cwd=self.run_folder)["checkpoint"], "./step-00000006")
        done = self.resume(".", cwd=self.run_folder / "latest")
        self.assertEqual(pathlib.Path(done["checkpoint"]), self.run_folder.resolve() / "step-00000008")
        self.assertEqual(self.resume("..", cwd=self.run_folder / "latest")["steps"], 10)
        self.assertEqual(self.names(), ["latest", "step-00000008", "step-00000010"])

    def test_an_older_step_is_refused_and_branches_off(self):
        old = self.run_folder / "step-00000002"
        before = {name: contents(self.run_folder / name) for name in self.names()}
        for says in "is not the newest checkpoint", "step-00000004'; go on", f"--resume {self.run_folder},", f"--resume {old} --out":
            self.refused("train", "--resume", old, says=says)
        branch = self.folder / "branch"
        self.assertEqual(self.resume(old, "--out", branch)["steps"], 4)
        self.assertEqual(self.names(branch), ["latest", "step-00000004"])
        self.assertEqual({name: contents(self.run_folder / name) for name in self.names()}, before)
        for name in "model.safetensors", "training.safetensors":  # the same steps, so the same bytes
            self.assertEqual((branch / "latest" / name).read_bytes(), (self.run_folder / "latest" / name).read_bytes())
        self.assertEqual(self.resume(branch)["steps"], 6)
        self.refused("train", "--resume", old, "--out", branch, says="already holds a run")
        # A branch is saved even where no step is left to do.
        self.assertEqual(self.resume(self.run_folder, "--steps", "4", "--out", self.folder / "end")["steps"], 4)
        self.assertEqual(self.names(self.folder / "end"), ["latest", "step-00000004"])

    def test_a_checkpoint_outside_of_a_run_wants_a_place(self):
        for name in "model", "step-00000004":
            alone = self.folder / "alone" / name
            shutil.copytree(self.run_folder / "latest", alone)
            self.refused("train", "--resume", alone, says=f"--resume {alone} --out FOLDER")
            self.assertEqual(self.names(alone.parent), [name])
            self.assertEqual(self.resume(alone, "--out", self.folder / f"on-{name}")["steps"], 6)
            shutil.rmtree(alone)

    def test_nothing_is_written_where_it_is_removed_later(self):
        inside = self.run_folder / "step-00000004"
        new = ["train", self.text, *TINY, "--steps", "1"]
        for out, says in ((inside, "is a checkpoint itself"), (self.run_folder / "latest", "is a checkpoint itself"),
                          (inside / "deep/er", "lies in the checkpoint"), (self.run_folder / "latest/er", "lies in the checkpoint"),
                          (self.run_folder / "step-99", "lies in the checkpoint")):
            with self.subTest(out=out):
                self.refused(*new, "--out", out, says=says)
        self.refused("train", "--resume", self.run_folder, "--log", self.run_folder / "latest/log", says="--log: ")
        self.assertEqual(len(self.names(inside)), 4)
        # Not in a run, these are names like any other.
        for name in "step-3", "latest":
            self.json(*new, "--out", self.folder / "other" / name)
            self.assertEqual(self.resume(self.folder / "other" / name, "--steps", "3")["steps"], 3)

    def test_a_run_that_lies_in_a_checkpoint_survives(self):
        # As earlier versions left it behind.
        nested = self.run_folder / "step-00000002"
        shutil.copytree(self.run_folder / "step-00000004", nested / "step-00000004")
        (nested / "latest").symlink_to("step-00000004")
        self.refused("train", "--resume", nested / "latest", says=f"the run '{nested}' lies in the checkpoint")
        self.resume(self.run_folder, "--save-every", "1", steps=4)
        self.assertEqual(self.names(), ["latest", "step-00000002", "step-00000007", "step-00000008"])
        self.assertEqual(self.resume(nested / "latest", "--out", self.folder / "out")["steps"], 6)

    def test_only_what_a_killed_save_left_is_removed(self):
        for name in "step-notes", "step-00000001.old", ".step-by-step":
            (self.run_folder / name).mkdir()
        (self.run_folder / ".step-00000006.partial-1-0").mkdir()
        (self.run_folder / ".latest.partial-1-0").symlink_to("step-00000002")
        self.resume(self.run_folder)
        self.assertEqual(self.names(), [".step-by-step", "latest", "step-00000001.old", "step-00000004", "step-00000006",
                                        "step-notes"])


class Copies(RunFolder):
    def check_readable(self, run):
        # The model of step 4, whatever `latest` is.
        words = ["--length", "20", "--seed", "1", "--quiet"]
        self.assertEqual(self.call("generate", run, *words).stdout, self.call("generate", self.run_folder, *words).stdout)
        scored = [self.json("eval", folder, "--contexts", "64", "--scored", "64", "--windows", "2")["contexts"]
                  for folder in (run, self.run_folder)]
        self.assertEqual(scored[0], scored[1])
        compared = self.json("compare", run, self.run_folder, "--windows", "1")["patterns"]
        self.assertEqual([entry["steps"] for entry in compared], [4, 4])

    def test_a_copy_that_followed_the_link(self):
        copy = self.copy()
        self.assertFalse((copy / "latest").is_symlink())
        self.check_readable(copy)
        self.refused("train", self.text, *TINY, "--steps", "1", "--out", copy, says="already holds a run")
        self.assertEqual(self.resume(copy)["steps"], 6)
        self.assertEqual(self.names(copy), ["latest", "step-00000004", "step-00000006"])
        self.assertEqual(os.readlink(copy / "latest"), "step-00000006")
        self.assertEqual(contents(copy / "step-00000004"), contents(self.run_folder / "step-00000004"))
        again = self.copy("again")
        self.assertEqual(self.resume(again / "latest")["checkpoint"], str(again / "step-00000006"))
        third = self.copy("third")
        self.assertEqual(self.resume(third / "step-00000004")["checkpoint"], str(third / "step-00000006"))

    def test_the_only_copy_of_a_checkpoint_is_kept(self):
        copy = self.copy()
        latest = contents(copy / "latest")
        shutil.rmtree(copy / "step-00000004")
        self.assertEqual(self.resume(copy)["steps"], 6)
        self.assertEqual(self.names(copy), ["latest", "step-00000004", "step-00000006"])
        self.assertEqual(contents(copy / "step-00000004"), latest)

    def test_another_checkpoint_at_latest_is_kept(self):
        copy = self.copy()
        latest = contents(copy / "latest")
        shutil.rmtree(copy / "step-00000004")
        shutil.copytree(copy / "step-00000002", copy / "step-00000004")  # the name is taken by something else
        self.assertEqual(self.resume(copy)["steps"], 6)
        self.assertEqual(self.names(copy), ["latest", "latest.kept-1", "step-00000004", "step-00000006"])
        self.assertEqual(contents(copy / "latest.kept-1"), latest)

    def test_a_save_that_fails_leaves_the_copy_as_it_was(self):
        copy = self.copy()
        before = {name: contents(copy / name) for name in self.names(copy)}
        self.call("train", "--resume", copy, "--eval-windows", "0", "--quiet", code=1,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)))
        self.assertEqual({name: contents(copy / name) for name in self.names(copy)}, before)
        self.check_readable(copy)

    def test_a_copy_without_the_link(self):
        copy = self.copy(follow=False)
        self.assertEqual(self.names(copy), ["step-00000002", "step-00000004"])
        self.check_readable(copy)
        self.refused("train", self.text, *TINY, "--steps", "1", "--out", copy, says="already holds a run")
        self.assertEqual(self.resume(copy)["steps"], 6)
        self.assertEqual(os.readlink(copy / "latest"), "step-00000006")

    def test_each_wrong_latest_says_what_to_do(self):
        def folder(latest):
            latest.mkdir()
            (latest / "x").write_text("mine")

        newest = self.run_folder / "step-00000004"
        for make, says in ((lambda latest: latest.symlink_to("step-00000009"), "is a link to 'step-00000009', which is not there"),
                           (lambda latest: latest.symlink_to("latest"), "is a link that leads round in a circle"),
                           (lambda latest: latest.symlink_to(self.text), f"is a link to '{self.text}', which is no checkpoint"),
                           (lambda latest: latest.write_text("step-00000004"), "is a file"),
                           (folder, "is a folder that holds no checkpoint")):
            latest = self.run_folder / "latest"
            latest.unlink()
            make(latest)
            word = f"'{latest}' {says}; move it away, and '{newest}' takes its place"
            with self.subTest(says=says):
                for command in (["generate"], ["train", "--resume"]):
                    self.refused(*command, self.run_folder, says=word)
                self.refused("train", self.text, *TINY, "--steps", "1", "--out", self.run_folder, says="already holds a run")
            latest.rename(self.folder / f"away-{len(self.names(self.folder))}")
            self.assertEqual(self.resume(self.run_folder, "--steps", "4")["steps"], 4)  # the word was right
            latest.symlink_to("step-00000004")
        shutil.rmtree(newest)
        shutil.rmtree(self.run_folder / "step-00000002")
        self.refused("generate", self.run_folder, says="there is no other checkpoint in that folder")

    def test_links_that_lead_nowhere_in_place_of_the_run(self):
        (self.folder / "circle").symlink_to("circle")
        (self.folder / "broken").symlink_to("absent")
        for command in (["generate"], ["eval"], ["compare"], ["train", "--resume"]):
            self.refused(*command, self.folder / "circle", says="circle")
            self.refused(*command, self.folder / "broken", says="broken")


if __name__ == "__main__":
    program.main()
