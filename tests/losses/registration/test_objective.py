"""The registration objective: what is weighed, what it asks of the network, what it refuses."""

from types import SimpleNamespace

import pytest
import torch

from losses.registration.mind import mind_loss
from losses.registration.objective import MOST_LABELS, RegistrationObjective
from losses.registration.overlap import soft_dice_loss
from losses.registration.prior import velocity_prior
from losses.registration.regularisers import bending_loss, diffusion_loss
from losses.registration.similarity import mse_loss, ncc_loss
from models.registration import build_registration
from models.registration.warp import warp

SHAPE = (2, 1, 10, 11, 12)


class Given:
    """A network that has its field already."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = {"generator": generator, "dtype": torch.float64}
        u = torch.randn(2, 3, *SHAPE[2:], **draw)
        mean, log_variance, integrated = (torch.randn(2, 3, 5, 6, 6, **draw) for _ in range(3))
        self.parts = SimpleNamespace(
            displacement=u, mean=mean, log_variance=log_variance, integrated=integrated
        )

    def field(self, moving, fixed):
        return self.parts


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(4, (2, *SHAPE), generator=generator).double()


@pytest.mark.parametrize(
    ("similarity", "likeness"), [("ncc", ncc_loss), ("mse", mse_loss), ("mind", mind_loss)]
)
@pytest.mark.parametrize(
    ("regulariser", "roughness"), [("diffusion", diffusion_loss), ("bending", bending_loss)]
)
def test_the_weighted_sum_of_named_terms(pair, similarity, likeness, regulariser, roughness):
    network = Given()
    total, terms = RegistrationObjective(warp, similarity, regulariser, (2, 3, 0))(network, *pair)
    u = network.parts.displacement
    expected = likeness(warp(pair[0], u), pair[1]), roughness(u)
    assert list(terms) == [similarity, regulariser]
    assert total.item() == pytest.approx(2 * expected[0].item() + 3 * expected[1].item(), rel=1e-12)
    assert [value.item() for value in terms.values()] == [value.item() for value in expected]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_prior_takes_what_the_velocity_is_made_of(pair, variant):
    network = Given()
    objective = RegistrationObjective(warp, "mse", "prior", (0, 1, 1), variant)
    labels = torch.zeros(SHAPE, dtype=torch.float64)
    labels[:, :, 3:7] = 1
    total, terms = objective(network, *pair, labels, labels)
    parts = network.parts
    expected = velocity_prior(parts.mean, parts.log_variance, parts.integrated, variant)
    assert terms["prior"].item() == expected.item() and "mse" not in terms
    assert total.item() == pytest.approx((expected + terms["dice"]).item(), rel=1e-12)


def test_dice_is_of_the_labels_that_both_have(pair, labels):
    moving, fixed = labels
    moving[moving == 3] = 7  # of which the fixed one has none
    network = Given()
    _, terms = RegistrationObjective(warp, "none", weights=(1, 1, 1))(network, *pair, moving, fixed)
    both = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    warped = warp((moving == both).double(), network.parts.displacement)
    expected = soft_dice_loss(warped, (fixed == both).double())
    assert terms["dice"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert list(terms) == ["diffusion", "dice"]
    nothing = RegistrationObjective(warp, "none", weights=(1, 1, 1))
    assert nothing(network, *pair, moving, torch.zeros_like(fixed))[1]["dice"] == 0


def test_of_many_labels_a_part_is_drawn(pair):
    labels = torch.arange(10 * 11 * 12, dtype=torch.float64).view(1, 1, 10, 11, 12) // 4
    seen = []

    def watched(source, displacement):
        seen.append(source.shape[1])
        return warp(source, displacement)

    objective = RegistrationObjective(watched, "none", weights=(0, 1, 1))
    objective(Given(), *pair, labels.expand(SHAPE), labels.expand(SHAPE))
    assert seen == [MOST_LABELS]


@pytest.mark.parametrize("name", ["transmorph", "transmorph-diff"])
def test_every_parameter_of_a_network_gets_a_gradient(name, pair):
    torch.manual_seed(0)
    network = build_registration(name, (32, 32, 32), "tiny").train()
    pair = torch.rand(2, 1, 1, 32, 32, 32)
    objective = RegistrationObjective(warp, "ncc", "diffusion")
    # Drawn away from the identity, at which the gradients of whole layers are tiny.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    objective(network, *pair)[0].backward()
    without = [key for key, p in network.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"similarity": "nmi"}, "'nmi'"),
        ({"regulariser": "l1"}, "'l1'"),
        ({"similarity": "none"}, "nothing is aligned"),
        ({"weights": (0, 1, 0)}, "nothing is aligned"),
    ],
)
def test_what_makes_no_objective(options, words):
    with pytest.raises(ValueError, match=words):
        RegistrationObjective(warp, **options)


def test_networks_by_name_and_what_is_none():
    assert build_registration("transmorph", (160, 192, 224), "tiny").window == (5, 6, 7)
    network = build_registration("transmorph-diff", (64, 64, 64), "small", embed_dim=24)
    assert network.encoder.embedding.norm.weight.shape == (24,)
    for options, words in (
        ({"name": "voxelmorph"}, "voxelmorph"),
        ({"network": "huge"}, "huge"),
        ({"embed_dim": 30, "network": "small"}, "4 heads"),
        ({"depths": (2, 2)}, "depths"),
    ):
        with pytest.raises(ValueError, match=words):
            build_registration(**{"name": "transmorph", "size": (32, 32, 32)} | options)
