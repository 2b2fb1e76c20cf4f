"""Lists of subjects, selection from a cohort, and the split by seed."""

import os
from pathlib import Path

import pytest

from data.splits import check_disjoint, random_split, read_list, select, write_split
from data.subjects import Cohort, LeftOut, Subject
from utils.errors import InputError


def subject(name, group=None):
    return Subject(name, Path(f"{name}_mri.nii"), Path(f"{name}_pet.nii"), group or name)


def names(subjects):
    return [item.name for item in subjects]


def refused(call, source, *words):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.source == str(source)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def listed(tmp_path):
    """Function that writes a list and returns its path."""

    def write(content):
        path = tmp_path / "list.txt"
        path.write_bytes(content)
        return path

    return write


class TestLists:
    @pytest.mark.parametrize(
        "content",
        [
            b"b\na\nc d\n",
            b"b,a,c d",
            b"b, a ,c d,\n",
            b"\xef\xbb\xbfb\r\na\r\n\r\nc d\r\n",
            b"# train\n\nb\n  a  # the first\n#x\nc d",
            b'"b","a","c d"\n',
            b"b;a;c d",
            b"b\ta\tc d",
            b"b,a\nc d\n",
        ],
    )
    def test_forms(self, listed, content):
        assert read_list(listed(content)) == ["b", "a", "c d"]

    def test_a_hash_within_a_name(self, listed):
        assert read_list(listed(b"a#1\n")) == ["a#1"]

    @pytest.mark.parametrize("content", [b"", b"\n \n", b"# nobody\n", b",,\n", b"\xef\xbb\xbf"])
    def test_empty(self, listed, content):
        path = listed(content)
        refused(lambda: read_list(path), path, "no subjects in the list")

    def test_doubled(self, listed):
        path = listed(b"b\na\nb\nc\na\n")
        refused(lambda: read_list(path), path, "listed more than once: b, a")

    @pytest.mark.parametrize("name", ["../a", "a/b", "/a", "a\\b", "..", "C:a"])
    def test_paths(self, listed, name):
        path = listed(f"ok\n{name}\n".encode())
        refused(lambda: read_list(path), path, "line 2", "has a path in it")

    def test_missing_and_binary(self, listed, tmp_path):
        refused(lambda: read_list(tmp_path / "none"), tmp_path / "none", "no such file")
        path = listed(b"\xff\xfea\0")
        refused(lambda: read_list(path), path, "not UTF-8")


class TestSelection:
    cohort = Cohort(
        tuple(subject(f"s{n}") for n in range(4)), (LeftOut("half", "no PET"),), "published"
    )

    def test_order_of_the_list(self):
        assert names(select(self.cohort, ["s3", "s0"], "list.txt")) == ["s3", "s0"]

    def test_unknown(self):
        unknown = [f"x{n}" for n in range(7)]
        expected = "not in the data: x0, x1, x2, x3, x4 and 2 more; the data have names like s0"
        refused(lambda: select(self.cohort, ["s1", *unknown], "l.txt"), "l.txt", expected)

    def test_left_out(self):
        refused(lambda: select(self.cohort, ["s1", "half"], "l.txt"), "l.txt", "half (no PET)")


class TestRandomSplit:
    @pytest.mark.parametrize(
        "number, fraction, held_out",
        [(2, 0.1, 1), (3, 0.9, 2), (10, 0.1, 1), (20, 0.1, 2), (660, 0.1, 66), (8, 0.25, 2)],
    )
    def test_sizes(self, number, fraction, held_out):
        subjects = [subject(f"s{n}") for n in range(number)]
        train, validation = random_split(subjects, 3407, fraction)
        assert len(validation) == held_out
        assert sorted(names(train + validation)) == sorted(names(subjects))

    def test_seed_and_order(self):
        subjects = [subject(f"s{n}") for n in range(30)]
        train, validation = random_split(subjects, 1)
        assert random_split(subjects[::-1], 1) == (train, validation)
        assert names(train) == sorted(names(train), key=lambda name: int(name[1:]))
        assert len({tuple(names(random_split(subjects, seed)[1])) for seed in range(10)}) > 5

    def test_the_drawn_participants_stay_the_same(self):
        """Pinned: a run that is repeated years later must draw the same split."""
        subjects = [subject(f"s{n:02d}") for n in range(20)]
        assert names(random_split(subjects, 3407)[1]) == ["s16", "s18"]

    def test_sessions_stay_together(self):
        subjects = [subject(f"p{n}_ses-{m}", f"p{n}") for n in range(6) for m in range(3)]
        for seed in range(10):
            train, validation = random_split(subjects, seed)
            assert not {item.group for item in train} & {item.group for item in validation}
            assert len(validation) == 3

    def test_nothing_to_split(self):
        refused(lambda: random_split([subject("a")], 0), "--data", "1 participant cannot be split")
        sessions = [subject("a_1", "a"), subject("a_2", "a")]
        refused(lambda: random_split(sessions, 0), "--data", "cannot be split")


class TestDisjoint:
    def test_shared(self):
        train = [subject("a"), subject("b_1", "b")]
        check_disjoint(train, [subject("c")], "val.txt")
        refused(
            lambda: check_disjoint(train, [subject("a")], "val.txt"), "val.txt", "in training", "a"
        )
        refused(lambda: check_disjoint(train, [subject("b_2", "b")], "val.txt"), "val.txt", "b_2")


class TestWriting:
    def test_read_back(self, tmp_path):
        folder = tmp_path / "run" / "split"
        write_split(folder, [subject("b"), subject("a c")], [subject("d")])
        assert sorted(os.listdir(folder)) == ["train.txt", "validation.txt"]
        assert read_list(folder / "train.txt") == ["b", "a c"]
        assert (folder / "validation.txt").read_bytes() == b"d\n"

    def test_a_failing_write_leaves_the_old_lists(self, tmp_path, monkeypatch):
        write_split(tmp_path, [subject("a")], [subject("b")])

        def disk_full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", disk_full)
        path = tmp_path / "train.txt"
        refused(
            lambda: write_split(tmp_path, [subject("b")], [subject("a")]), path, "No space left"
        )
        assert sorted(os.listdir(tmp_path)) == ["train.txt", "validation.txt"]
        assert read_list(path) == ["a"]

    def test_folder_is_a_file(self, tmp_path):
        (tmp_path / "run").write_text("x")
        path = tmp_path / "run" / "train.txt"
        refused(
            lambda: write_split(tmp_path / "run", [subject("a")], []), path, "cannot be written"
        )
