"""Quality control pictures as a radiologist reads them, and the page that shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preparation.output import qc
from preparation.output.qc import COLUMNS, GAP, HEADER, PANEL_PIXELS, Entry, qc_picture, save_page


def panels(picture: Image.Image, shape, voxel_mm) -> dict[tuple[str, str], np.ndarray]:
    """{(plane, column): (rows, columns, 3)} cut out of a picture by its documented layout."""
    scale = PANEL_PIXELS / max(n * edge for n, edge in zip(shape, voxel_mm, strict=True))
    size = [round(n * edge * scale) for n, edge in zip(shape, voxel_mm, strict=True)]
    cell, top, cut = max(size[0], size[1]), HEADER, {}
    for plane, (width, height) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
        width, height = size[width], size[height]
        for i, column in enumerate(COLUMNS):
            left = GAP + i * (cell + GAP) + (cell - width) // 2
            cut[plane, column] = np.asarray(picture)[
                top : top + height, left : left + width
            ].astype(float)
        top += height + GAP
    return cut


def middle_of(image: np.ndarray) -> tuple[float, float]:
    """(row, column) of the brightest pixels, as parts of the image's sides."""
    grey = image.sum(axis=2)
    bright = np.argwhere(grey > 0.95 * grey.max())
    return tuple(bright.mean(axis=0) / grey.shape)


@pytest.fixture
def volumes():
    """An MRI with one bright cube in front of, above and to the right of the middle, and a PET
    around the middle.
    """
    shape, voxel_mm = (40, 60, 25), (2.0, 1.5, 4.0)
    world = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    pet = np.where((world**2).sum(0) < 0.6, 1000.0, 0.0).astype(np.float32)
    mri = np.where((world**2).sum(0) < 0.8, 30.0, 0.0).astype(np.float32)
    return mri, pet, voxel_mm


@pytest.mark.parametrize(
    ("axis", "plane", "expected"),
    (
        (0, "axial", "left"),
        (1, "axial", "top"),
        (0, "coronal", "left"),
        (2, "coronal", "top"),
        (1, "sagittal", "left"),
        (2, "sagittal", "top"),
    ),
)
def test_right_is_left_and_front_and_top_are_up(volumes, axis, plane, expected, monkeypatch):
    monkeypatch.setattr(qc, "_lettered", lambda panel, letters: panel)
    mri, pet, voxel_mm = volumes
    centre = [n // 2 for n in mri.shape]
    slab = [slice(c - 3, c + 4) for c in centre]
    slab[axis] = slice(centre[axis] + mri.shape[axis] // 5, centre[axis] + mri.shape[axis] // 5 + 3)
    mri[tuple(slab)] = 200
    cut = panels(qc_picture(mri, pet, voxel_mm, "t", "c"), mri.shape, voxel_mm)
    row, column = middle_of(cut[plane, "MRI"])
    where = {"left": column, "top": row}
    assert where[expected] < 0.4
    assert where[{"left": "top", "top": "left"}[expected]] == pytest.approx(0.5, abs=0.06)


def test_millimetres_are_equal_in_all_directions(volumes):
    mri, pet, voxel_mm = volumes
    cut = panels(qc_picture(mri, pet, voxel_mm, "t", "c"), mri.shape, voxel_mm)
    for plane, extents in {"axial": (90, 80), "coronal": (100, 80), "sagittal": (100, 90)}.items():
        height, width, _ = cut[plane, "PET"].shape
        assert height / width == pytest.approx(extents[0] / extents[1], rel=0.02)


def test_outline_and_overlay_show_a_shift(volumes):
    mri, pet, voxel_mm = volumes
    there = panels(qc_picture(mri, pet, voxel_mm, "t", "c"), mri.shape, voxel_mm)[
        "axial", COLUMNS[3]
    ]
    moved = panels(qc_picture(mri, np.roll(pet, 8, 0), voxel_mm, "t", "c"), mri.shape, voxel_mm)[
        "axial", COLUMNS[3]
    ]
    green = [(cut[..., 1] > 200) & (cut[..., 0] < 120) for cut in (there, moved)]
    assert green[0].sum() > 200 and green[1].sum() > 200
    inside = [cut[..., 0] > 200 for cut in (there, moved)]
    middles = [np.argwhere(mask)[:, 1].mean() for mask in inside]
    assert middles[0] - middles[1] > 10  # 16 mm to the patient's right


@pytest.mark.parametrize("empty", ("pet", "both"))
def test_empty_images_have_a_picture_too(volumes, empty):
    mri, pet, voxel_mm = volumes
    picture = qc_picture(mri * (empty != "both"), pet * 0, voxel_mm, "t", "c")
    assert picture.size[0] > 4 * 200


def test_the_page_shows_the_worst_first_and_escapes_names(tmp_path):
    (tmp_path / "qc").mkdir()
    entries = [
        Entry(
            "fine",
            "ok",
            ("NMI 1.07",),
            (Path("qc") / "fine.png", Path("qc") / "fine_warp.png"),
            1.07,
        ),
        Entry("low", "ok", (), (), 1.02),
        Entry("<b>odd</b>", "flagged", ("turned by 90 degrees & more",), (), 1.05),
    ]
    save_page(
        tmp_path / "report.html",
        entries,
        {"flagged": "Flagged", "failed": "Failed", "ok": "Made"},
        "3 pairs",
    )
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r"<figcaption><b>(.*?)</b>", text) == [
        "&lt;b&gt;odd&lt;/b&gt;",
        "low",
        "fine",
    ]
    assert re.findall("<h2 id='(.*?)'", text) == ["flagged", "ok"] and "&amp; more" in text
    assert re.findall("src='(.*?)'", text) == ["qc/fine.png", "qc/fine_warp.png"]
    assert "http" not in text
