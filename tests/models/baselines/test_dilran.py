"""DILRAN against the published network's own numbers, and what its modes promise."""

import pytest
import torch
from torch.nn import functional as F

from models.baselines.dilran import DILRAN, RULES, largest_nuclear_norm, sfnn_weights
from models.baselines.slicewise import Slicewise
from models.baselines.weights import load_weights
from tests.helpers.fills import fill
from tests.helpers.golden import golden, golden_tensors

NORM = ("weight", "bias", "running_mean", "running_var")


def conv(name: str, *shape: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", shape), (f"{name}.bias", shape[:1])]


def norm(name: str, width: int = 64) -> list[tuple[str, tuple[int, ...]]]:
    return [*((f"{name}.{part}", (width,)) for part in NORM), (f"{name}.num_batches_tracked", ())]


# The published state dict, in its order, with the tensors that the forward pass never reads.
PUBLISHED = [
    *conv("fe.conv_id.0", 64, 192, 1, 1),
    *conv("fe.conv1", 64, 1, 1, 1),
    *(*conv("fe.conv2.0", 64, 64, 3, 3), *norm("fe.conv2.1")),
    *(*conv("fe.conv2.3", 64, 64, 3, 3), *norm("fe.conv2.4")),
    *norm("fe.bnorm"),
    *(entry for i in (1, 2, 3) for entry in conv(f"fe.fe.convd{i}", 64, 64, 3, 3)),
    *conv("fe.fe.reduce", 64, 192, 1, 1),
    *norm("fe.fe.bnorm1"),
    *conv("fe.fe.dilran.conv_d", 64, 64, 3, 3),
    *norm("fe.fe.dilran.bnorm"),
    *conv("recon.recon_conv.0", 64, 64, 3, 3),
    *conv("recon.recon_conv.1", 32, 64, 3, 3),
    *conv("recon.recon_conv.2", 1, 32, 3, 3),
]


def slices(image: torch.Tensor) -> torch.Tensor:
    return image[None, None]


def filled(folder, values: str, **options) -> DILRAN:
    """A network with rule-filled weights, loaded from a file with all published keys."""
    file = folder / f"{values}.pt"
    counters = {name: torch.tensor(3) for name, shape in PUBLISHED if shape == ()}
    torch.save(fill(PUBLISHED, values) | counters, file)
    network = DILRAN(**options).eval()
    load_weights(network, file)
    return network


def released(**options) -> DILRAN:
    network = DILRAN(**options).eval()
    load_weights(network, golden("baselines/dilran_weights.npz"))
    return network


def close(ours: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.view_as(expected), expected, rtol=0, atol=atol)


@torch.no_grad()
def test_released_weights_on_ct_and_mri():
    expected = golden_tensors("baselines/dilran_released.npz")
    network = released()
    mri, ct = slices(expected["ctmri_in"]), slices(expected["ct_in"])
    fused = network(mri, ct)
    close(fused, expected["ctmri_net"], 1e-5)
    close(fused.clamp(0, 1), expected["ctmri_final"], 1e-5)
    features = network.fe(ct), network.fe(mri)
    close(torch.cat(sfnn_weights(*features)), expected["ctmri_w"], 1e-5)
    norms = torch.cat([largest_nuclear_norm(f) for f in features])
    torch.testing.assert_close(norms, expected["ctmri_nuc"], rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("statistics", "mode"), [("batch", "train"), ("running", "eval")])
def test_released_weights_on_pet_and_mri(statistics, mode):
    expected = golden_tensors("baselines/dilran_released.npz")
    network = released(statistics=statistics)
    mri, pet = slices(expected["petmri_in"]), slices(expected["pet_in"])
    close(network(mri, pet), expected[f"petmri_net_{mode}"], 1e-5)
    features = network.fe(pet), network.fe(mri)
    close(torch.cat(sfnn_weights(*features)), expected[f"petmri_w_{mode}"], 1e-5)
    norms = torch.cat([largest_nuclear_norm(f) for f in features])
    torch.testing.assert_close(norms, expected[f"petmri_nuc_{mode}"], rtol=1e-5, atol=0)


@torch.no_grad()
def test_released_weights_with_the_training_rule():
    expected = golden_tensors("baselines/dilran_released.npz")
    fused = released(rule="fl1n")(slices(expected["petmri_in"]), slices(expected["pet_in"]))
    close(fused, expected["petmri_net_FL1N_train"], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("rule", "feature_tolerance"), [("A", 2e-6), ("B", 5e-5)])
def test_rule_filled_weights(tmp_path, rule, feature_tolerance):
    expected = golden_tensors(f"baselines/dilran_rule{rule}.npz")
    network = filled(tmp_path, rule, statistics="running")
    mri, pet = slices(expected["in_mri"]), slices(expected["in_pet"])
    features = network.fe(pet), network.fe(mri)
    close(features[0], expected["fe0"], feature_tolerance)
    close(features[1], expected["fe1"], feature_tolerance)
    norms = torch.cat([largest_nuclear_norm(f) for f in features])
    torch.testing.assert_close(norms, expected["nuc"], rtol=1e-5, atol=0)
    close(torch.cat(sfnn_weights(*features)), expected["w"], 1e-5)
    for name in ("SFNN", "FL1N", "FER", "average", "addition"):
        network = filled(tmp_path, rule, statistics="running", rule=name.lower())
        close(network(mri, pet), expected[f"fused_{name}"], 1e-5)
    close(network.reconstruct(pet), expected["recon0"], 1e-5)


@torch.no_grad()
def test_rule_filled_weights_with_batch_statistics(tmp_path):
    expected = golden_tensors("baselines/dilran_ruleB.npz")
    network = filled(tmp_path, "B")
    mri, pet = slices(expected["in_mri"]), slices(expected["in_pet"])
    close(network.fe(pet), expected["fe0_trainbn"], 5e-5)
    close(network(mri, pet), expected["fused_SFNN_trainbn"], 1e-5)
    close(torch.cat(sfnn_weights(network.fe(pet), network.fe(mri))), expected["w_trainbn"], 1e-5)


def test_published_keys_are_loaded_or_named_as_unused(tmp_path):
    file = tmp_path / "last.pt"
    torch.save({name: torch.zeros(shape) for name, shape in PUBLISHED}, file)
    network = DILRAN()
    skipped = load_weights(network, file)
    unused = ("fe.conv_id.", "fe.conv2.", "fe.bnorm.", "fe.fe.dilran.bnorm.")
    assert skipped == [name for name, _ in PUBLISHED if name.startswith(unused)]
    assert {name for name, _ in PUBLISHED} == set(skipped) | set(network.state_dict())


def test_number_of_parameters_in_use():
    assert sum(p.numel() for p in DILRAN().parameters()) == 216_001


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
def test_a_batch_gives_what_its_pictures_give_one_by_one(rule):
    torch.manual_seed(0)
    network = DILRAN(rule=rule).eval()
    mri, pet = torch.rand(2, 3, 1, 12, 16) * torch.tensor([0.2, 1.0, 0.6]).view(3, 1, 1, 1)
    singly = torch.cat(
        [network.recon(network.fuse_features(*map(network.fe, pair))) for pair in pairs(pet, mri)]
    )
    together = network.recon(network.fuse_features(network.fe(pet), network.fe(mri)))
    close(together, singly, 1e-6)
    close(network(mri, pet), singly, 1e-6)


def pairs(first: torch.Tensor, second: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(first.split(1), second.split(1), strict=True))


@torch.no_grad()
def test_evaluation_leaves_the_running_averages_and_training_moves_them():
    torch.manual_seed(0)
    network = DILRAN().eval()
    image = torch.rand(3, 1, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(image, image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.train().reconstruct(image)
    counter = "fe.fe.bnorm1.num_batches_tracked"
    assert network.state_dict()[counter] == before[counter] + 2  # one norm, applied twice
    assert not torch.equal(
        network.state_dict()["fe.fe.bnorm1.running_var"], before["fe.fe.bnorm1.running_var"]
    )


@torch.no_grad()
def test_training_normalises_by_the_whole_batch():
    """A single picture: as evaluation does; two pictures: not."""
    torch.manual_seed(0)
    network, image = DILRAN(), torch.rand(2, 1, 8, 8) * torch.tensor([0.3, 1.0]).view(2, 1, 1, 1)
    trained = network.reconstruct(image[:1]), network.reconstruct(image)
    network.eval()
    close(network.reconstruct(image[:1]), trained[0], 1e-6)
    assert (network.reconstruct(image) - trained[1]).abs().max() > 1e-3


@torch.no_grad()
def test_order_of_the_pictures_is_free():
    torch.manual_seed(0)
    network = DILRAN().eval()
    mri, pet = torch.rand(2, 1, 1, 12, 10)
    close(network(mri, pet), network(pet, mri), 1e-6)


@torch.no_grad()
def test_odd_sides_are_replicated_and_cropped():
    torch.manual_seed(0)
    network = DILRAN().eval()
    mri, pet = torch.rand(2, 1, 1, 9, 7, 2)
    fused = Slicewise(network)(mri, pet)
    # Radiological display: columns from the patient's right, rows from the front.
    shown = [volume[0, 0, :, :, 1].T.flip(0, 1)[None, None] for volume in (mri, pet)]
    padded = [F.pad(image, (0, 1, 0, 1), mode="replicate") for image in shown]
    expected = network(*padded)[0, 0, :7, :9].flip(0, 1).T.clamp(0, 1)
    close(fused[0, 0, :, :, 1], expected, 1e-6)


def feature_maps(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    f = torch.randn(3, 64, 14, 10, generator=generator)
    if kind == "one channel leads":
        f[:, 17] += 8
    if kind == "flat and busy":
        # The smooth maps have the larger Frobenius norms, the noisy ones the nuclear norms.
        f = f * torch.arange(64).view(1, -1, 1, 1) / 20
        f[:, :32] += 1.5
    return f


@pytest.mark.parametrize("kind", ["alike", "one channel leads", "flat and busy"])
def test_largest_nuclear_norm_is_that_of_all_maps(kind):
    f = feature_maps(kind)
    maps = f.softmax(dim=1).double().numpy()
    expected = torch.tensor([max(nuclear(map_) for map_ in sample) for sample in maps])
    torch.testing.assert_close(largest_nuclear_norm(f), expected, rtol=1e-6, atol=0)


def nuclear(matrix) -> float:
    return float(torch.linalg.matrix_norm(torch.from_numpy(matrix), ord="nuc"))


def test_every_parameter_learns_from_a_reconstruction():
    torch.manual_seed(0)
    network = DILRAN()
    image = torch.rand(2, 1, 8, 8)
    (network.reconstruct(image) - image).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A norm takes away whatever constant comes before it.
        if name != "fe.fe.reduce.bias":
            assert parameter.grad.any(), name


@pytest.mark.parametrize("options", [{"rule": "l2"}, {"statistics": "none"}])
def test_unknown_names_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options.values()))}.*choose from"):
        DILRAN(**options)
