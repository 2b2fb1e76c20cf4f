"""One HTML file to look at a fused pair with: nothing else is needed, nothing is fetched.

The drawing is NiiVue's (BSD-2-Clause, `niivue-0.69.0.umd.js.gz` beside this file); `viewer.js` says
what is drawn. Volumes are cut to the head and stored in 4096 levels, whole numbers up to 4095 as
they are; where the file would be larger than MOST_BYTES, the fused ones in 256 levels, which is
what a display shows, then the sources, too, and at last of many balances only three are kept.
"""

import base64
import gzip
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from data.foreground import box_of
from data.grids import sides
from utils.colour import MAPS, ColourMap, colour_map
from utils.errors import notice
from utils.files import replacing

FOLDER = Path(__file__).parent
NIIVUE = FOLDER / "niivue-0.69.0.umd.js.gz"
LICENCES = FOLDER / "LICENSE.niivue"
MOST_BYTES = 20_000_000
LEVELS = (4096, 4096), (4096, 256), (256, 256)  # of sources and fused volumes, the finest first
MARGIN = 2  # voxels around the head


@dataclass(frozen=True, eq=False)
class Layer:
    """A volume of the page.

    Attributes:
        name: for the reader.
        array: (X, Y, Z) in RAS+ order, finite, in its own units.
        window: the values that are shown black and white; of a PET no and most uptake.
        unit: of the values.
    """

    name: str
    array: np.ndarray
    window: tuple[float, float] = (0.0, 1.0)
    unit: str = ""


@dataclass(frozen=True, eq=False)
class Page:
    """What a page shows.

    Attributes:
        title: plain text, such as the subject's name.
        affine: (4, 4) voxel index -> RAS+ mm, of all volumes.
        mri, pet: the sources.
        fused: one volume, or one for each method or balance.
        inside: (X, Y, Z) bool, the head; the page holds its box.
        scores: rows of cells, the first one the header.
        notes: lines of plain text.
        balances: the share of the MRI of each fused volume, rising, between which the page blends.
        balance: which of them is shown first.
    """

    title: str
    affine: np.ndarray
    mri: Layer
    pet: Layer
    fused: Sequence[Layer]
    inside: np.ndarray
    scores: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    balances: Sequence[float] | None = None
    balance: float = 0.5


def write_page(path: Path, page: Page, colours: ColourMap) -> int:
    """Write the page; returns its size in bytes.

    Args:
        colours: the map that is chosen first.

    Raises:
        InputError: the file cannot be written.
    """
    pages = [page, _with_three(page)] if page.balances else [page]
    for shown, levels in product(pages, LEVELS):
        text = build_page(shown, colours, levels).encode()
        if len(text) <= MOST_BYTES:
            break
    else:
        notice(f"{path}: {len(text) / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}")
    with replacing(path) as part:
        part.write_bytes(text)
    return len(text)


def _with_three(page: Page) -> Page:
    """The page with the first, the middle and the last of its balances."""
    kept = sorted({0, len(page.balances) // 2, len(page.balances) - 1})
    fused, balances = [page.fused[n] for n in kept], [page.balances[n] for n in kept]
    return replace(page, fused=fused, balances=balances)


def build_page(page: Page, colours: ColourMap, levels: tuple[int, int] = LEVELS[0]) -> str:
    """The page as text.

    Args:
        levels: of the stored sources and fused volumes, at most 32768.
    """
    box = _head_box(page.inside)
    start = [side.start for side in box]
    notes = list(page.notes)
    if page.balances:
        shares = ", ".join(f"{share:g}" for share in page.balances)
        notes.append(f"Fused at the shares {shares} of the MRI; between them the page blends.")
    if levels[1] < LEVELS[0][1]:
        notes.append(f"Fused values are rounded to 1/{levels[1] - 1}; the NIfTI has them exactly.")
    affine = np.array(page.affine, dtype=np.float64)
    affine[:3, 3] = (affine @ [*start, 1])[:3]
    maps = [colours, *(colour_map(name) for name in MAPS if name != colours.name)]
    about = {
        "title": page.title,
        "shape": [side.stop - side.start for side in box],
        "start": start,
        "affine": affine.tolist(),
        "inverse": np.linalg.inv(affine).tolist(),
        "voxel_mm": sides(affine).tolist(),
        "centre": _centre_mm(page.inside[box], affine),
        "scores": [list(map(str, row)) for row in page.scores],
        "notes": notes,
        "balances": None if page.balances is None else list(page.balances),
        "balance": page.balance,
        "first": "colour",
        "maps": [],
        "fused": [],
    }
    data = {"niivue": NIIVUE.read_bytes()}
    for number, entry in enumerate(maps):
        table = np.round(entry.table * 255).astype(int).tolist()
        about["maps"].append({"name": entry.name, "colours": table})
        data[f"map-{number}"] = gzip.compress(entry.fused.tobytes(), mtime=0)
    for name, layer in (("mri", page.mri), ("pet", page.pet)):
        about[name], data[name] = _stored(layer, box, levels[0])
    for number, layer in enumerate(page.fused):
        entry, data[f"fused-{number}"] = _stored(layer, box, levels[1], limits=(0.0, 1.0))
        about["fused"].append(entry)
    return _filled(about, data)


def _filled(about: dict, data: dict[str, bytes]) -> str:
    """The template with everything in its place."""
    # In a script element only "<" can end it; as an escape JSON still means the same.
    text = json.dumps(about, allow_nan=False).replace("<", "\\u003c")
    parts = [
        f"<!--\n{LICENCES.read_text(encoding='utf-8')}-->",
        f'<script type="application/json" id="about">{text}</script>',
    ]
    for name, content in data.items():
        encoded = base64.b64encode(content).decode()
        parts.append(f'<script type="text/plain" id="data-{name}">{encoded}</script>')
    places = {
        "title": html.escape(about["title"]),
        "style": (FOLDER / "viewer.css").read_text(encoding="utf-8"),
        "data": "\n".join(parts),
        "script": (FOLDER / "viewer.js").read_text(encoding="utf-8"),
    }
    template = (FOLDER / "viewer.html").read_text(encoding="utf-8")
    return re.sub("@(title|style|data|script)@", lambda place: places[place[1]], template)


def _head_box(inside: np.ndarray) -> tuple[slice, ...]:
    """The box of the head with a margin."""
    box = []
    for found, side in zip(box_of(inside), inside.shape, strict=True):
        box.append(slice(max(0, found.start - MARGIN), min(side, found.stop + MARGIN)))
    return tuple(box)


def _centre_mm(inside: np.ndarray, affine: np.ndarray) -> list[float]:
    """The middle of the head's box, in mm at a voxel's centre."""
    return (affine @ [*(side // 2 for side in inside.shape), 1])[:3].tolist()


def _stored(
    layer: Layer,
    box: tuple[slice, ...],
    levels: int,
    limits: tuple[float, float] | None = None,
) -> tuple[dict, bytes]:
    """What the page knows of a volume, and its values: value = level * step + offset.

    Args:
        limits: of the values, by default their own.
    """
    array = np.asarray(layer.array[box], dtype=np.float64)
    low, high = limits or (float(array.min()), float(array.max()))
    step = (high - low) / (levels - 1) or 1.0
    if high - low < levels and (array == np.round(array)).all() and not limits:
        low, step = float(np.round(low)), 1.0
    stored = np.clip(np.round((array - low) / step), 0, levels - 1).astype(np.int32)
    change = np.diff(stored, axis=0, prepend=0)
    codes = np.where(change < 0, -2 * change - 1, 2 * change).astype("<u2").ravel(order="F")
    planes = codes.astype(np.uint8), (codes >> 8).astype(np.uint8)
    content = gzip.compress(np.concatenate(planes).tobytes(), compresslevel=6, mtime=0)
    window = [float(value) for value in layer.window]
    about = {"name": layer.name, "unit": layer.unit, "step": step, "offset": low, "window": window}
    return about, content
