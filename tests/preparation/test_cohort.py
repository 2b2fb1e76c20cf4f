"""The stages of a cohort: what is to be made, what speaks against it, where it goes."""

import importlib.metadata
import importlib.util
import os
from dataclasses import replace

import pytest

from preparation.cohort import (
    PACKAGES,
    Item,
    Order,
    fingerprint,
    judged,
    plan,
    settle,
)
from preparation.output.folder import PreparedFolder
from preparation.output.layout import place_of
from preparation.read.scan import Allowed
from preparation.subject import PrepareOptions
from utils.errors import InputError
from utils.optional import check_installed

NAME = "033_S_5198"
PLACE = place_of(NAME, "pairs", "mri", None)


def test_a_fingerprint_is_of_inputs_options_and_template(pair, tmp_path):
    template = tmp_path / "template.nii"
    template.write_bytes(b"1")
    options = PrepareOptions(space="mni", template=template)
    first = fingerprint(pair, options)
    reordered = replace(pair, mri=replace(pair.mri, files=pair.mri.files[::-1]))
    assert fingerprint(pair, options) == first == fingerprint(reordered, options)

    others = [
        fingerprint(pair, replace(options, space="mri")),
        fingerprint(pair, replace(options, allowed=Allowed(fill_nonfinite=True))),
        fingerprint(
            replace(pair, pet=replace(pair.pet, description="ADNI Brain PET: Raw")), options
        ),
        fingerprint(replace(pair, pet=replace(pair.pet, files=pair.pet.files[:1])), options),
    ]
    assert fingerprint(pair, replace(options, tracer="[18F]FDG")) == first
    others.append(fingerprint(pair, replace(options, tracer="DASB")))
    template.write_bytes(b"2")
    others.append(fingerprint(pair, options))
    template.write_bytes(b"1")
    assert fingerprint(pair, options) == first
    os.utime(pair.pet.files[0], ns=(0, 1))
    others.append(fingerprint(pair, options))
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize(
    "package", ("numpy", "scipy", "nibabel", "antspyx", "pydicom", "pylibjpeg-openjpeg")
)
def test_a_fingerprint_is_of_versions(pair, monkeypatch, package):
    options, version = PrepareOptions(), importlib.metadata.version
    first = fingerprint(pair, options)
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == package else version(name)
    )
    assert fingerprint(pair, options) != first


def test_warnings_are_of_the_pair_as_it_is_now(pair):
    record = {"warnings": ["PET: 3 voxels below 0 set to 0"], "pair_warnings": ["no date"]}
    item = Item(replace(pair, warnings=("new",)), PLACE, record=record)
    assert item.warnings == ["new", "PET: 3 voxels below 0 set to 0"] and item.status == "warned"


def test_missing_packages_are_named(monkeypatch):
    check_installed(PACKAGES, "prepare.py")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ants" else object()
    )
    with pytest.raises(
        InputError, match="antspyx not installed; pip install -r requirements-prep.txt"
    ):
        check_installed(PACKAGES, "prepare.py")


@pytest.fixture
def order(tmp_path) -> Order:
    """An order for an empty folder."""
    folder = PreparedFolder(tmp_path / "data")
    return Order(PrepareOptions(), folder, tmp_path)


def test_the_plan_says_what_is_to_be_made_and_what_cannot_be(pair, order):
    unnamed, gone = replace(pair, name="../x"), replace(pair, name="gone")
    gone = replace(gone, mri=replace(pair.mri, files=(pair.mri.files[0].with_name("no.dcm"),)))
    items = plan([pair, unnamed, gone], order)
    assert [item.pair for item in items] == [pair, unnamed, gone]
    assert [item.is_to_be_made for item in items] == [True, False, False]
    assert items[0].fingerprint == fingerprint(pair, order.options)
    assert "not a subject name" in items[1].problem and "cannot be read" in items[2].problem


def test_what_others_have_made_is_not_replaced(pair, order):
    (order.folder.root / PLACE.folder).mkdir()
    (item,) = plan([pair], order)
    assert not item.is_to_be_made and "not made by this program" in item.problem


def test_what_was_made_before_is_not_made_again_unless_it_is_forced(pair, order, monkeypatch):
    record = {"figures": {}, "warnings": []}
    monkeypatch.setattr(PreparedFolder, "complete_record", lambda *arguments: record)
    (item,) = plan([pair], order)
    assert item.record == record and item.status == "skipped" and not item.is_to_be_made
    (item,) = plan([pair], replace(order, force=True))
    assert item.record is None and item.is_to_be_made


def test_strict_flags_a_low_nmi_that_the_cohort_has_in_common(pair):
    figures = {"nmi_brain": 1.019}
    items = [
        Item(replace(pair, name=f"s{i}"), PLACE, record={"figures": figures, "warnings": []})
        for i in range(6)
    ]
    lost = Item(replace(pair, name="lost"), PLACE, problem="no")
    assert [item.flags for item in judged([*items, lost], strict=False)] == [()] * 7
    flags = [item.flags for item in judged([*items, lost], strict=True)]
    assert flags == [("NMI in the brain is 1.019, below 1.02 (--strict)",)] * 6 + [()]


def test_what_cannot_be_settled_has_failed(pair, order):
    made = Item(pair, PLACE, "new", record={"figures": {}, "warnings": []})
    after = settle(made, order.folder)  # its files are not there
    assert after.status == "failed" and "not complete after all" in after.problem
    waiting = Item(pair, PLACE, problem="no")
    assert settle(waiting, order.folder) is waiting
