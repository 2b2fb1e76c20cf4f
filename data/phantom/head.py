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

# (|x|, y, z, radius) along the lateral ventricle: frontal horn, body, occipital horn; then the
# temporal horn
VENTRICLE_BODY = (
    (12, 33, 0, 2.5), (8, 20, 9, 4.5), (7, 0, 17, 4.2), (11, -20, 18, 4.2),
    (22, -36, 13, 6.0), (25, -52, 8, 4.5), (22, -70, 4, 1.5),
)  # fmt: skip
VENTRICLE_HORN = ((23, -38, 11, 5.5), (31, -32, -3, 3.5), (33, -18, -15, 2.5), (30, -8, -19, 2))
BRAIN_STEM = (
    (0, -22, -7, 11), (0, -23, -16, 13), (0, -29, -32, 12), (0, -38, -52, 8.5),
    (0, -44, -68, 6.5), (0, -48, -90, 6),
)  # fmt: skip


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


def _ellipsoid(p, centre, radii):
    q = [(a - c) / r for a, c, r in zip(p, centre, radii, strict=True)]
    length = np.sqrt(sum(a * a for a in q))
    slope = np.sqrt(sum((a / r) ** 2 for a, r in zip(q, radii, strict=True)))
    return length * (length - 1) / np.maximum(slope, 1e-6)


def _tube(p, nodes):
    """Chain of round cones through (x, y, z, radius) nodes."""
    best = None
    for a, b in zip(nodes[:-1], nodes[1:], strict=True):
        axis = np.subtract(b[:3], a[:3]).astype(np.float32)
        offset = [c - start for c, start in zip(p, a[:3], strict=True)]
        t = np.clip(sum(o * d for o, d in zip(offset, axis, strict=True)) / (axis @ axis), 0, 1)
        away = np.sqrt(sum((o - t * d) ** 2 for o, d in zip(offset, axis, strict=True)))
        away -= a[3] + t * (b[3] - a[3])
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
        n = 2 * round(self.PERIOD_MM / max(wavelength_mm / 8, 2.5) / 2)
        shape, self.spacing = (n, n, n), self.PERIOD_MM / n
        cycles = np.fft.fftfreq(n, self.spacing), np.fft.rfftfreq(n, self.spacing)
        k = np.sqrt(cycles[0][:, None, None] ** 2 + cycles[0][:, None] ** 2 + cycles[1] ** 2)
        band = np.exp(-(((k * wavelength_mm - 1) / bandwidth) ** 2) / 2)
        values = np.fft.irfftn(
            np.fft.rfftn(rng.standard_normal(shape)) * band, shape, axes=(0, 1, 2)
        )
        self.values = ((values - values.mean()) / values.std()).astype(np.float32)

    def __call__(self, p) -> np.ndarray:
        return self._sample(self.values, p)

    def slope(self, p) -> np.ndarray:
        """Length of the gradient per mm."""
        slope = np.sqrt(sum(g * g for g in np.gradient(self.values, self.spacing)))
        return self._sample(slope, p)

    def _sample(self, values, p):
        where = np.stack([(a + self.PERIOD_MM / 2) / self.spacing for a in p])
        return ndimage.map_coordinates(values, where, order=2, mode="grid-wrap", output=np.float32)


def _world_grid(voxel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """World coordinates (3, X, Y, Z) of every voxel, and the affine."""
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = ORIGIN_MM
    axes = [
        (o + voxel_mm * np.arange(round(f / voxel_mm))).astype(np.float32)
        for o, f in zip(ORIGIN_MM, FIELD_MM, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij")), affine


def _deform(p, rng):
    """World points -> points of the standard anatomy: size, torque and a smooth diffeomorphism.

    The velocity field is at most 4 to 8 mm (drawn), and the deformation about as much.
    """
    spacing = 8.0
    shape = (29, 35, 31)
    lattice = np.stack(np.meshgrid(*[np.arange(n) * spacing for n in shape], indexing="ij"))
    lattice -= np.reshape([112, 144, 104], (3, 1, 1, 1))
    velocity = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 3.0) for _ in "xyz"])
    # Still at the edge of the field of view, so that no head is pushed out of it.
    centre, radii = (0, -17, 10), (95, 112, 105)
    still = sum(((a - c) / r) ** 2 for a, c, r in zip(lattice, centre, radii, strict=True))
    velocity *= np.exp(-(still**2))
    velocity *= rng.uniform(4, 8) / np.sqrt((velocity**2).sum(0)).max()

    steps = 5
    shift = velocity / 2**steps
    index = np.indices(shape).astype(float)
    for _ in range(steps):
        moved = index + shift / spacing
        shift = shift + np.stack(
            [ndimage.map_coordinates(s, moved, order=1, mode="nearest") for s in shift]
        )
    where = [(a + o) / spacing for a, o in zip(p, (112, 144, 104), strict=True)]
    shift = [ndimage.map_coordinates(s, where, order=3, output=np.float32) for s in shift]
    size = rng.uniform(0.95, 1.02, 3)
    x, y, z = ((a + s) / f for a, s, f in zip(p, shift, size, strict=True))
    return np.stack([x, y - TORQUE_MM * np.tanh(x / 30), z]).astype(np.float32)


# --- anatomy ---


def _tentorium(ax, y):
    """Height of the roof of the posterior fossa: a tent that falls to the sides and the back."""
    return 1 - 0.32 * ax - 0.20 * np.maximum(-45 - y, 0)


def _cerebrum_hull(s):
    """Cerebrum without folds and without the fissure between the halves; s is (|x|, y, z)."""
    ax, y, z = s
    egg = np.stack([ax * (1 + 0.0003 * (y + 25)), y, z])  # wider behind than in front
    front = 1 / (1 + np.exp(-(y - 6) / 5))
    base = front * (-27 + 11 * np.minimum(ax / 32, 1) ** 2) + (1 - front) * (_tentorium(ax, y) - 1)
    main = _cut(_ellipsoid(egg, (0, -17, 10), (70, 88, 66)), base - z, 5)
    temporal = _ellipsoid(s, (40, -11, -21), (26, 37, 23))
    return _union(main, _cut(temporal, _tentorium(ax, y) - 14 - np.maximum(y + 45, 0) - z, 6), 5)


def _cerebellum_hull(s):
    ax, y, z = s
    lobes = _union(
        _ellipsoid(s, (23, -62, -32), (29, 29, 25)), _ellipsoid(s, (0, -60, -27), (15, 26, 28)), 5
    )
    return _cut(lobes, z - _tentorium(ax, y) + 2, 2)


def _sylvian(s, wobble):
    """Distance to the Sylvian fissure: a slit above the temporal lobe, and the insula inside.

    `wobble` is a random field that bends both.
    """
    ax, y, z = s[0] + 2.0 * wobble, s[1], s[2] + 2.5 * wobble
    height = -9 - 0.42 * (y - 12)
    behind = np.maximum(-42 - y, 0)
    slit = np.sqrt(((z - height) * 0.92) ** 2 + np.maximum(37 - ax, 0) ** 2 + behind**2)
    up = np.maximum(np.abs(z - 2 + 0.15 * y) - 11, 0)
    along = np.maximum(np.abs(y - 0) - 22, 0)
    insula = np.sqrt((ax - 38 + 0.004 * y * y) ** 2 + up**2 + along**2)
    return np.minimum(slit, insula)


def _fissure(s):
    """Distance to the sheet between the two halves, and the relative radius around its core.

    The sheet ends where the core (callosum and diencephalon) begins, at relative radius 1.
    """
    ax, y, z = s
    core = np.hypot((y + 5) / 39, (z - 1) / 26)
    return np.hypot(ax, np.maximum((1 - core) * 28, 0)), core


def _pial_depth(p, s, hull, rng, voxel_mm):
    """Depth below the folded brain surface in mm, negative in the CSF outside and in sulci."""
    fissure, _ = _fissure(s)
    outer = _union(-hull, fissure - 0.4, 4)
    near = outer > -3  # folds are worked out only where there is brain
    depth, p, s = outer[near], p[:, near], s[:, near]
    normal = np.stack([slope[near] for slope in np.gradient(outer, voxel_mm)])
    steep = np.sqrt((normal**2).sum(0))
    # Half way between two surfaces there is no normal, and so no sulcus.
    ridge = np.where(depth > 6, 20 * np.maximum(0.7 - steep, 0), 0)
    inwards = np.clip(depth, -4, 22)
    surface = p - inwards * normal / np.maximum(steep, 0.5)
    lean = 0.35 * inwards * _Field(rng, 32.0)(p)  # sulci are curved sheets, not planes
    surface += lean * np.reshape([1, -1, 1], (3, 1))

    width = 0.35 + 0.8 * np.exp(-np.maximum(depth, 0) / 4)
    folds = _sylvian(s, _Field(rng, 16.0)(p)) - 0.9
    secondary = 13.0 + 2.8 * np.clip(_Field(rng, 45.0)(surface), -1.2, 1.2)
    # wavelength (twice the distance between sulci), depth of the floor and opening of three sets of
    # sulci
    sets = (50.0, 18.0, 1.2), (23.5, secondary, 1.0), (17.0, 3.0, 0.5)
    for wavelength, floor, opening in sets:
        field = _Field(rng, wavelength, 0.15)
        # Level over slope is the distance to the zero level set; the constant keeps it finite.
        slope = np.sqrt(field.slope(surface) ** 2 + (1.8 / wavelength) ** 2)
        sheet = np.abs(field(surface)) / slope
        sulcus = np.hypot(sheet, np.maximum(depth - floor, 0)) - opening * width
        folds = np.minimum(folds, sulcus + ridge)
    outer[near] = _union(depth, folds, 2.0)
    return outer


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


class _Canvas:
    """T1-like signal, FDG-like uptake and label, painted tissue over tissue with partial volume."""

    def __init__(self, shape, voxel_mm) -> None:
        self.voxel_mm = voxel_mm
        self.t1, self.fdg = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def paint(self, tissue: str, distance: np.ndarray) -> None:
        """Cover with a tissue where the signed distance is negative."""
        label, t1, fdg = TISSUES[tissue]
        share = np.clip(0.5 - distance / self.voxel_mm, 0, 1)
        self.t1 += share * (t1 - self.t1)
        self.fdg += share * (fdg - self.fdg)
        self.labels[share > 0.5] = label


def _paint_head(canvas, p, s, inner, rng):
    """Skin, fat, muscle, skull and face; returns the signed distance to the skin."""
    ax, y, z = s
    wobble = _Field(rng, 50.0)(p)
    temple = 3.5 * np.exp(-(((ax - 62) / 22) ** 2) - ((y - 15) / 40) ** 2 - ((z + 12) / 30) ** 2)
    head = inner - 12.0 - temple
    face = _ellipsoid(s, (0, 34, -54), (64, 44, 66))
    nose = _ellipsoid(s, (0, 74, -48), (10, 13, 19))
    neck = _ellipsoid(s, (0, -26, -104), (72, 66, 90))
    ear = _ellipsoid(s, (77, -22, -30), (7, 13, 22))
    head = _union(_union(_union(_union(head, face, 16), nose, 8), neck, 24), ear, 4)

    canvas.paint("fat", head)
    canvas.paint("muscle", np.maximum(head + 5.5 + 0.8 * wobble, 4 - inner))
    strands = np.abs(_Field(rng, 22.0)(p)) * 5 - 0.5  # fat between the muscles
    canvas.paint("fat", np.maximum(strands, np.maximum(head + 6, z + 38)))
    canvas.paint("skin", np.maximum(head, -head - 2.0))

    thickness = 6.3 + 0.7 * wobble
    canvas.paint("bone", np.maximum(inner - thickness, head + 4))
    canvas.paint("marrow", np.abs(inner - 0.52 * thickness) - (0.9 + 0.25 * wobble))
    canvas.paint("bone", _tube(s, ((22, -22, -44, 6), (44, -28, -43, 7), (55, -32, -44, 7))))
    canvas.paint("marrow", _ellipsoid(s, (0, -4, -44), (11, 7, 13)))  # clivus
    canvas.paint("bone", _ellipsoid(s, (0, -22, -76), (13, 10, 13)))  # upper cervical spine
    canvas.paint("marrow", _ellipsoid(s, (0, -22, -76), (10, 7, 10)))
    canvas.paint("bone", _ellipsoid(s, (50, 8, -72), (5, 15, 24)))  # jaw
    canvas.paint("marrow", _ellipsoid(s, (50, 8, -72), (2.5, 12, 21)))
    _paint_face(canvas, s)
    return head


def _paint_face(canvas, s):
    """Orbits with eyes, and the air spaces with their lining."""
    ax = s[0]
    canvas.paint("fat", _ellipsoid(s, (29, 45, -36), (15, 24, 14)))
    for nodes in (((31, 50, -36, 2.2), (14, 22, -28, 2.0)), ((22, 56, -36, 2), (15, 26, -30, 1.5)),
                  ((42, 56, -36, 2), (18, 26, -30, 1.5)), ((32, 56, -26, 2), (15, 26, -28, 1.5)),
                  ((32, 56, -46, 2), (15, 26, -33, 1.5))):  # fmt: skip
        canvas.paint("muscle", _tube(s, nodes))
    eye = _ellipsoid(s, (32, 55, -36), (12.5, 12, 12.5))
    canvas.paint("dura", eye)
    canvas.paint("eye", eye + 1.3)
    canvas.paint("lens", _ellipsoid(s, (33, 63.5, -36), (5, 2.3, 5)))
    lining = 1.6
    for centre, radii in (((7, 46, -54), (6, 30, 12)), ((28, 46, -64), (13, 16, 13)),
                          ((7, 22, -39), (8, 11, 8)), ((8, 48, -34), (6, 16, 6)),
                          ((0, 2, -74), (11, 7, 20))):  # fmt: skip
        space = _ellipsoid(s, centre, radii)
        canvas.paint("mucosa", space)
        septum = 1.4 - ax if centre[0] else -1e3
        canvas.paint("sinus air", np.maximum(space + lining, septum))
    canvas.paint("mucosa", _ellipsoid(s, (7, 42, -58), (3, 22, 3.5)))  # turbinate


def _paint_brain(canvas, p, s, hulls, rng, ventricle_size, voxel_mm):
    """Cerebrum, deep nuclei, ventricles, brain stem and cerebellum into the CSF."""
    ax, y, z = s
    cerebrum, cerebellum, stem = hulls
    _, core = _fissure(s)
    falx = np.maximum(np.maximum(ax - 0.25, 1.25 - core), np.maximum(cerebrum, -8 - z))
    canvas.paint("dura", falx)

    pial = _pial_depth(p, s, cerebrum, rng, voxel_mm)
    canvas.paint("grey matter", -pial)
    thickness = 2.6 + 0.25 * _Field(rng, 60.0)(p)
    canvas.paint("white matter", thickness - pial)
    ring = (np.hypot((y + 5) / 36, (z - 1) / 22.5) - 1) * 26
    thick = 2.6 + 0.0016 * (y + 3) ** 2
    canvas.paint("corpus callosum", _cut(np.abs(ring) - thick, np.maximum(2 - z, ax - 9), 5))

    nucleus = np.stack([ax + 0.16 * (y - 2), y, z])
    canvas.paint("putamen", _ellipsoid(nucleus, (27, 2, 1), (5.5, 17, 11)))
    canvas.paint("pallidum", _ellipsoid(nucleus, (19.5, -2, -1), (4.5, 10, 7)))
    canvas.paint("thalamus", _ellipsoid(s, (11, -18, 7), (9.5, 15, 9)))
    canvas.paint("caudate", _union(
        _ellipsoid(s, (13, 15, 5), (6, 11, 9)),
        _tube(s, ((13, 10, 13, 3.5), (16, -10, 20, 2.8), (21, -26, 17, 2))), 3))  # fmt: skip
    canvas.paint("hippocampus", _tube(s, ((23, -4, -20, 7), (27, -20, -15, 5), (26, -34, -5, 3.5))))

    canvas.paint("brain stem", stem)
    depth = _cerebellar_depth(p, s, cerebellum, rng)
    canvas.paint("cerebellar grey", -depth)
    canvas.paint("cerebellar white", 2.2 - depth)
    canvas.paint("brain stem", _ellipsoid(s, (9, -42, -32), (9, 12, 7)))  # peduncles

    grow = 2.5 * (ventricle_size - 1)
    lateral = np.minimum(_tube(s, VENTRICLE_BODY), _tube(s, VENTRICLE_HORN)) - grow
    canvas.paint("csf", np.maximum(lateral, 0.8 - ax))
    canvas.paint("csf", _ellipsoid(s, (0, -11, -1), (2 * ventricle_size, 13, 9)))
    canvas.paint("csf", _tube(s, ((0, -30, -6, 1.0), (0, -38, -20, 1.2))))
    canvas.paint("csf", _ellipsoid(s, (0, -42, -32), (6, 4.5, 10)))


def _mri_signal(t1, head, p, rng):
    """T1-like signal -> MRI: bias field of about 10 to 15 %, Rician noise, 0 outside the head."""
    bias = _Field(rng, 190.0, 0.3)(p)
    bias *= rng.uniform(0.10, 0.15) / np.abs(bias[head]).max()
    signal = ndimage.gaussian_filter(t1, 0.35) * np.exp(bias)
    sigma = rng.uniform(0.016, 0.026)
    noise = rng.standard_normal((2, *t1.shape), dtype=np.float32) * sigma
    signal = np.hypot(signal + noise[0], noise[1])
    return np.where(head, np.rint(signal * MRI_SCALE), 0).astype(np.float32)


def _bump(p, centre, radii):
    """1 in the middle of a region, falling smoothly to 0 around its border."""
    r2 = sum(((a - c) / r) ** 2 for a, c, r in zip(p, centre, radii, strict=True))
    return np.exp(-(r2**2))


def _pet_signal(fdg, labels, head, p, rng, voxel_mm, hypometabolic):
    """Tissue uptake -> PET: regions, point spread of 5 to 7 mm FWHM, correlated noise, >= 0."""
    grey = np.isin(labels, [TISSUES[t][0] for t in ("grey matter", "hippocampus")])
    factor = np.ones_like(fdg)
    for centre, radii, gain in ACTIVE_REGIONS.values():
        factor += (gain - 1) * _bump(p, centre, radii)
    factor += 0.05 * _Field(rng, 45.0)(p)
    drop = rng.uniform(0.20, 0.45)
    if hypometabolic:
        factor *= 1 - drop * _bump(p, *HYPOMETABOLIC_REGIONS[hypometabolic])
    uptake = fdg * np.where(grey | (fdg > 0.3), factor, 1)

    to_voxels = 1 / (2.3548 * voxel_mm)  # FWHM in mm -> standard deviation in voxels
    fwhm_mm, noise_level = rng.uniform(5, 7), rng.uniform(0.03, 0.05)
    blurred = ndimage.gaussian_filter(uptake, fwhm_mm * to_voxels)
    noise = rng.standard_normal(fdg.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 4.5 * to_voxels)
    noise *= noise_level / noise.std()
    pet = np.maximum(blurred + noise * np.sqrt(np.maximum(blurred, 0)), 0)
    return np.where(head, np.rint(pet * PET_SCALE), 0).astype(np.float32)


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
    hypometabolic = None
    ill, region = illness_rng.random(), illness_rng.integers(len(HYPOMETABOLIC_REGIONS))
    if ill < HYPOMETABOLIC_SHARE:
        hypometabolic = list(HYPOMETABOLIC_REGIONS)[region]

    world, affine = _world_grid(voxel_mm)
    p = _deform(world, rng)
    s = np.stack([np.sqrt(p[0] ** 2 + 0.01), p[1], p[2]])
    cerebrum, cerebellum = _cerebrum_hull(s), _cerebellum_hull(s)
    stem = _union(_tube(s, BRAIN_STEM), _ellipsoid(s, (0, -23, -31), (17, 12, 14)), 5)
    stem = _union(stem, _ellipsoid(s, (0, -34, -8), (9, 7, 9)), 4)  # tectum
    inner = _union(_union(cerebrum, cerebellum, 8), stem - 2, 8) - 1.5

    canvas = _Canvas(world.shape[1:], voxel_mm)
    skin = _paint_head(canvas, p, s, inner, rng)
    canvas.paint("csf", inner)
    hulls = cerebrum, cerebellum, stem
    _paint_brain(canvas, p, s, hulls, rng, ventricle_size, voxel_mm)
    head = skin < 0
    labels = np.where(head, canvas.labels, 0).astype(np.uint8)
    mri = _mri_signal(canvas.t1, head, world, mri_rng)
    pet = _pet_signal(canvas.fdg, labels, head, p, pet_rng, voxel_mm, hypometabolic)
    return Phantom(mri, pet, labels, affine, hypometabolic)
