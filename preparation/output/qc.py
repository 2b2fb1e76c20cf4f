"""What a person looks at to judge an alignment: a picture of each subject, a page with all.

Pillow only: the pictures are made in many processes, which matplotlib would slow down.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from utils.files import replacing
from utils.planes import PLANES, plane_of

COLUMNS = ("MRI", "PET", "PET on MRI", "outline of the MRI on PET")
WARP_COLUMNS = ("before on template", "after on template", "after", "template")
PANEL_PIXELS = 260  # the longest side of the volume
GAP, HEADER, FOOTER = 6, 44, 24
OPACITY = 0.75  # of the hottest uptake; the least uptake is clear
OUTLINE = (60, 255, 90)
OUTLINE_SMOOTHING = 1.5  # standard deviation in pixels, against noise

_STYLE = """body{font:15px/1.4 sans-serif;margin:2em;background:#111;color:#ddd}a{color:#8cf}
h2{border-bottom:1px solid #444;padding-top:1em}
figure{display:inline-block;margin:0 1.5em 2em 0;max-width:100%}\
img{max-width:100%;border:1px solid #333}
figcaption{max-width:70em}.bad{color:#ff9d80}"""


def qc_picture(
    mri: np.ndarray, pet: np.ndarray, voxel_mm: Sequence[float], title: str, caption: str
) -> Image.Image:
    """Three planes (rows) of MRI, PET, PET on MRI and the MRI's outline on the PET (columns).

    Radiological convention: axial and coronal have the patient's right at the image's left,
    sagittal has anterior at the left; anterior (axial) and superior are up. One scale in mm for
    all. The planes go through the middle of the brain as the PET shows it. Both are shown from 0 to
    the 99.5th percentile of what is above 0.

    Args:
        mri, pet: (X, Y, Z) in RAS+ order on one grid, at least 0.
        voxel_mm: voxel edges along X, Y, Z.
        title, caption: lines above and below.
    """
    return _page(_rows(mri, pet, voxel_mm), COLUMNS, title, caption)


def _page(
    rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], title: str, caption: str
) -> Image.Image:
    """Rows of panels under their headings, between a title and a caption."""
    cell = max(row[0].width for row in rows)
    width = GAP + len(columns) * (cell + GAP)
    height = HEADER + sum(row[0].height + GAP for row in rows) + FOOTER
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 4), title, "white", ImageFont.load_default(15))
    lefts = [GAP + column * (cell + GAP) for column in range(len(columns))]
    for left, heading in zip(lefts, columns, strict=True):
        place = left + cell // 2, HEADER - 4
        draw.text(place, heading, "white", ImageFont.load_default(13), "mb")
    top = HEADER
    for row in rows:
        for left, panel in zip(lefts, row, strict=True):
            picture.paste(panel, (left + (cell - panel.width) // 2, top))
        top += row[0].height + GAP
    draw.text((GAP, top), caption, (190, 190, 190), ImageFont.load_default(12))
    return picture


def _rows(mri: np.ndarray, pet: np.ndarray, voxel_mm: Sequence[float]) -> list[list[Image.Image]]:
    """A row of panels of one size for each plane."""
    position = _brain_centre(pet, mri)
    grey, uptake = _window(mri), _window(pet)
    sides_mm = [n * edge for n, edge in zip(mri.shape, voxel_mm, strict=True)]
    scale = PANEL_PIXELS / max(sides_mm)
    rows = []
    for axis, letters in PLANES.values():
        # a thin volume keeps a line to be seen
        size = [max(round(sides_mm[a] * scale), 1) for a in range(3) if a != axis]
        planes = [_resized(plane_of(volume, axis, position), size) for volume in (grey, uptake)]
        rows.append([_lettered(panel, letters) for panel in _panels(*planes)])
    return rows


def save_qc_picture(
    path: Path, mri: np.ndarray, pet: np.ndarray, voxel_mm, title: str, caption: str
) -> None:
    """Write `qc_picture` as a PNG, beside its place first and then renamed into it.

    Raises:
        InputError: the file cannot be written.
    """
    picture = qc_picture(mri, pet, voxel_mm, title, caption)
    with replacing(path, "check the disk and run the command again") as part:
        picture.save(part, format="PNG")


def save_warp_picture(
    path: Path,
    before: np.ndarray,
    after: np.ndarray,
    template: np.ndarray,
    voxel_mm: Sequence[float],
    title: str,
    caption: str,
) -> None:
    """Three planes of a head over the template before and after a learned field, as a PNG.

    The head is red and the template cyan: where they agree it is grey.

    Args:
        before, after, template: (X, Y, Z) in RAS+ order on one grid.

    Raises:
        InputError: the file cannot be written.
    """
    position = _brain_centre(template, template)
    sides_mm = [n * edge for n, edge in zip(template.shape, voxel_mm, strict=True)]
    scale = PANEL_PIXELS / max(sides_mm)
    rows = []
    for axis, letters in PLANES.values():
        size = [max(round(sides_mm[a] * scale), 1) for a in range(3) if a != axis]
        planes = []
        for volume in (before, after, template):
            planes.append(_resized(plane_of(_window(volume), axis, position), size))
        fixed = planes[-1]
        panels = [np.stack([plane, fixed, fixed], axis=-1) for plane in planes[:2]]
        panels += [np.repeat(plane[..., None], 3, axis=2) for plane in planes[1:]]
        pictures = [Image.fromarray(np.rint(panel * 255).astype(np.uint8)) for panel in panels]
        rows.append([_lettered(picture, letters) for picture in pictures])
    picture = _page(rows, WARP_COLUMNS, title, caption)
    with replacing(path, "check the disk and run the command again") as part:
        picture.save(part, format="PNG")


def _brain_centre(pet: np.ndarray, mri: np.ndarray) -> tuple[int, ...]:
    """Centre of mass of the higher half of the uptake, else of the MRI's head, else of the grid."""
    for volume, share in ((pet, 0.5), (mri, 0.1)):
        bright = volume > share * _high(volume)
        if bright.any():
            return tuple(round(float(places.mean())) for places in np.nonzero(bright))
    return tuple(n // 2 for n in mri.shape)


def _high(volume: np.ndarray) -> float:
    """99.5th percentile of what is above 0; 0 where nothing is."""
    above = volume[volume > 0]
    return float(np.percentile(above, 99.5)) if above.size else 0.0


def _window(volume: np.ndarray) -> np.ndarray:
    """From 0 and the high percentile to [0, 1]."""
    return np.clip(volume / (_high(volume) or 1), 0, 1).astype(np.float32)


def _resized(plane: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(rows, columns) in [0, 1] at another size, (width, height)."""
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize(tuple(size), Image.Resampling.BILINEAR))


def _panels(grey: np.ndarray, uptake: np.ndarray) -> list[Image.Image]:
    """The columns of one plane."""
    mri = np.repeat(grey[..., None], 3, axis=2)  # rows, columns, 3
    pet = np.repeat(1 - uptake[..., None], 3, axis=2)  # rows, columns, 3
    weight = OPACITY * np.clip(uptake * 1.5, 0, 1)[..., None]  # rows, columns, 1
    overlay = (1 - weight) * mri + weight * _hot(uptake)
    outlined = np.where(_outline(grey)[..., None], np.divide(OUTLINE, 255), 1 - pet)
    return [
        Image.fromarray(np.rint(panel * 255).astype(np.uint8))
        for panel in (mri, pet, overlay, outlined)
    ]


def _hot(values: np.ndarray) -> np.ndarray:
    """Black, red, yellow, white: (rows, columns) in [0, 1] -> (rows, columns, 3)."""
    return np.clip(np.stack([values * 2.6, values * 2.6 - 1, values * 4 - 3], axis=-1), 0, 1)


def _outline(grey: np.ndarray) -> np.ndarray:
    """Where the MRI has its strongest edges: borders of head, brain and ventricles."""
    down, right = np.gradient(ndimage.gaussian_filter(grey, OUTLINE_SMOOTHING))
    steep = np.hypot(down, right)
    limit = np.percentile(steep[grey > 0.05], 80) if (grey > 0.05).any() else np.inf
    peak = np.zeros_like(steep, dtype=bool)
    # Thin lines: only what is steeper than both neighbours across the edge, by its main direction.
    inner = steep[1:-1, 1:-1]
    vertical = (inner >= steep[:-2, 1:-1]) & (inner > steep[2:, 1:-1])
    horizontal = (inner >= steep[1:-1, :-2]) & (inner > steep[1:-1, 2:])
    mostly_down = np.abs(down[1:-1, 1:-1]) >= np.abs(right[1:-1, 1:-1])
    peak[1:-1, 1:-1] = np.where(mostly_down, vertical, horizontal) & (inner > limit)
    return peak


def _lettered(panel: Image.Image, letters: str) -> Image.Image:
    """The panel with the sides of the patient at its left, right, top and bottom."""
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(13)
    across, down = panel.width // 2, panel.height // 2
    places = (
        (3, down, "lm"),
        (panel.width - 3, down, "rm"),
        (across, 2, "mt"),
        (across, panel.height - 2, "mb"),
    )
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        draw.text(
            (x, y), letter, (255, 255, 120), font, anchor, stroke_width=1, stroke_fill="black"
        )
    return panel


# The page ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A subject on the page.

    Attributes:
        subject, status: as in the report; the sections of the page are statuses.
        lines: what is said under the picture, the first one in the colour of a warning where there
            is something wrong.
        pictures: relative to the page.
        nmi: NMI in the brain, by which a section is sorted, worst first.
    """

    subject: str
    status: str
    lines: tuple[str, ...]
    pictures: tuple[Path, ...]
    nmi: float


def save_page(path: Path, entries: Iterable[Entry], sections: dict[str, str], summary: str) -> None:
    """Write the page: the sections in their order, those without entries left out.

    Args:
        path: the HTML file; pictures are linked relative to its folder, so both can be copied
            elsewhere together.
        sections: {status: heading}.
        summary: one line for the top.

    Raises:
        InputError: the file cannot be written.
    """
    entries = sorted(entries, key=lambda entry: (entry.nmi, entry.subject))
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<title>prepare.py: alignments</title>",
        f"<style>{_STYLE}</style><h1>Alignments</h1><p>{html.escape(summary)}</p>",
        "<p>Radiological convention: the patient's right is at the image's left. High uptake is "
        "dark in the second column and bright in the others. Within a section the lowest NMI in "
        "the brain comes first.</p>",
    ]
    for status, heading in sections.items():
        chosen = [entry for entry in entries if entry.status == status]
        if chosen:
            parts.append(f"<h2 id='{status}'>{html.escape(heading)} ({len(chosen)})</h2>")
            parts += [_figure(entry) for entry in chosen]
    text = "\n".join(parts).encode("utf-8", "replace").decode("utf-8")
    with replacing(path, "choose another --out") as part:
        part.write_text(text + "\n", encoding="utf-8")


def _figure(entry: Entry) -> str:
    """One subject's picture and lines."""
    name = html.escape(entry.subject)
    image = ""
    for picture in entry.pictures:
        link = html.escape(picture.as_posix())
        image += f"<a href='{link}'><img src='{link}' alt='{name}' loading='lazy'></a>"
    lines = "<br>".join(html.escape(line) for line in entry.lines if line)
    tone = " class='bad'" if entry.status in ("flagged", "failed", "warned") else ""
    caption = f"<b>{name}</b><br><span{tone}>{lines}</span>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
