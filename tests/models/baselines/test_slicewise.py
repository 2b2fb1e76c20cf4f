"""2-D methods on volumes: what a method sees of them, and that nothing is lost on the way back."""

import pytest
import torch
from torch import nn

from models.baselines.slicewise import PLANES, Slicewise, slices_of, volume_of

X, Y, Z = 6, 9, 7
CENTRE = (3, 4, 3)

# In which corner of its picture a display shows a voxel at the end of two axes (radiological
# convention).
DISPLAY = {
    "axial": {"anterior": "top", "posterior": "bottom", "right": "left", "left": "right"},
    "coronal": {"superior": "top", "inferior": "bottom", "right": "left", "left": "right"},
    "sagittal": {"superior": "top", "inferior": "bottom", "anterior": "left", "posterior": "right"},
}
ENDS = {
    "left": (0, 0),
    "right": (0, -1),
    "posterior": (1, 0),
    "anterior": (1, -1),
    "inferior": (2, 0),
    "superior": (2, -1),
}


class Spy(nn.Module):
    """A method that returns one of its inputs and keeps what it was shown."""

    one_slice = False
    padding = 0.0
    published_stretch = "min-max"

    def __init__(self, returned: str = "mri", multiple: int = 1) -> None:
        super().__init__()
        self.returned = returned
        self.multiple = multiple
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, mri, pet):
        self.seen.append((mri, pet))
        return self.scale * (mri if self.returned == "mri" else pet)

    def shown(self, which: int = 0) -> torch.Tensor:
        return torch.cat([pair[which] for pair in self.seen])


def volumes(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(0.01 + 0.98 * torch.rand(2, batch, 1, X, Y, Z, generator=generator))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("end", ENDS)
def test_method_sees_slices_as_on_a_radiological_display(plane, end):
    axis, place = ENDS[end]
    where = list(CENTRE)
    where[axis] = place
    mri = torch.zeros(1, 1, X, Y, Z)
    mri[0, 0][tuple(where)] = 1
    method = Spy()
    Slicewise(method, plane)(mri, torch.ones_like(mri))
    slice_, _, row, column = (method.shown() == 1).nonzero()[0].tolist()
    height, width = method.shown().shape[-2:]
    edges = {
        "top": row == 0,
        "bottom": row == height - 1,
        "left": column == 0,
        "right": column == width - 1,
    }
    if end in DISPLAY[plane]:
        assert [edge for edge, touched in edges.items() if touched] == [DISPLAY[plane][end]]
    else:  # the axis across the slices, which come in rising order
        assert not any(edges.values())
        assert slice_ == (0 if place == 0 else len(method.shown()) - 1)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("returned", ["mri", "pet"])
def test_method_that_returns_an_input_gives_the_volume_back(plane, multiple, returned):
    mri, pet = volumes()
    fused = Slicewise(Spy(returned, multiple), plane, batch=4)(mri, pet)
    assert torch.equal(fused, mri if returned == "mri" else pet)


@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_any_leading_axes_go_back_to_volumes(plane):
    mri, _ = volumes()
    slices = slices_of(mri, plane)
    assert torch.equal(volume_of(slices, plane, batch=2), mri)
    assert torch.equal(slices_of(mri[1], plane), slices[len(slices) // 2 :])
    assert torch.equal(slices_of(mri[1, 0], plane), slices[len(slices) // 2 :])


@pytest.mark.parametrize("padding", [0.25, "replicate"])
def test_pictures_are_padded_right_and_down_as_the_method_wants(padding):
    mri, pet = volumes(batch=1)
    method = Spy(multiple=4)
    method.padding = padding
    Slicewise(method)(mri, pet)
    for which, volume in enumerate((mri, pet)):
        shown, slices = method.shown(which), slices_of(volume)  # 9 x 6 pixels in 12 x 8
        assert shown.shape == (Z, 1, 12, 8)
        assert torch.equal(shown[..., :Y, :X], slices)
        below, beside = (
            slices[..., -1:, :].expand(-1, -1, 3, -1),
            slices[..., -1:].expand(-1, -1, -1, 2),
        )
        if padding != "replicate":
            below, beside = torch.full_like(below, padding), torch.full_like(beside, padding)
        assert torch.equal(shown[..., Y:, :X], below)
        assert torch.equal(shown[..., :Y, X:], beside)


def test_batches_hold_as_many_slices_as_asked_and_no_slice_twice():
    mri, pet = volumes(batch=1)
    method = Spy()
    Slicewise(method, batch=3)(mri, pet)
    assert [len(shown) for shown, _ in method.seen] == [3, 3, 1]
    assert torch.equal(method.shown(), slices_of(mri))


def test_method_of_one_slice_is_never_shown_more():
    mri, pet = volumes(batch=1)
    method = Spy()
    method.one_slice = True
    assert torch.equal(Slicewise(method, batch=3)(mri, pet), mri)
    assert [len(shown) for shown, _ in method.seen] == [1] * Z


def test_slices_empty_in_both_volumes_skip_the_method_and_stay_zero():
    class Brightener(Spy):
        def forward(self, mri, pet):
            return super().forward(mri, pet) + 0.5

    mri, pet = volumes(batch=1)
    mri[..., :3] = 0
    pet[..., 2:4] = 0  # slice 2 is empty in both
    method = Brightener()
    fused = Slicewise(method)(mri, pet)
    assert not fused[..., 2].any()
    kept = [0, 1, 3, 4, 5, 6]
    assert torch.equal(method.shown(), slices_of(mri)[kept])
    assert (fused[..., kept] >= 0.5).all()


def test_empty_volumes_never_reach_the_method():
    empty = torch.zeros(2, 1, X, Y, Z)
    method = Spy()
    assert torch.equal(Slicewise(method)(empty, empty), empty)
    assert not method.seen


def test_result_is_clipped():
    class Doubler(Spy):
        def forward(self, mri, pet):
            return 4 * super().forward(mri, pet) - 1

    mri, pet = volumes()
    assert torch.equal(Slicewise(Doubler())(mri, pet), (4 * mri - 1).clamp(0, 1))


@pytest.mark.parametrize(("kind", "low"), [("min-max", True), ("maximum", False)])
def test_published_stretch_of_a_slice_and_of_a_volume(kind, low):
    mri, pet = volumes()
    mri = 0.2 + 0.5 * mri
    mri[0, ..., 4], pet[0, ..., 4] = 0, 0
    method = Spy()
    method.published_stretch = kind
    filled = [0, 1, 2, 3, 5, 6]

    def stretched(part: torch.Tensor) -> torch.Tensor:
        floor = part.min() if low else 0
        return (part - floor) / (part.max() - floor)

    by_slice = Slicewise(method, stretch="slice", batch=4)(mri, pet)
    by_volume = Slicewise(method, stretch="volume", batch=4)(mri, pet)
    for z in filled:
        torch.testing.assert_close(by_slice[0, ..., z], stretched(mri[0, ..., z]))
    torch.testing.assert_close(by_volume[0][..., filled], stretched(mri[0][..., filled]))
    torch.testing.assert_close(by_volume[1], stretched(mri[1]))
    assert not by_slice[0, ..., 4].any() and not by_volume[0, ..., 4].any()


def test_stretch_of_a_flat_slice_is_finite():
    flat = torch.full((1, 1, X, Y, Z), 0.3)
    assert Slicewise(Spy(), stretch="slice")(flat, flat).isfinite().all()


def test_gradient_reaches_the_method_and_the_volumes():
    mri, pet = (volume.requires_grad_() for volume in volumes())
    method = Spy(multiple=4)
    Slicewise(method, "coronal", batch=4)(mri, pet).sum().backward()
    assert torch.isclose(method.scale.grad, mri.detach().sum())
    assert torch.equal(mri.grad, torch.ones_like(mri))


@pytest.mark.parametrize(
    ("mri", "pet"),
    [
        ((1, 1, 4, 4, 4), (1, 1, 4, 4, 5)),
        ((4, 4, 4), (4, 4, 4)),
        ((1, 2, 4, 4, 4), (1, 2, 4, 4, 4)),
    ],
)
def test_volumes_of_other_shapes_are_refused(mri, pet):
    with pytest.raises(ValueError, match="one shape"):
        Slicewise(Spy())(torch.ones(mri), torch.ones(pet))


@pytest.mark.parametrize("options", [{"plane": "oblique"}, {"stretch": "picture"}, {"batch": 0}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="|".join(options)):
        Slicewise(Spy(), **options)


def test_stretch_is_refused_for_a_method_that_publishes_none():
    class Plain(nn.Module):
        multiple = 1
        one_slice = False

    with pytest.raises(ValueError, match="Plain publishes no stretch"):
        Slicewise(Plain(), stretch="volume")
