"""Files appear whole or not at all."""

import os
import socket
import subprocess
import sys

import pytest

from utils import files
from utils.errors import InputError
from utils.files import (
    check_readable,
    is_part,
    reading_problem,
    replacing,
    replacing_together,
    visible,
    write_tsv,
)

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
KEY = "annex/objects/MD5E-s4--aa.nii.gz"


class TestReadable:
    @pytest.mark.parametrize("content", ["", "anything", "version 2", "x/annex/objects/y"])
    def test_files_folders_and_nothing(self, tmp_path, content):
        (tmp_path / "file").write_text(content)
        (tmp_path / "link").symlink_to("file")
        for name in ("file", "link", ".", "nothing"):
            assert reading_problem(tmp_path / name) is None

    @pytest.mark.parametrize("content", [f"/{KEY}\n", f"../.git/{KEY}", f".git/{KEY}"])
    def test_pointers_of_git_annex(self, tmp_path, content):
        (tmp_path / "scan").write_text(content)
        problem, remedy = reading_problem(tmp_path / "scan")
        assert (
            "not downloaded" in problem and remedy == f"get it with `datalad get {tmp_path}/scan`"
        )

    def test_links_of_git_annex(self, tmp_path):
        (tmp_path / "scan").symlink_to(f".git/{KEY}")
        (tmp_path / "alias").symlink_to("scan")
        for name in ("scan", "alias"):
            with pytest.raises(InputError, match="not downloaded.*`datalad get .*`") as caught:
                check_readable(tmp_path / name)
            assert caught.value.source == str(tmp_path / name)
        (tmp_path / ".git" / "annex" / "objects").mkdir(parents=True)
        (tmp_path / ".git" / KEY).write_text("here")
        check_readable(tmp_path / "scan")

    def test_pointers_of_git_lfs(self, tmp_path):
        (tmp_path / "scan").write_text(LFS)
        problem, remedy = reading_problem(tmp_path / "scan")
        assert "not downloaded" in problem and "git lfs pull" in remedy

    @pytest.mark.parametrize(
        "stand_in, remedy",
        [
            (".a.nii.gz.icloud", "brctl download"),
            ("a.nii.gz.dvc", "a.nii.gz.dvc`"),
            ("a.nii.gz.nextcloud", "available offline"),
            ("a.nii.gz.owncloud", "available offline"),
        ],
    )
    def test_what_stands_for_a_file(self, tmp_path, stand_in, remedy):
        (tmp_path / stand_in).write_text("outs:")
        for name in ("a.nii.gz", stand_in):
            problem, what_to_do = reading_problem(tmp_path / name)
            assert problem.startswith(f"not downloaded, there is only {stand_in} of")
            assert remedy in what_to_do
        assert visible([stand_in, "b"]) == ["b", "a.nii.gz"]
        (tmp_path / "a.nii.gz").touch()
        assert reading_problem(tmp_path / "a.nii.gz") is None
        assert visible([stand_in, "b"], ["a.nii.gz"]) == ["b"]

    def test_visible_names(self):
        assert visible([".git", ".dvc", "b.nii", "a", "a.dvc", ".icloud"]) == ["b.nii", "a"]

    def test_links_into_the_cache_of_dvc(self, tmp_path):
        (tmp_path / "scan").symlink_to(".dvc/cache/files/md5/aa/bb")
        problem, remedy = reading_problem(tmp_path / "scan")
        assert "pointer of DVC" in problem and f"dvc pull {tmp_path}/scan.dvc" in remedy

    @pytest.mark.parametrize("size", [600, 3_000_000])
    def test_a_size_without_content(self, tmp_path, size):
        """As the files of clouds that are made available only when they are opened."""
        path = tmp_path / "scan.nii"
        path.touch()
        os.truncate(path, size)
        if path.stat().st_blocks:
            pytest.skip("this disk stores holes")
        problem, remedy = reading_problem(path)
        assert problem.startswith("not downloaded, it has a size") and "OneDrive" in remedy

    def test_folders_of_parts_that_are_not_there(self, tmp_path):
        """As DataLad has data sets within data sets: an empty folder, named in .gitmodules."""
        modules = '[submodule "one"]\n\tpath = raw/sub-1\n\turl = ./sub-1\n'
        for name in ("raw/sub-1", "raw/sub-2"):
            (tmp_path / name).mkdir(parents=True)
            assert reading_problem(tmp_path / name) is None
        (tmp_path / ".gitmodules").write_text(modules)
        problem, remedy = reading_problem(tmp_path / "raw/sub-1")
        assert "not downloaded" in problem and f"datalad get {tmp_path}/raw/sub-1" in remedy
        assert reading_problem(tmp_path / "raw/sub-2") is None
        (tmp_path / "raw/sub-1/file").touch()
        assert reading_problem(tmp_path / "raw/sub-1") is None
        (tmp_path / "raw/sub-1/file").unlink()
        (tmp_path / "raw/.git").touch()  # another repository begins there
        assert reading_problem(tmp_path / "raw/sub-1") is None

    def test_links_to_nothing(self, tmp_path):
        (tmp_path / "scan").symlink_to("gone")
        (tmp_path / "loop").symlink_to("loop")
        assert (
            f"a link to {tmp_path}/gone, which is not there"
            in reading_problem(tmp_path / "scan")[0]
        )
        assert "a link to" in reading_problem(tmp_path / "loop")[0]

    def test_pipes_sockets_and_devices(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "socket"))
            for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero"):
                assert "no file" in reading_problem(path)[0]


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "image.nii.gz"
    with replacing(path) as part:
        assert part.parent == path.parent and part.name.endswith(".image.nii.gz")
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_what_is_interrupted_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_temporary_name_has_endings_in_small_letters(tmp_path):
    with replacing(tmp_path / "A.b.Nii.GZ") as part:
        assert part.name.endswith(".A.b.nii.gz") and is_part(part.name)
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["A.b.Nii.GZ"]


WRITE = """
import sys, time
from pathlib import Path
from utils.files import replacing, replacing_folder
with replacing(Path(sys.argv[1]) / "last.pt") as part, replacing_folder(Path(sys.argv[1]) / "d"):
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another program that has half written a file and a folder in `tmp_path`."""
    with subprocess.Popen([sys.executable, "-c", WRITE, tmp_path], stdout=subprocess.PIPE) as found:
        found.stdout.readline()
        yield found
        found.kill()


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_program_has_left_is_cleared_away(tmp_path, writer):
    (tmp_path / ".tmp-notes").write_text("the user's own")
    assert len(names(tmp_path)) == 3
    writer.kill()
    writer.wait()
    with replacing(tmp_path / "b.pt") as part:
        part.write_text("whole")
    assert names(tmp_path) == {".tmp-notes", "b.pt"}


def test_what_another_program_is_writing_stays(tmp_path, writer):
    with replacing(tmp_path / "b.pt") as part:
        part.write_text("whole")
    assert len(names(tmp_path)) == 3


def test_two_programs_with_equal_numbers_do_not_meet(tmp_path, monkeypatch):
    """As in two containers; and a name that an attacker has guessed and linked elsewhere."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "cache.npy"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("one")
        second.write_text("two")
    assert path.read_text() == "one" and names(tmp_path) == {"cache.npy"}


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".tmp-{'0' * 16}.out.nii").symlink_to("precious")
    with pytest.raises(InputError, match="exists"), replacing(tmp_path / "out.nii") as part:
        part.write_text("overwritten")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_name_as_long_as_the_disk_takes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 248 + ".nii.gz")
    with replacing(path) as part:
        part.write_text("whole")
    assert path.read_text() == "whole"


def test_a_place_that_cannot_be_written_is_an_error_of_the_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "table.tsv"
    with pytest.raises(InputError) as caught, replacing(path, "choose another --out"):
        pass
    error = caught.value
    assert error.kind == "output" and error.source == str(path)
    assert error.remedy == "choose another --out" and "cannot be written" in error.problem


def test_cells_of_a_table(tmp_path):
    path = tmp_path / "table.tsv"
    rows = [
        {"name": "a\tb\nc", "value": 1.2345678, "unused": 1},
        {"name": "\udcff", "value": None},
        {"value": 3},
    ]
    write_tsv(path, ("name", "value"), rows, "choose another --out")
    assert path.read_text() == "name\tvalue\na b c\t1.2346\n?\t\n\t3\n"


class TestTogether:
    """Several files that are one result, of which the first is the mark."""

    @pytest.fixture
    def paths(self, tmp_path):
        return [tmp_path / "out" / name for name in ("mark", "more", "folder")]

    @staticmethod
    def write(paths, text):
        with replacing_together(paths) as part:
            for path in paths[:2]:
                (part / path.name).write_text(text)
            (part / paths[2].name).mkdir()
            (part / paths[2].name / text).touch()

    def test_all_are_replaced(self, paths):
        for text in ("old", "new"):
            self.write(paths, text)
        assert [path.read_text() for path in paths[:2]] == ["new", "new"]
        assert [path.name for path in paths[2].iterdir()] == ["new"]
        assert len(list(paths[0].parent.iterdir())) == 3

    def test_an_error_leaves_what_was_there(self, paths):
        self.write(paths, "old")
        with pytest.raises(InputError, match=f"{paths[1]}: full; wait"):
            with replacing_together(paths) as part:
                (part / "mark").write_text("new")
                raise InputError(part / "more", "full", "wait")
        assert [path.read_text() for path in paths[:2]] == ["old", "old"]
        assert len(list(paths[0].parent.iterdir())) == 3

    @pytest.mark.parametrize("moves", [0, 1, 2])
    def test_whoever_finds_the_mark_has_all(self, paths, moves):
        """A process that is killed after some of the moves, over an older result."""
        self.write(paths, "old")
        script = (
            "import os, pathlib, sys\n"
            "from utils.files import replacing_together\n"
            "real, left = os.replace, [int(sys.argv[1])]\n"
            "def replace(source, target):\n"
            "    left[0] -= 1\n"
            "    os._exit(9) if left[0] < 0 else real(source, target)\n"
            "os.replace = replace\n"
            "paths = [pathlib.Path(name) for name in sys.argv[2:]]\n"
            "with replacing_together(paths) as part:\n"
            "    for path in paths:\n"
            "        (part / path.name).write_text('new')\n"
        )
        command = [sys.executable, "-c", script, str(moves), *map(str, paths[:2]), f"{paths[1]}2"]
        assert subprocess.run(command, check=False).returncode == 9
        assert not paths[0].exists()
        self.write(paths, "newer")
        assert [path.read_text() for path in paths[:2]] == ["newer", "newer"]
