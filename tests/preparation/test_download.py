"""Downloads as people have them: a synthetic one, changed as real ones were, found and read."""

import numpy as np
import pytest

from data.phantom.download import write_download
from preparation.find.adni import find_adni
from preparation.find.table import read_scan_pairs
from preparation.read.scan import Allowed, load_scan
from utils.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")

SUBJECT = "999_S_0001"
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The MRI and PET that the unchanged download holds."""
    root = tmp_path_factory.mktemp("clean") / "download"
    write_download(root, subjects=1, voxel_mm=6)
    (pair,) = find_adni(root).pairs
    return load_scan(pair.mri), load_scan(pair.pet)


@pytest.fixture
def download(tmp_path):
    """A download of one subject to change, with its pair."""
    write_download(tmp_path / "download", subjects=1, voxel_mm=6)
    (pair,) = find_adni(tmp_path / "download").pairs
    return pair


def change(scan, **more):
    """Set elements of every file of a scan; functions get the file's number."""
    for number, file in enumerate(scan.files):
        header = pydicom.dcmread(file)
        for keyword, value in more.items():
            setattr(header, keyword, value(number) if callable(value) else value)
        header.save_as(file)


def found(pair):
    """The pair of the changed download."""
    root = next(parent for parent in pair.mri.where.parents if parent.name == "download")
    (again,) = find_adni(root).pairs
    return again


def in_a_table(pair, folder):
    """The pair as a table with its folders has it; their names hold commas."""
    table = folder / "pairs.tsv"
    table.write_text(f"subject\tmri\tpet\none\t{pair.mri.where}\t{pair.pet.where}\n")
    (listed,) = read_scan_pairs(table).pairs
    return listed


def same(loaded, expected):
    np.testing.assert_array_equal(loaded.volume.array, expected.volume.array)
    np.testing.assert_allclose(loaded.volume.affine, expected.volume.affine, atol=1e-4)


def test_a_monochrome1_pet(download, clean):
    change(download.pet, PhotometricInterpretation="MONOCHROME1")
    loaded = load_scan(found(download).pet)
    same(loaded, clean[1])
    assert any("MONOCHROME1" in note for note in loaded.notes)


def test_b_a_raw_data_object_beside_the_mri(download, clean, tmp_path):
    raw = pydicom.dcmread(download.mri.files[0])
    raw.SOPClassUID = raw.file_meta.MediaStorageSOPClassUID = RAW_DATA
    raw.SOPInstanceUID += ".66"
    del raw.PixelData, raw.ImagePositionPatient
    raw.save_as(download.mri.where / "XX_0001.dcm")
    listed = in_a_table(download, tmp_path)
    loaded = load_scan(listed.mri)
    same(loaded, clean[0])
    assert any("Raw Data Storage" in note for note in loaded.notes)


@pytest.mark.parametrize("name", ["{}.img", "{}.MR", "{}.PT", "{}.dic", "x.dcm ({})"])
def test_c_slices_under_other_endings(download, clean, tmp_path, name):
    for number, file in enumerate(download.mri.files[-5:]):
        file.rename(file.with_name(name.format(number)))
    listed = in_a_table(download, tmp_path)
    same(load_scan(listed.mri), clean[0])


def test_d_a_series_uid_for_each_slice(download, clean):
    uid = pydicom.dcmread(download.mri.files[0]).SeriesInstanceUID
    change(download.mri, SeriesInstanceUID=lambda number: f"{uid}.{number + 1}")
    same(load_scan(found(download).mri), clean[0])


def test_d_the_head_of_a_longer_pet(download, clean):
    change(download.pet, NumberOfSlices=335)
    pet = found(download).pet
    with pytest.raises(InputError, match="of 335 slices; .* pass --fewer-slices"):
        load_scan(pet)
    same(load_scan(pet, allowed=Allowed(fewer_slices=True)), clean[1])


def test_d_a_pet_of_the_whole_body(download):
    """Its remedy names the option that lets its head be used."""
    change(download.pet, SliceThickness="60", ImagePositionPatient=lambda n: [0, 0, 60 * n])
    with pytest.raises(InputError, match="head") as caught:
        load_scan(found(download).pet)
    assert "--fewer-slices" in caught.value.remedy


def test_e_only_a_cut_head_may_lack_end_slices(download, clean):
    assert not any("end slices" in note for note in clean[0].notes)
    for file in download.mri.files[-len(download.mri.files) // 3 :]:
        file.unlink()
    for file in download.mri.where.parents[3].glob("*.xml"):
        file.unlink()  # it would promise the slices
    assert any("end slices" in note for note in load_scan(found(download).mri).notes)
