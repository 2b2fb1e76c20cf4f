"""The page: one file that fetches nothing, escapes what it is given, and shows the right values."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest

from inference.page import build
from inference.page.build import Layer, Page, build_page, write_page
from tests.helpers.browser import Browser
from tests.helpers.golden import ROOT
from utils.colour import colour_map
from utils.errors import InputError

HOT = colour_map("hot")
EVIL = "<script>alert(1)</script><!--"


def page_of(head, affine, **options) -> Page:
    """A page of the asymmetric head; the fused volumes are mixes, PET rises to the front."""
    mri = Layer("MRI", np.round(head * 10), (0, 1500), "file's units")
    pet = np.broadcast_to(np.linspace(0, 9000.5, head.shape[1])[:, None], head.shape) * (head > 0)
    shares = options.pop("shares", (0.5,))
    scaled = head / head.max(), pet / pet.max()
    fused = [Layer(f"{t:.2f}", t * scaled[0] + (1 - t) * scaled[1], unit="0 to 1") for t in shares]
    sources = mri, Layer("PET", pet, (0, 9000.5), "Bq/mL")
    options.setdefault("title", "one")
    return Page(
        affine=affine, mri=sources[0], pet=sources[1], fused=fused, inside=head > 0, **options
    )


class Reader(HTMLParser):
    """Collects the elements of a page, and the text of its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.scripts, self._id = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._id = dict(attributes).get("id", tag)

    def handle_data(self, data):
        self.scripts[self._id] = self.scripts.get(self._id, "") + data


def decoded(reader: Reader, name: str, entry: dict, shape) -> np.ndarray:
    """The values of a stored volume, unpacked without the page's own script."""
    content = gzip.decompress(base64.b64decode(reader.scripts[f"data-{name}"]))
    low, high = np.frombuffer(content, np.uint8).reshape(2, -1).astype(int)
    codes = (low + 256 * high).reshape(shape, order="F")
    change = np.where(codes % 2, -(codes + 1) // 2, codes // 2)
    return np.cumsum(change, axis=0) * entry["step"] + entry["offset"]


@pytest.mark.parametrize("levels", build.LEVELS)
def test_volumes_are_stored_to_half_a_level(head, head_affine, levels):
    page = page_of(head, head_affine, shares=(0.25, 0.75))
    reader = Reader(build_page(page, HOT, levels))
    about = json.loads(reader.scripts["about"])
    start = about["start"]
    box = tuple(slice(s, s + n) for s, n in zip(start, about["shape"], strict=True))
    outside = np.ones(head.shape, bool)
    outside[box] = False
    assert not (page.inside & outside).any()
    stored = {"mri": (page.mri, levels[0]), "pet": (page.pet, levels[0])}
    for name, (layer, number) in stored.items():
        values = decoded(reader, name, about[name], about["shape"])
        assert np.abs(values - layer.array[box]).max() <= 0.5001 * np.ptp(layer.array) / (
            number - 1
        )
    for n, layer in enumerate(page.fused):
        values = decoded(reader, f"fused-{n}", about["fused"][n], about["shape"])
        assert np.abs(values - layer.array[box]).max() <= 0.5001 / (levels[1] - 1)
    assert ("rounded to 1/255" in " ".join(about["notes"])) == (levels[1] == 256)
    corner = np.array(about["affine"]) @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner, head_affine @ [*start, 1])
    if levels[0] == 4096:
        values = decoded(reader, "mri", about["mri"], about["shape"])
        assert np.array_equal(values, page.mri.array[box])  # whole numbers as they are


def test_nothing_is_fetched_and_the_licence_is_kept(head, head_affine):
    text = build_page(page_of(head, head_affine), HOT)
    reader = Reader(text)
    for tag, attributes in reader.tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href", "action"} & attributes.keys(), attributes
    policy = next(a["content"] for _, a in reader.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy and "http" not in policy
    assert "BSD 2-Clause License" in text and "Redistributions in binary form" in text
    code = gzip.decompress(base64.b64decode(reader.scripts["data-niivue"]))
    assert hashlib.sha256(code).hexdigest() in (ROOT / "docs" / "looking.md").read_text("utf-8")


def test_texts_are_escaped(head, head_affine):
    scores = [["", EVIL], [EVIL, "1"]]
    page = page_of(head, head_affine, title=EVIL, scores=scores, notes=[EVIL, "@data@"])
    plain = Reader(build_page(page_of(head, head_affine), HOT))
    evil = Reader(build_page(page, HOT))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    about = json.loads(evil.scripts["about"])
    assert about["title"] == EVIL and about["notes"] == [EVIL, "@data@"]
    assert about["scores"] == scores
    assert evil.scripts["title"].startswith(EVIL)


def test_a_large_page_is_stored_in_fewer_levels(head, head_affine, tmp_path, monkeypatch, capsys):
    page = page_of(head, head_affine)
    sizes = [len(build_page(page, HOT, levels).encode()) for levels in build.LEVELS]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[1] > sizes[2]
    monkeypatch.setattr(build, "MOST_BYTES", sizes[1])
    assert write_page(tmp_path / "page.html", page, HOT) == sizes[1]
    assert (tmp_path / "page.html").stat().st_size == sizes[1]
    monkeypatch.setattr(build, "MOST_BYTES", 1000)
    write_page(tmp_path / "page.html", page, HOT)
    assert "page.html: " in capsys.readouterr().err


def test_of_many_balances_three_are_kept_where_the_page_is_too_large(
    head, head_affine, tmp_path, monkeypatch
):
    shares = (0.0, 0.25, 0.4, 0.5, 0.75, 1.0)
    page = page_of(head, head_affine, shares=shares, balances=shares)
    smallest = len(build_page(page, HOT, build.LEVELS[-1]).encode())
    monkeypatch.setattr(build, "MOST_BYTES", smallest - 1)
    assert write_page(tmp_path / "page.html", page, HOT) < smallest
    about = json.loads(Reader((tmp_path / "page.html").read_text("utf-8")).scripts["about"])
    assert about["balances"] == [0, 0.5, 1]
    assert [layer["name"] for layer in about["fused"]] == ["0.00", "0.50", "1.00"]
    assert "0, 0.5, 1" in about["notes"][-1]


def test_a_place_that_cannot_be_written_is_an_input_error(head, head_affine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path / "file" / "page.html", page_of(head, head_affine), HOT)


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture
def browser():
    window = Browser()
    yield window
    window.close()


def shown(browser: Browser) -> tuple[np.ndarray, dict[str, float]]:
    """(mm, {layer: value}) as the page prints them under its crosshair."""
    place = np.array([float(n) for n in re.findall(r"-?\d+\.?\d*", browser.text("mm"))])
    return place, {name: float(browser.text(f"value-{name}")) for name in ("mri", "pet", "fused")}


def test_values_under_the_crosshair_are_those_of_nibabel(
    browser, head, head_affine, oblique, tmp_path
):
    page = page_of(head, oblique(head_affine))
    layers = {"mri": page.mri, "pet": page.pet, "fused": page.fused[0]}
    for name, layer in layers.items():
        image = nib.Nifti1Image(layer.array.astype(np.float32), page.affine)
        nib.save(image, tmp_path / f"{name}.nii")
    write_page(tmp_path / "page.html", page, HOT)
    browser.open(tmp_path / "page.html")
    places = set()
    for x, y in ((0.2, 0.2), (0.25, 0.75), (0.3, 0.3), (0.65, 0.25)):
        browser.click("picture", x, y)
        mm, values = shown(browser)
        places.add(tuple(mm))
        for name, layer in layers.items():
            image = nib.load(tmp_path / f"{name}.nii")
            voxel = np.linalg.inv(image.affine) @ [*mm, 1]
            voxel = tuple(np.round(voxel[:3]).astype(int))
            expected = float(np.asarray(image.dataobj)[voxel])
            step = float(np.ptp(layer.array)) / 4095
            assert values[name] == pytest.approx(expected, abs=0.51 * step, rel=1e-5), name
        assert browser.text("voxel") == ", ".join(map(str, voxel))
    assert len(places) > 2
    assert browser.log() == []


def test_keys_swap_the_volume_and_the_right_side_is_at_the_left(
    browser, head, head_affine, tmp_path
):
    write_page(tmp_path / "page.html", page_of(head, head_affine), HOT)
    browser.open(tmp_path / "page.html")
    pictures = {}
    for key, name in zip("1234", ("mri", "pet", "fused", "colour"), strict=True):
        browser.press(key)
        assert browser.run(f"return document.getElementById('show-{name}').checked")
        pictures[name] = browser.screenshot()
    assert len(set(pictures.values())) == 4
    browser.press("x")
    assert browser.run("return document.getElementById('show-fused').checked")
    # The axial plane is at the lower left: a click near its left edge is on the patient's right.
    browser.run("document.getElementById('view').value = 'axial'")
    browser.run("document.getElementById('view').dispatchEvent(new Event('change'))")
    browser.click("picture", 0.4, 0.5)
    left, _ = shown(browser)
    browser.click("picture", 0.6, 0.5)
    right, _ = shown(browser)
    assert left[0] > right[0] + 2 * head_affine[0, 0]
    assert browser.log() == []


def test_the_slider_blends_balances_and_the_window_follows(browser, head, head_affine, tmp_path):
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    page = page_of(head, head_affine, shares=shares, balances=shares, balance=0.5)
    write_page(tmp_path / "page.html", page, HOT)
    browser.open(tmp_path / "page.html")
    mri, pet = page.fused[-1].array, page.fused[0].array
    i, j, k = (int(n) for n in browser.text("voxel").split(", "))
    for share in (0.5, 0.1, 0.62, 1.0, 0.0):
        move = "const e = document.getElementById('balance'); e.value = arguments[0];"
        browser.run(move + "e.dispatchEvent(new Event('input'))", share)
        expected = share * mri[i, j, k] + (1 - share) * pet[i, j, k]
        assert shown(browser)[1]["fused"] == pytest.approx(expected, abs=1 / 4095)
    before = browser.screenshot()
    browser.run(
        "const e = document.getElementById('overlay'); e.value = 0.8;"
        "e.dispatchEvent(new Event('input'))"
    )
    assert browser.screenshot() != before
    assert browser.run("return document.getElementById('show-mri').checked")
    browser.run(
        "document.getElementById('high').value = 700;"
        "document.getElementById('high').dispatchEvent(new Event('change'))"
    )
    assert browser.run("return images.mri.cal_max") == 700
    assert browser.log() == []


def test_an_evil_name_is_shown_and_not_run(browser, head, head_affine, tmp_path):
    page = page_of(head, head_affine, title=EVIL, scores=[["", EVIL]], notes=[EVIL])
    write_page(tmp_path / "page.html", page, HOT)
    browser.open(tmp_path / "page.html")
    assert browser.text("title") == EVIL
    assert EVIL in browser.text("scores") and EVIL in browser.text("notes")
    assert browser.log() == []


def test_methods_are_chosen_from_a_list(browser, head, head_affine, tmp_path):
    page = page_of(head, head_affine, shares=(0.0, 1.0))
    write_page(tmp_path / "page.html", page, HOT)
    browser.open(tmp_path / "page.html")
    before = shown(browser)[1]["fused"]
    browser.run(
        "const e = document.getElementById('method'); e.selectedIndex = 1;"
        "e.dispatchEvent(new Event('change'))"
    )
    i, j, k = (int(n) for n in browser.text("voxel").split(", "))
    after = shown(browser)[1]["fused"]
    assert after == pytest.approx(page.fused[1].array[i, j, k], abs=1 / 4095)
    assert abs(after - before) > 0.01
