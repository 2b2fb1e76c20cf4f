"""Which MRI and PET of a subject are taken, and what is said about the others."""

import datetime
from pathlib import Path

import pytest

from preparation.pairing import (
    Candidate,
    Person,
    by_days,
    choose_version,
    drop_shared,
    keep_version,
    pair_up,
)
from preparation.scans import Scan, ScanPair
from tests.helpers.findings import reasons_of

DAY = datetime.date(2012, 3, 1)


def scan(name, modality="MRI", days=0, image_id=None):
    """A scan so many days after DAY; None for no date."""
    date = None if days is None else DAY + datetime.timedelta(days)
    return Scan("s", modality, (Path(name),), "nifti", date=date, image_id=image_id)


def mri(name, days=0, image_id=None, **options):
    return Candidate(scan(name, "MRI", days, image_id), **options)


def pet(name, days=0, image_id=None, **options):
    return Candidate(scan(name, "PET", days, image_id), **options)


def taken(person, max_days=365):
    pairs, _ = pair_up({"s": person}, max_days)
    return [(pair.mri.where.name, pair.pet.where.name) for pair in pairs]


class TestChoice:
    @pytest.mark.parametrize(
        "better, worse",
        [
            (mri("b", days=9, rank=3), mri("a", days=10, rank=0)),
            (mri("b", days=9, rank=3), mri("a", days=None, rank=0)),
            (mri("b", rank=1), mri("a", rank=2)),
            (mri("b", image_id="I20"), mri("a", image_id="I3")),
            (mri("s2"), mri("s10")),
            (mri("b", days=99), mri("a", last_resort=True)),
        ],
        ids=["nearer", "dated", "preferred", "newer", "natural-order", "no-last-resort"],
    )
    def test_order(self, better, worse):
        for mris in ([better, worse], [worse, better]):
            assert taken(Person(mris, [pet("p")])) == [(better.scan.where.name, "p")]

    def test_the_limit_of_days(self):
        person = Person([mri("m")], [pet("p", days=10)])
        assert taken(person, 10) == [("m", "p")] and taken(person, 9) == []
        undated = Person([mri("m")], [pet("p", days=None)])
        (pair,), _ = pair_up({"s": undated}, 9)
        assert pair.days is None and "no usable date for the PET" in pair.warnings[0]

    def test_reasons(self):
        people = {
            "s2": Person([mri("m"), mri("n")], [pet("p")]),
            "s10": Person([mri("m")], []),
            "s11": Person([mri("m")], [pet("p", days=-12), pet("q", days=20)]),
        }
        pairs, left_out = pair_up(people, 9)
        assert [pair.name for pair in pairs] == ["s2"]
        assert reasons_of(left_out) == [
            "m is taken for this subject",
            "no FDG image",
            "no pair: no FDG image",
            "MRI and PET are 12 days apart (limit 9)",
            *["no pair: MRI and PET are 12 days apart (limit 9)"] * 3,
        ]
        assert [item.subject for item in left_out if item.is_fault] == ["s10", "s11"]


class TestVersions:
    def people(self):
        return {
            "1": Person([mri("m")], [pet("a", version="a"), pet("b", version="b")]),
            "2": Person([mri("m")], [pet("b", version="b")]),
            "3": Person([], [pet("a", version="a")]),
            "4": Person([mri("m")], [pet("a", days=999, version="a")]),
        }

    def test_the_one_with_most_pairs(self):
        assert choose_version(self.people(), ("a", "b", "c"), 365, by_days) == "b"
        assert choose_version(self.people(), ("a", "b", "c"), 999, by_days) == "a"
        assert choose_version({}, ("a", "b"), 365, by_days) is None

    def test_the_others_are_left_out(self):
        person = self.people()["1"]
        assert reasons_of(keep_version(person, "b", "another")) == ["another"]
        assert [candidate.version for candidate in person.pets] == ["b"]


class TestSharedImages:
    @pytest.fixture
    def pair(self, tmp_path):
        """Function (name, content of the MRI, content of the PET) -> pair of two files."""

        def make(name, *contents):
            scans = []
            for modality, content in zip(("MRI", "PET"), contents, strict=True):
                path = tmp_path / f"{name}_{modality}"
                path.write_bytes(content)
                scans.append(scan(path, modality))
            return ScanPair(name, *scans, days=0)

        return make

    def test_who_shares_is_taken_out(self, pair):
        pairs = [
            pair("1", b"m1", b"same"),
            pair("2", b"m2", b"same"),
            pair("3", b"both", b"both"),
            pair("4", b"m4", b"p4"),
            pair("5", b"", b""),
        ]
        kept, left_out = drop_shared(pairs)
        assert [item.name for item in kept] == ["4", "5"]  # reading says that 5 is empty
        assert {item.subject: item.reason for item in left_out} == {
            "1": "same image as subject 2",
            "2": "same image as subject 1",
            "3": "MRI and PET are the same image",
        }
        assert all(item.is_fault for item in left_out)

    def test_equal_beginnings_do_not_make_one_image(self, pair):
        start = b"0" * (1 << 20)
        pairs = [pair(name, b"m" + name.encode(), start + name.encode()) for name in "abc"]
        pairs.append(pair("d", b"md", start + b"b"))
        kept, _ = drop_shared(pairs)
        assert [item.name for item in kept] == ["a", "c"]

    def test_a_file_that_cannot_be_read_is_kept(self, pair):
        lost = pair("1", b"m1", b"same")
        lost.pet.files[0].unlink()
        kept, left_out = drop_shared([lost, pair("2", b"m2", b"same")])
        assert len(kept) == 2 and left_out == []
