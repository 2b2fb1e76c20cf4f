"""The fast path against the plain one: the same numbers and the same gradients, and less memory
kept.
"""

import pytest
import torch
from torch.nn import functional as F

from models import build_model, dc2fusion
from models.dc2fusion import Head, Stage
from models.dcfb import DCFBlock
from models.ops.attention import window_attention
from models.ops.norm_gelu import gelu_linear, norm_gelu_linear
from models.ops.paths import PATHS
from models.ops.sampling import reference_points, sample_partner
from models.variants import build_variant
from tests.helpers.golden import relative_error


@pytest.fixture
def shallow(monkeypatch):
    """One block a stage, for what is slow."""
    monkeypatch.setattr(dc2fusion, "DEPTHS", (1, 1, 1, 1))


def volumes(size, batch, dtype=torch.float32):
    """MRI and PET, the same values in every dtype."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, batch, 1, *size, generator=generator).to(dtype)


def train_once(path, variant="paper", size=(33, 20, 13), batch=1, dtype=torch.float32, **options):
    """Fused volume, gradients of the volumes and of all parameters by name, buffers, after one
    training step.
    """
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=24, variant=variant, path=path, **options).to(dtype)
    pair = volumes(size, batch, dtype).requires_grad_()
    torch.manual_seed(5)  # of stochastic depth
    fused = model(*pair)
    weights = torch.linspace(-1, 1, fused.numel(), dtype=dtype).view(fused.shape)
    (fused * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return fused.detach(), gradients | {"volumes": pair.grad}, dict(model.named_buffers())


def assert_gradients_agree(ours, expected, tolerance):
    """Together, and each against its own size; those that are 0 but for rounding against all
    others' size.
    """
    whole = torch.cat([g.flatten().double() for g in expected.values()])
    assert relative_error(torch.cat([g.flatten() for g in ours.values()]), whole) < tolerance
    for name, gradient in expected.items():
        difference = (ours[name].double() - gradient.double()).norm()
        assert difference < 10 * tolerance * (gradient.norm() + 1e-2 * whole.norm()), name


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("size", "batch"), [((33, 20, 13), 1), ((34, 9, 21), 2)])
def test_network_in_float32(variant, size, batch):
    """Against float64: kernels of two processors round differently, and the plain path's may be the
    coarser ones.
    """
    fast = train_once("fast", variant, size, batch)
    exact = train_once("plain", variant, size, batch, torch.float64)
    assert relative_error(fast[0], exact[0]) < 1e-4
    assert_gradients_agree(fast[1], exact[1], 1e-4)
    for name, buffer in exact[2].items():
        assert torch.allclose(fast[2][name].double(), buffer.double(), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("variant", "size", "batch"), [("paper", (9, 33, 5), 1), ("released", (5, 12, 9), 2)]
)
def test_network_in_float64(shallow, variant, size, batch):
    fast, plain = (train_once(path, variant, size, batch, torch.float64) for path in PATHS)
    assert relative_error(fast[0], plain[0]) < 1e-12
    assert_gradients_agree(fast[1], plain[1], 1e-11)


def test_checkpointed_activations_change_nothing(shallow):
    """Not even the running statistics, which must see each call once, nor the blocks that
    stochastic depth drops.
    """
    kept, repeated = (
        train_once("fast", checkpoint_activations=checkpoint) for checkpoint in (False, True)
    )
    assert torch.equal(kept[0], repeated[0])
    assert_gradients_agree(repeated[1], kept[1], 1e-6)
    for name, buffer in kept[2].items():
        assert torch.equal(repeated[2][name], buffer), name


def test_checkpointed_activations_are_compiled():
    """Outputs, gradients and running statistics are those of eager mode, the drawing of dropped
    samples included.
    """
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        block = DCFBlock(24, 3, 0.5, build_variant("paper"))
        stage = Stage([block], checkpoint_activations=True)
        runner = torch.compile(stage, backend="aot_eager") if compiled else stage
        streams = torch.randn(2, 4, 2, 3, 2, 24).requires_grad_()
        torch.manual_seed(5)  # of stochastic depth
        out = torch.stack(runner(*streams))
        inputs = {"streams": streams, **dict(stage.named_parameters())}
        results.append(
            (
                out.detach(),
                inputs,
                gradients_of(out, list(inputs.values())),
                dict(stage.named_buffers()),
            )
        )
    eager, ours = results
    assert relative_error(ours[0], eager[0]) < 1e-5
    received, expected = (
        dict(zip(inputs, gradients, strict=True)) for _, inputs, gradients, _ in (ours, eager)
    )
    assert_gradients_agree(received, expected, 1e-4)
    assert eager[3]["0.blend.blend_norm.num_batches_tracked"] == 2
    for name, buffer in eager[3].items():
        assert torch.allclose(ours[3][name], buffer, rtol=1e-4, atol=1e-6), name


def kept_bytes(path, **options) -> int:
    """Bytes of the different tensors that the network keeps for the backward pass, parameters left
    out.
    """
    model = build_model("dc2fusion", embed_dim=24, path=path, **options)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (
            tensor,
            storage.nbytes(),
        )  # held, so that no address is given out twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fused = model(*volumes((64, 64, 64), 1))
    assert fused.requires_grad
    return sum(size for address, (_, size) in kept.items() if address not in own)


def test_fast_path_keeps_less_for_the_backward_pass(shallow):
    plain = kept_bytes("plain")
    assert kept_bytes("fast") < 0.75 * plain
    assert kept_bytes("fast", checkpoint_activations=True) < 0.25 * plain


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_network_in_bfloat16(shallow, variant):
    """Rounding moves the fast path's result no further from float32's than the plain path's."""
    pair, errors = volumes((20, 24, 17), 1), {}
    for path in PATHS:
        torch.manual_seed(0)
        model = build_model("dc2fusion", embed_dim=24, variant=variant, path=path).eval()
        with torch.no_grad():
            exact = model(*pair)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fused = model(*pair)
        fused.float().square().mean().backward()
        assert all(
            p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
        )
        errors[path] = relative_error(fused.detach(), exact)
    assert errors["fast"] < 1.5 * errors["plain"] < 0.15, errors


def gradients_of(outputs, inputs):
    upstream = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return torch.autograd.grad(outputs, inputs, upstream)


@pytest.mark.parametrize("aligned_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 4, 5, 6, 3), (1, 1, 2, 7, 4)])
def test_sampling(aligned_corners, size):
    """Of offsets up to two tokens, so that positions beyond every border occur."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
    offsets = 2 * torch.rand(*size[:4], 3, generator=generator, dtype=torch.float64) - 1
    offsets = (offsets * 4 / torch.tensor(size[1:4])).requires_grad_()
    outputs = [sample_partner(tokens, offsets, aligned_corners, path) for path in PATHS]
    assert torch.allclose(*outputs)
    for ours, expected in zip(
        *(gradients_of(output, (tokens, offsets)) for output in outputs), strict=True
    ):
        assert torch.allclose(ours, expected)


def test_sampling_where_offsets_are_nan():
    """A network that diverged ends in NaN, which training names, not in an index out of range."""
    tokens, offsets = torch.randn(1, 3, 3, 3, 2), torch.zeros(1, 3, 3, 3, 3)
    offsets[0, 1, 1, 1, 0] = torch.nan
    sampled = sample_partner(tokens, offsets, False)
    assert sampled[0, 1, 1, 1].isnan().all()
    assert torch.allclose(sampled[0, 0], tokens[0, 0], atol=1e-6)


def test_reference_points_are_the_centres_of_the_tokens():
    expected = F.affine_grid(torch.eye(3, 4)[None], (1, 1, 2, 3, 4), align_corners=False)[0].flip(
        -1
    )
    assert torch.allclose(reference_points(torch.zeros(1, 2, 3, 4, 8)), expected)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 2), (1, 2, 1)])
def test_attention(linear, window):
    generator = torch.Generator().manual_seed(0)
    tokens = [
        torch.randn(2, 4, 2, 6, 12, generator=generator, dtype=torch.float64) for _ in range(3)
    ]
    gate = torch.rand(2, 12, generator=generator, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (*tokens, gate)]
    outputs = [window_attention(*inputs, 3, window, linear, path) for path in PATHS]
    assert torch.allclose(*outputs)
    for ours, expected in zip(*(gradients_of(output, inputs) for output in outputs), strict=True):
        assert torch.allclose(ours, expected)


@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 1, 4)])
def test_head(grid):
    torch.manual_seed(0)
    head = Head(8).double()
    streams = torch.randn(2, 2, *grid, 8, dtype=torch.float64, requires_grad=True)
    outputs = []
    for head.path in PATHS:
        outputs.append(head(*streams))
    assert torch.allclose(*outputs)
    inputs = [streams, *head.parameters()]
    for ours, expected in zip(*(gradients_of(output, inputs) for output in outputs), strict=True):
        assert torch.allclose(ours, expected)


def test_norms():
    torch.manual_seed(0)
    norm, linear = torch.nn.LayerNorm(6), torch.nn.Linear(6, 5)
    features = torch.randn(2, 3, 6, requires_grad=True)
    for layers in (
        lambda path: norm_gelu_linear(features, norm, linear, path),
        lambda p: gelu_linear(features, linear, p),
    ):
        outputs = [layers(path) for path in PATHS]
        assert torch.equal(*outputs)
        inputs = [features, *linear.parameters()]
        for ours, expected in zip(
            *(gradients_of(output, inputs) for output in outputs), strict=True
        ):
            assert torch.allclose(ours, expected)
