"""Synthetic heads: a T1-like MRI and an FDG-like PET of one anatomy, made by a procedure.

    python -m data.phantom --out data/synthetic --subjects 8 --seed 3407 --voxel-mm 2

Nothing is downloaded. The anatomy is written as signed distances (mm, negative inside) in a space
near MNI: x to the right, y to the front, z up, origin near the anterior commissure. Tissues are
painted one over the other with partial volume at their borders. The cortex is folded by the zero
level sets of band-limited random fields on the brain surface: each sheet of such a set, carried
inwards along the normal, is a sulcus.

A subject differs from the next by size, ventricles, folding, a smooth invertible deformation
(scaling and squaring of a velocity field), bias field, PET resolution, noise and, in some, a region
of low uptake. Left and right can be told apart: `TORQUE_MM` moves the right half of every subject
forwards, the left half backwards.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

VERSION = 1  # of the generator: raise it when the same seed gives other files
FIELD_MM = (182.0, 218.0, 182.0)  # field of view, as the MNI152 templates
ORIGIN_MM = (-90.0, -126.0, -72.0)  # world position of voxel (0, 0, 0)
TORQUE_MM = 2.5  # right half this far in front of its mirror image, the left half this far behind
HYPOMETABOLIC_SHARE = 0.4
MRI_SCALE, PET_SCALE = 1000.0, 8000.0  # grey units of bright fat; SUV x 1000 of cortex

# tissue: (label, T1-like signal, FDG-like uptake), relative to 1 for fat and for cortex
TISSUES = {
    "muscle": (1, 0.42, 0.16),
    "fat": (2, 0.90, 0.07),
    "skin": (3, 0.50, 0.20),
    "bone": (4, 0.09, 0.06),
    "marrow": (5, 0.55, 0.14),
    "sinus air": (6, 0.02, 0.01),
    "mucosa": (7, 0.48, 0.28),
    "eye": (8, 0.20, 0.05),
    "lens": (9, 0.40, 0.10),
    "dura": (10, 0.36, 0.15),
    "csf": (11, 0.17, 0.03),
    "grey matter": (12, 0.54, 1.00),
    "white matter": (13, 0.78, 0.25),
    "corpus callosum": (14, 0.79, 0.22),
    "caudate": (15, 0.57, 0.92),
    "putamen": (16, 0.59, 1.05),
    "pallidum": (17, 0.69, 0.70),
    "thalamus": (18, 0.66, 0.90),
    "hippocampus": (19, 0.55, 0.75),
    "cerebellar grey": (20, 0.54, 0.78),
    "cerebellar white": (21, 0.76, 0.28),
    "brain stem": (22, 0.72, 0.45),
}

# name: (centre mm, radii mm, factor): regions of cortex that take up more than the rest
ACTIVE_REGIONS = {
    "visual cortex": ((0, -88, 5), (26, 26, 22), 1.18),
    "frontal cortex": ((0, 48, 22), (55, 34, 40), 1.10),
    "precuneus": ((0, -58, 34), (18, 18, 22), 1.10),
}
HYPOMETABOLIC_REGIONS = {
    "left temporoparietal": ((-54, -48, 12), (26, 32, 34)),
    "right temporoparietal": ((54, -48, 12), (26, 32, 34)),
    "posterior cingulate and precuneus": ((0, -54, 34), (20, 24, 24)),
    "left frontal": ((-36, 42, 22), (30, 34, 38)),
    "right frontal": ((36, 42, 22), (30, 34, 38)),
}

# Tubes, as (|x|, y, z, radius) along their middle.
# The lateral ventricle: frontal horn, body, occipital horn; then the temporal horn.
VENTRICLE_BODY = (
    (12, 33, 0, 2.5), (8, 20, 9, 4.5), (7, 0, 17, 4.2), (11, -20, 18, 4.2),
    (22, -36, 13, 6.0), (25, -52, 8, 4.5), (22, -70, 4, 1.5),
)  # fmt: skip
VENTRICLE_HORN = ((23, -38, 11, 5.5), (31, -32, -3, 3.5), (33, -18, -15, 2.5), (30, -8, -19, 2))
BRAIN_STEM = (
    (0, -22, -7, 11), (0, -23, -16, 13), (0, -29, -32, 12), (0, -38, -52, 8.5),
    (0, -44, -68, 6.5), (0, -48, -90, 6),
)  # fmt: skip
CAUDATE_TAIL = ((13, 10, 13, 3.5), (16, -10, 20, 2.8), (21, -26, 17, 2))
HIPPOCAMPUS = ((23, -4, -20, 7), (27, -20, -15, 5), (26, -34, -5, 3.5))
PETROUS_BONE = ((22, -22, -44, 6), (44, -28, -43, 7), (55, -32, -44, 7))
# The optic nerve and four muscles of the eye.
EYE_STRINGS = (
    ((31, 50, -36, 2.2), (14, 22, -28, 2.0)),
    ((22, 56, -36, 2), (15, 26, -30, 1.5)),
    ((42, 56, -36, 2), (18, 26, -30, 1.5)),
    ((32, 56, -26, 2), (15, 26, -28, 1.5)),
    ((32, 56, -46, 2), (15, 26, -33, 1.5)),
)
# (centre, radii): nasal cavity, maxillary, sphenoid and frontal sinuses, throat.
AIR_SPACES = (
    ((7, 46, -54), (6, 30, 12)),
    ((28, 46, -64), (13, 16, 13)),
    ((7, 22, -39), (8, 11, 8)),
    ((8, 48, -34), (6, 16, 6)),
    ((0, 2, -74), (11, 7, 20)),
)


@dataclass(frozen=True)
class Phantom:
    """One synthetic head; arrays are (X, Y, Z) in RAS+ order.

    Attributes:
        mri: float32, whole numbers, 0 outside the head.
        pet: float32, whole numbers (SUV x 1000), 0 outside the head.
        labels: uint8, the tissue with the largest share, as numbered in `TISSUES`; 0 outside the
            head.
        affine: (4, 4) voxel -> world mm.
        hypometabolic: the key of `HYPOMETABOLIC_REGIONS` with low uptake, or None.
    """

    mri: np.ndarray
    pet: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    hypometabolic: str | None


# --- shapes: signed distances in mm, negative inside; p is (3, X, Y, Z) ---


def _column(xyz) -> np.ndarray:
    """Three numbers, one for each axis, to go with points."""
    return np.asarray(xyz, np.float32).reshape(3, 1, 1, 1)


def _relative(p, centre, radii):
    """Offset from a centre, counted in radii along each axis."""
    return (p - _column(centre)) / _column(radii)  # 3, X, Y, Z


def _ellipsoid(p, centre, radii):
    """Distance to first order: exact on the surface, too short far away from it."""
    q = _relative(p, centre, radii)  # 3, X, Y, Z
    length = np.sqrt((q**2).sum(0))  # X, Y, Z; 1 on the surface
    slope = np.sqrt(((q / _column(radii)) ** 2).sum(0))  # X, Y, Z
    # length - 1, over the length of its gradient, which is slope / length.
    return length * (length - 1) / np.maximum(slope, 1e-6)


def _tube(p, nodes):
    """Distance to a chain of round cones through (x, y, z, radius) nodes."""
    best = None
    for start, end in pairwise(nodes):
        axis = np.subtract(end[:3], start[:3]).astype(np.float32)  # 3
        offset = p - _column(start[:3])  # 3, X, Y, Z
        along = (offset * _column(axis)).sum(0) / (axis @ axis)  # X, Y, Z
        t = np.clip(along, 0, 1)  # 0 at the start, 1 at the end
        nearest = t * _column(axis)  # 3, X, Y, Z
        away = np.sqrt(((offset - nearest) ** 2).sum(0))  # X, Y, Z
        away -= start[3] + t * (end[3] - start[3])
        best = away if best is None else np.minimum(best, away)
    return best


def _union(a, b, blend):
    """Smooth minimum: the two shapes joined, their seam rounded over `blend` mm."""
    h = np.maximum(blend - np.abs(a - b), 0) / blend
    return np.minimum(a, b) - h * h * blend / 4


def _cut(a, b, blend):
    """Smooth maximum: what is inside both."""
    return -_union(-a, -b, blend)


# --- random fields on a lattice that does not depend on the voxel size ---


class _Field:
    """A band-limited random field with zero mean and unit variance, to be sampled anywhere.

    Its lattice spans `PERIOD_MM` and does not depend on the voxel size; neither does the anatomy.
    """

    PERIOD_MM = 288.0

    def __init__(self, rng, wavelength_mm: float, bandwidth: float = 0.25) -> None:
        step = max(wavelength_mm / 8, 2.5)
        n = 2 * round(self.PERIOD_MM / step / 2)  # even, so that irfftn gives n back
        self.spacing = self.PERIOD_MM / n
        full = np.fft.fftfreq(n, self.spacing)  # n; cycles per mm
        half = np.fft.rfftfreq(n, self.spacing)  # n / 2 + 1
        k = np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)  # n, n, n / 2 + 1
        band = np.exp(-(((k * wavelength_mm - 1) / bandwidth) ** 2) / 2)
        spectrum = np.fft.rfftn(rng.standard_normal((n, n, n)))  # n, n, n / 2 + 1
        values = np.fft.irfftn(spectrum * band, (n, n, n), axes=(0, 1, 2))  # n, n, n
        self.values = ((values - values.mean()) / values.std()).astype(np.float32)

    def __call__(self, p) -> np.ndarray:
        """Values at points (3, ...)."""
        return self._sample(self.values, p)

    def slope(self, p) -> np.ndarray:
        """Length of the gradient per mm at points (3, ...)."""
        gradient = np.stack(np.gradient(self.values, self.spacing))  # 3, n, n, n
        return self._sample(np.sqrt((gradient**2).sum(0)), p)

    def _sample(self, values, p):
        where = (p + self.PERIOD_MM / 2) / self.spacing
        return ndimage.map_coordinates(values, where, order=2, mode="grid-wrap", output=np.float32)


def _world_grid(voxel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates (3, X, Y, Z) of every voxel, and the affine."""
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = ORIGIN_MM
    axes = []
    for origin, field in zip(ORIGIN_MM, FIELD_MM, strict=True):
        count = round(field / voxel_mm)
        axes.append((origin + voxel_mm * np.arange(count)).astype(np.float32))
    return np.stack(np.meshgrid(*axes, indexing="ij")), affine


# --- deformation: a velocity field on a lattice of 8 mm about the head ---

_STEP_MM = 8.0
_LATTICE = (29, 35, 31)
_LATTICE_ORIGIN_MM = (-112, -144, -104)
_SQUARINGS = 5


def _velocity(rng) -> np.ndarray:
    """A smooth random velocity (3, *_LATTICE) of at most 4 to 8 mm (drawn)."""
    components = [ndimage.gaussian_filter(rng.standard_normal(_LATTICE), 3.0) for _ in "xyz"]
    velocity = np.stack(components)  # 3, I, J, K
    points = np.indices(_LATTICE) * _STEP_MM + _column(_LATTICE_ORIGIN_MM)  # 3, I, J, K
    # Still at the edge of the field of view, so that no head is pushed out of it.
    edge = (_relative(points, (0, -17, 10), (95, 112, 105)) ** 2).sum(0)  # I, J, K
    velocity *= np.exp(-(edge**2))
    speed = np.sqrt((velocity**2).sum(0))  # I, J, K
    velocity *= rng.uniform(4, 8) / speed.max()
    return velocity


def _flow(velocity: np.ndarray) -> np.ndarray:
    """Shift (3, *_LATTICE) in mm after one unit of time, by scaling and squaring.

    Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006: a
    small step is followed by itself, and the result again, which keeps the map invertible.
    """
    shift = velocity / 2**_SQUARINGS
    index = np.indices(_LATTICE).astype(float)  # 3, I, J, K
    for _ in range(_SQUARINGS):
        moved = index + shift / _STEP_MM
        ahead = [ndimage.map_coordinates(s, moved, order=1, mode="nearest") for s in shift]
        shift = shift + np.stack(ahead)
    return shift


def _deform(p, rng):
    """World points -> points of the standard anatomy: size, torque and a smooth diffeomorphism.

    The velocity field is at most 4 to 8 mm (drawn), and the deformation about as much.
    """
    shift = _flow(_velocity(rng))  # 3, I, J, K
    where = (p - _column(_LATTICE_ORIGIN_MM)) / _STEP_MM  # 3, X, Y, Z
    size = rng.uniform(0.95, 1.02, 3)
    moved = []
    for a, s, f in zip(p, shift, size, strict=True):
        moved.append((a + ndimage.map_coordinates(s, where, order=3, output=np.float32)) / f)
    x, y, z = moved
    y = y - TORQUE_MM * np.tanh(x / 30)
    return np.stack([x, y, z]).astype(np.float32)  # 3, X, Y, Z


# --- anatomy; s is (side, y, z) with side = |x|, so that both halves have one shape ---


def _tentorium(side, y):
    """Height of the roof of the posterior fossa: a tent that falls to the sides and the back."""
    return 1 - 0.32 * side - 0.20 * np.maximum(-45 - y, 0)


def _cerebrum_hull(s):
    """Cerebrum without folds and without the fissure between the halves."""
    side, y, z = s
    roof = _tentorium(side, y)
    egg = np.stack([side * (1 + 0.0003 * (y + 25)), y, z])  # wider behind than in front
    front = 1 / (1 + np.exp(-(y - 6) / 5))  # 1 before y = 6 mm, 0 behind
    skull_base = -27 + 11 * np.minimum(side / 32, 1) ** 2
    base = front * skull_base + (1 - front) * (roof - 1)
    main = _cut(_ellipsoid(egg, (0, -17, 10), (70, 88, 66)), base - z, 5)
    temporal = _ellipsoid(s, (40, -11, -21), (26, 37, 23))
    floor = roof - 14 - np.maximum(y + 45, 0)
    return _union(main, _cut(temporal, floor - z, 6), 5)


def _cerebellum_hull(s):
    """Cerebellum without leaves: two lobes and the vermis between them, under the tentorium."""
    side, y, z = s
    lobes = _ellipsoid(s, (23, -62, -32), (29, 29, 25))
    vermis = _ellipsoid(s, (0, -60, -27), (15, 26, 28))
    return _cut(_union(lobes, vermis, 5), z - _tentorium(side, y) + 2, 2)


def _stem_hull(s):
    """Brain stem: a tube, with the pons in front of it and the tectum behind."""
    stem = _union(_tube(s, BRAIN_STEM), _ellipsoid(s, (0, -23, -31), (17, 12, 14)), 5)
    return _union(stem, _ellipsoid(s, (0, -34, -8), (9, 7, 9)), 4)


def _sylvian(s, wobble):
    """Distance to the Sylvian fissure: a slit above the temporal lobe, and the insula inside.

    `wobble` is a random field that bends both.
    """
    side = s[0] + 2.0 * wobble
    y = s[1]
    z = s[2] + 2.5 * wobble
    height = -9 - 0.42 * (y - 12)
    inside = np.maximum(37 - side, 0)
    behind = np.maximum(-42 - y, 0)
    slit = np.sqrt(((z - height) * 0.92) ** 2 + inside**2 + behind**2)
    up = np.maximum(np.abs(z - 2 + 0.15 * y) - 11, 0)
    along = np.maximum(np.abs(y) - 22, 0)
    insula = np.sqrt((side - 38 + 0.004 * y * y) ** 2 + up**2 + along**2)
    return np.minimum(slit, insula)


def _fissure(s):
    """Distance to the sheet between the two halves, and the relative radius around its core.

    The sheet ends where the core (callosum and diencephalon) begins, at relative radius 1.
    """
    side, y, z = s
    core = np.hypot((y + 5) / 39, (z - 1) / 26)
    return np.hypot(side, np.maximum((1 - core) * 28, 0)), core


def _sulci(surface, depth, rng):
    """Distance (N) to the sulci that start at points (3, N) of the surface, at a depth (N)."""
    secondary = 13.0 + 2.8 * np.clip(_Field(rng, 45.0)(surface), -1.2, 1.2)  # N
    # three sets: wavelength (twice the distance between sulci), depth of the floor, opening
    sets = (50.0, 18.0, 1.2), (23.5, secondary, 1.0), (17.0, 3.0, 0.5)
    width = 0.35 + 0.8 * np.exp(-np.maximum(depth, 0) / 4)  # wider at the top
    nearest = np.inf
    for wavelength, floor, opening in sets:
        field = _Field(rng, wavelength, 0.15)
        # Level over slope is the distance to the zero level set; the constant keeps it finite.
        slope = np.sqrt(field.slope(surface) ** 2 + (1.8 / wavelength) ** 2)  # N
        sheet = np.abs(field(surface)) / slope
        below = np.maximum(depth - floor, 0)
        nearest = np.minimum(nearest, np.hypot(sheet, below) - opening * width)
    return nearest


def _pial_depth(p, s, hull, rng, voxel_mm):
    """Depth below the folded brain surface in mm, negative in the CSF outside and in sulci.

    Args:
        p, s: (3, X, Y, Z) points, and the same with |x|.
        hull: (X, Y, Z) signed distance to the cerebrum without folds.
    """
    fissure, _ = _fissure(s)
    outer = _union(-hull, fissure - 0.4, 4)  # X, Y, Z
    near = outer > -3  # folds are worked out only where there is brain
    normal = np.stack(np.gradient(outer, voxel_mm))  # 3, X, Y, Z
    depth, normal = outer[near], normal[:, near]  # N and 3, N
    p, s = p[:, near], s[:, near]  # 3, N
    steep = np.sqrt((normal**2).sum(0))  # N
    inwards = np.clip(depth, -4, 22)
    surface = p - inwards * normal / np.maximum(steep, 0.5)  # 3, N
    lean = 0.35 * inwards * _Field(rng, 32.0)(p)  # sulci are curved sheets, not planes
    surface += lean * np.reshape([1, -1, 1], (3, 1))

    sylvian = _sylvian(s, _Field(rng, 16.0)(p)) - 0.9  # N
    # Half way between two surfaces there is no normal, and so no sulcus.
    ridge = np.where(depth > 6, 20 * np.maximum(0.7 - steep, 0), 0)
    folds = np.minimum(sylvian, _sulci(surface, depth, rng) + ridge)
    outer[near] = _union(depth, folds, 2.0)
    return outer  # X, Y, Z


def _cerebellar_depth(p, s, hull, rng):
    """Depth below the foliated surface in mm: fine and a few deep leaves fan out from the front."""
    _, y, z = s
    radius = np.maximum(np.hypot(y + 42, z + 32), 4)
    angle = np.arctan2(z + 32, -(y + 42)) + 0.05 * _Field(rng, 30.0)(p)
    result = -hull
    for waves, floor, width in ((17, 4.5, 0.2), (5, 13, 0.5)):
        sheet = np.abs(np.sin(waves * angle)) * radius / waves
        leaf = np.hypot(sheet, np.maximum(-hull - floor, 0)) - width
        result = np.minimum(result, leaf)
    return result


# --- painting ---


class _Canvas:
    """T1-like signal, FDG-like uptake and label, painted tissue over tissue with partial volume."""

    def __init__(self, shape, voxel_mm) -> None:
        self.voxel_mm = voxel_mm
        self.t1 = np.zeros(shape, np.float32)
        self.fdg = np.zeros(shape, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def paint(self, tissue: str, distance: np.ndarray) -> None:
        """Cover with a tissue where the signed distance is negative."""
        label, t1, fdg = TISSUES[tissue]
        share = np.clip(0.5 - distance / self.voxel_mm, 0, 1)
        self.t1 += share * (t1 - self.t1)
        self.fdg += share * (fdg - self.fdg)
        self.labels[share > 0.5] = label


def _head_outline(s, inner):
    """Signed distance to the skin, around the inner side of the skull."""
    side, y, z = s
    bulge = ((side - 62) / 22) ** 2 + ((y - 15) / 40) ** 2 + ((z + 12) / 30) ** 2
    temple = 3.5 * np.exp(-bulge)
    head = inner - 12.0 - temple
    head = _union(head, _ellipsoid(s, (0, 34, -54), (64, 44, 66)), 16)  # face
    head = _union(head, _ellipsoid(s, (0, 74, -48), (10, 13, 19)), 8)  # nose
    head = _union(head, _ellipsoid(s, (0, -26, -104), (72, 66, 90)), 24)  # neck
    return _union(head, _ellipsoid(s, (77, -22, -30), (7, 13, 22)), 4)  # ears


def _paint_head(canvas, p, s, inner, rng):
    """Skin, fat, muscle, skull and face; returns the signed distance to the skin."""
    wobble = _Field(rng, 50.0)(p)
    head = _head_outline(s, inner)
    canvas.paint("fat", head)
    canvas.paint("muscle", np.maximum(head + 5.5 + 0.8 * wobble, 4 - inner))
    strands = np.abs(_Field(rng, 22.0)(p)) * 5 - 0.5  # fat between the muscles
    below = s[2] + 38
    canvas.paint("fat", np.maximum(strands, np.maximum(head + 6, below)))
    canvas.paint("skin", np.maximum(head, -head - 2.0))

    thickness = 6.3 + 0.7 * wobble
    canvas.paint("bone", np.maximum(inner - thickness, head + 4))
    canvas.paint("marrow", np.abs(inner - 0.52 * thickness) - (0.9 + 0.25 * wobble))
    canvas.paint("bone", _tube(s, PETROUS_BONE))
    canvas.paint("marrow", _ellipsoid(s, (0, -4, -44), (11, 7, 13)))  # clivus
    canvas.paint("bone", _ellipsoid(s, (0, -22, -76), (13, 10, 13)))  # upper cervical spine
    canvas.paint("marrow", _ellipsoid(s, (0, -22, -76), (10, 7, 10)))
    canvas.paint("bone", _ellipsoid(s, (50, 8, -72), (5, 15, 24)))  # jaw
    canvas.paint("marrow", _ellipsoid(s, (50, 8, -72), (2.5, 12, 21)))
    _paint_face(canvas, s)
    return head


def _paint_face(canvas, s):
    """Orbits with eyes, and the air spaces with their lining."""
    side = s[0]
    canvas.paint("fat", _ellipsoid(s, (29, 45, -36), (15, 24, 14)))
    for nodes in EYE_STRINGS:
        canvas.paint("muscle", _tube(s, nodes))
    eye = _ellipsoid(s, (32, 55, -36), (12.5, 12, 12.5))
    canvas.paint("dura", eye)
    canvas.paint("eye", eye + 1.3)
    canvas.paint("lens", _ellipsoid(s, (33, 63.5, -36), (5, 2.3, 5)))
    lining_mm = 1.6
    for centre, radii in AIR_SPACES:
        space = _ellipsoid(s, centre, radii)
        canvas.paint("mucosa", space)
        septum = 1.4 - side if centre[0] else -1e3  # none in the one in the middle
        canvas.paint("sinus air", np.maximum(space + lining_mm, septum))
    canvas.paint("mucosa", _ellipsoid(s, (7, 42, -58), (3, 22, 3.5)))  # turbinate


def _paint_cerebrum(canvas, p, s, hull, rng, voxel_mm):
    """Falx, cortex, white matter and corpus callosum."""
    side, y, z = s
    _, core = _fissure(s)
    sheet = np.maximum(side - 0.25, 1.25 - core)
    canvas.paint("dura", np.maximum(sheet, np.maximum(hull, -8 - z)))

    pial = _pial_depth(p, s, hull, rng, voxel_mm)
    canvas.paint("grey matter", -pial)
    thickness = 2.6 + 0.25 * _Field(rng, 60.0)(p)
    canvas.paint("white matter", thickness - pial)

    ring = (np.hypot((y + 5) / 36, (z - 1) / 22.5) - 1) * 26
    thick = 2.6 + 0.0016 * (y + 3) ** 2
    upper_middle = np.maximum(2 - z, side - 9)
    canvas.paint("corpus callosum", _cut(np.abs(ring) - thick, upper_middle, 5))


def _paint_nuclei(canvas, s):
    """Basal ganglia, thalamus and hippocampus."""
    side, y, z = s
    slanted = np.stack([side + 0.16 * (y - 2), y, z])  # the lentiform nucleus opens to the back
    canvas.paint("putamen", _ellipsoid(slanted, (27, 2, 1), (5.5, 17, 11)))
    canvas.paint("pallidum", _ellipsoid(slanted, (19.5, -2, -1), (4.5, 10, 7)))
    canvas.paint("thalamus", _ellipsoid(s, (11, -18, 7), (9.5, 15, 9)))
    caudate_head = _ellipsoid(s, (13, 15, 5), (6, 11, 9))
    canvas.paint("caudate", _union(caudate_head, _tube(s, CAUDATE_TAIL), 3))
    canvas.paint("hippocampus", _tube(s, HIPPOCAMPUS))


def _paint_hindbrain(canvas, p, s, cerebellum, stem, rng):
    """Brain stem, and the cerebellum with its leaves."""
    canvas.paint("brain stem", stem)
    depth = _cerebellar_depth(p, s, cerebellum, rng)
    canvas.paint("cerebellar grey", -depth)
    canvas.paint("cerebellar white", 2.2 - depth)
    canvas.paint("brain stem", _ellipsoid(s, (9, -42, -32), (9, 12, 7)))  # peduncles


def _paint_ventricles(canvas, s, size):
    """Lateral ventricles, third, aqueduct and fourth."""
    grow = 2.5 * (size - 1)
    lateral = np.minimum(_tube(s, VENTRICLE_BODY), _tube(s, VENTRICLE_HORN)) - grow
    septum = 0.8 - s[0]
    canvas.paint("csf", np.maximum(lateral, septum))
    canvas.paint("csf", _ellipsoid(s, (0, -11, -1), (2 * size, 13, 9)))
    canvas.paint("csf", _tube(s, ((0, -30, -6, 1.0), (0, -38, -20, 1.2))))
    canvas.paint("csf", _ellipsoid(s, (0, -42, -32), (6, 4.5, 10)))


# --- images ---


def _mri_signal(t1, head, p, rng):
    """T1-like signal -> MRI: bias field of about 10 to 15 %, Rician noise, 0 outside the head."""
    bias = _Field(rng, 190.0, 0.3)(p)
    bias *= rng.uniform(0.10, 0.15) / np.abs(bias[head]).max()
    signal = ndimage.gaussian_filter(t1, 0.35) * np.exp(bias)
    sigma = rng.uniform(0.016, 0.026)
    noise = rng.standard_normal((2, *t1.shape), dtype=np.float32) * sigma  # 2, X, Y, Z
    # The magnitude of a complex signal whose two parts are noisy.
    signal = np.hypot(signal + noise[0], noise[1])
    return np.where(head, np.rint(signal * MRI_SCALE), 0).astype(np.float32)


def _bump(p, centre, radii):
    """1 in the middle of a region, falling smoothly to 0 around its border."""
    r2 = (_relative(p, centre, radii) ** 2).sum(0)  # X, Y, Z
    return np.exp(-(r2**2))


def _regional_uptake(fdg, labels, p, rng, hypometabolic):
    """Tissue uptake with the more active regions, its variation, and the one of low uptake."""
    factor = np.ones_like(fdg)
    for centre, radii, gain in ACTIVE_REGIONS.values():
        factor += (gain - 1) * _bump(p, centre, radii)
    factor += 0.05 * _Field(rng, 45.0)(p)
    drop = rng.uniform(0.20, 0.45)
    if hypometabolic:
        factor *= 1 - drop * _bump(p, *HYPOMETABOLIC_REGIONS[hypometabolic])
    grey = np.isin(labels, [TISSUES[name][0] for name in ("grey matter", "hippocampus")])
    return fdg * np.where(grey | (fdg > 0.3), factor, 1)


def _pet_signal(uptake, head, rng, voxel_mm):
    """Uptake -> PET: point spread of 5 to 7 mm FWHM, correlated noise, >= 0, 0 outside the head."""
    to_voxels = 1 / (2.3548 * voxel_mm)  # FWHM in mm -> standard deviation in voxels
    fwhm_mm = rng.uniform(5, 7)
    noise_level = rng.uniform(0.03, 0.05)
    blurred = ndimage.gaussian_filter(uptake, fwhm_mm * to_voxels)
    noise = rng.standard_normal(uptake.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 4.5 * to_voxels)
    noise *= noise_level / noise.std()
    # Counts are Poisson: their spread grows with the square root.
    pet = np.maximum(blurred + noise * np.sqrt(np.maximum(blurred, 0)), 0)
    return np.where(head, np.rint(pet * PET_SCALE), 0).astype(np.float32)


def _draw_hypometabolic(rng) -> str | None:
    """The region of low uptake, in `HYPOMETABOLIC_SHARE` of the subjects."""
    ill = rng.random() < HYPOMETABOLIC_SHARE
    region = rng.integers(len(HYPOMETABOLIC_REGIONS))
    return list(HYPOMETABOLIC_REGIONS)[region] if ill else None


def make_subject(seed: int, voxel_mm: float = 2.0) -> Phantom:
    """Make one head; the same seed and voxel size give the same arrays.

    The anatomy depends on the seed alone, not on the voxel size (the noise does).

    Args:
        seed: any whole number of at least 0.
        voxel_mm: edge of the cubic voxels in mm; the field of view is 182 x 218 x 182 mm.
    """
    # Own streams, so that the noise, which grows with the number of voxels, moves nothing else.
    rng, illness_rng, mri_rng, pet_rng = np.random.default_rng(seed).spawn(4)
    ventricle_size = rng.uniform(0.7, 1.6)
    hypometabolic = _draw_hypometabolic(illness_rng)

    world, affine = _world_grid(voxel_mm)  # 3, X, Y, Z
    p = _deform(world, rng)  # 3, X, Y, Z
    side = np.sqrt(p[0] ** 2 + 0.01)  # |x|, rounded over the midline
    s = np.stack([side, p[1], p[2]])  # 3, X, Y, Z
    cerebrum = _cerebrum_hull(s)
    cerebellum = _cerebellum_hull(s)
    stem = _stem_hull(s)
    brain = _union(cerebrum, cerebellum, 8)
    inner = _union(brain, stem - 2, 8) - 1.5  # of the skull

    canvas = _Canvas(world.shape[1:], voxel_mm)
    skin = _paint_head(canvas, p, s, inner, rng)
    canvas.paint("csf", inner)
    _paint_cerebrum(canvas, p, s, cerebrum, rng, voxel_mm)
    _paint_nuclei(canvas, s)
    _paint_hindbrain(canvas, p, s, cerebellum, stem, rng)
    _paint_ventricles(canvas, s, ventricle_size)

    head = skin < 0
    labels = np.where(head, canvas.labels, 0).astype(np.uint8)
    mri = _mri_signal(canvas.t1, head, world, mri_rng)
    uptake = _regional_uptake(canvas.fdg, labels, p, pet_rng, hypometabolic)
    pet = _pet_signal(uptake, head, pet_rng, voxel_mm)
    return Phantom(mri, pet, labels, affine, hypometabolic)
