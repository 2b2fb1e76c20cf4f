"""The network on both backends: the same numbers and gradients, less memory kept; the switch."""

import pytest
import torch

from models import build_model, ops
from models.dc2fusion import Stage
from models.dcfb import DCFBlock
from models.ops.depthwise import depthwise_conv3d
from models.variants import build_variant
from tests.helpers.backends import assert_gradients_agree, gradients_of, on_both
from tests.helpers.golden import relative_error

# For what is slow.
SHALLOW = (1, 1, 1, 1)


def network(**options):
    """A network whose blocks all change their streams."""
    torch.manual_seed(0)
    return build_model("dc2fusion", embed_dim=24, init="default", **options)


def volumes(size, batch, dtype=torch.float32):
    """MRI and PET, the same values in every dtype."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, batch, 1, *size, generator=generator).to(dtype)


def train_once(
    backend, variant="paper", size=(33, 20, 13), batch=1, dtype=torch.float32, **options
):
    """Fused volume, gradients of volumes and parameters by name, buffers, after a training step.

    The backward pass runs where the other backend holds.
    """
    model = network(variant=variant, **options).to(dtype)
    pair = volumes(size, batch, dtype).requires_grad_()
    torch.manual_seed(5)  # of stochastic depth
    with ops.using(backend):
        fused = model(*pair)
    weights = torch.linspace(-1, 1, fused.numel(), dtype=dtype).view(fused.shape)
    (fused * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return fused.detach(), gradients | {"volumes": pair.grad}, dict(model.named_buffers())


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("size", "batch"), [((33, 20, 13), 1), ((34, 9, 21), 2)])
def test_network_in_float32(variant, size, batch):
    """Against float64: processors round differently, and plain kernels may be the coarser ones."""
    fast = train_once("fast", variant, size, batch)
    exact = train_once("plain", variant, size, batch, torch.float64)
    assert relative_error(fast[0], exact[0]) < 1e-4
    assert_gradients_agree(fast[1], exact[1], 1e-4)
    for name, buffer in exact[2].items():
        assert torch.allclose(fast[2][name].double(), buffer.double(), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("variant", "size", "batch"), [("paper", (9, 33, 5), 1), ("released", (5, 12, 9), 2)]
)
def test_network_in_float64(variant, size, batch):
    arguments = variant, size, batch, torch.float64
    plain, fast = (train_once(b, *arguments, depths=SHALLOW) for b in ops.BACKENDS)
    assert relative_error(fast[0], plain[0]) < 1e-12
    assert_gradients_agree(fast[1], plain[1], 1e-11)


def test_checkpointed_activations_change_nothing():
    """Neither the running statistics, which see each call once, nor the blocks that are dropped."""
    kept, repeated = (
        train_once("fast", depths=SHALLOW, checkpoint_activations=checkpoint)
        for checkpoint in (False, True)
    )
    assert torch.equal(kept[0], repeated[0])
    assert_gradients_agree(repeated[1], kept[1], 1e-6)
    for name, buffer in kept[2].items():
        assert torch.equal(repeated[2][name], buffer), name


def test_checkpointed_activations_are_compiled():
    """Outputs, gradients and statistics are those of eager mode, with the same samples dropped."""
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


def kept_bytes(backend, **options) -> int:
    """Bytes of the tensors that the network keeps for the backward pass, parameters left out."""
    model = network(depths=SHALLOW, **options)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        # The tensor is held, so that no address is given out twice.
        kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with ops.using(backend), hooks:
        fused = model(*volumes((64, 64, 64), 1))
    assert fused.requires_grad
    return sum(size for address, (_, size) in kept.items() if address not in own)


def test_fast_backend_keeps_less_for_the_backward_pass():
    plain = kept_bytes("plain")
    assert kept_bytes("fast") < 0.75 * plain
    assert kept_bytes("fast", checkpoint_activations=True) < 0.25 * plain


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_network_in_bfloat16(variant):
    """Rounding moves the fast result no further from float32's than the plain one."""
    pair, errors = volumes((20, 24, 17), 1), {}
    for backend in ops.BACKENDS:
        model = network(variant=variant, depths=SHALLOW).eval()
        with ops.using(backend), torch.no_grad():
            exact = model(*pair)
        with ops.using(backend), torch.autocast("cpu", dtype=torch.bfloat16):
            fused = model(*pair)
        fused.float().square().mean().backward()
        assert all(
            p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
        )
        errors[backend] = relative_error(fused.detach(), exact)
    assert errors["fast"] < 1.5 * errors["plain"] < 0.15, errors


def kinds_of_nodes(output: torch.Tensor) -> set[str]:
    """Names of the operations that a backward pass from the output would run."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.name() for node in seen}


class TestSwitch:
    def test_holds_inside_only(self):
        assert not ops.is_plain()
        with pytest.raises(RuntimeError), ops.using("plain"):
            with ops.using("fast"):
                assert not ops.is_plain()
            assert ops.is_plain()
            raise RuntimeError
        assert not ops.is_plain()

    def test_decides_how_the_network_is_computed(self):
        """By the operations that each forward pass leaves for its backward pass."""
        model = network(depths=(1, 1))
        plain, fast = on_both(model, *volumes((33, 9, 9), 1))
        assert "GridSampler3DBackward0" in kinds_of_nodes(plain)
        assert not kinds_of_nodes(plain) & {"_DepthwiseSumBackward", "_WeightedRowsBackward"}
        assert kinds_of_nodes(fast) >= {"_DepthwiseSumBackward", "_WeightedRowsBackward"}

    @pytest.mark.parametrize("backend", ops.BACKENDS)
    def test_forward_decides_for_what_is_computed_again(self, monkeypatch, backend):
        """Checkpointed activations, and a backward pass where the other backend holds."""
        asked = []
        is_plain = ops.is_plain
        monkeypatch.setattr(ops, "is_plain", lambda: asked.append(is_plain()) or asked[-1])
        stage = Stage([DCFBlock(24, 3, 0.0, build_variant("paper"))], checkpoint_activations=True)
        streams = torch.randn(2, 1, 2, 2, 2, 24).requires_grad_()
        with ops.using(backend):
            out = torch.stack(stage(*streams))
        forward = len(asked)
        with ops.using("fast" if backend == "plain" else "plain"):
            out.sum().backward()
        assert len(asked) == 2 * forward
        assert set(asked) == {backend == "plain"}

    def test_compiled_code_follows_it(self, monkeypatch):
        volume, weight = torch.randn(1, 4, 3, 3, 3), torch.randn(4, 1, 3, 3, 3, requires_grad=True)
        compiled = torch.compile(lambda: depthwise_conv3d(volume, weight), backend="eager")
        plain, fast = on_both(compiled)
        assert torch.allclose(plain, fast, atol=1e-5)
        assert plain.is_contiguous() and not fast.is_contiguous()  # channels last on the fast one

    def test_plain_enables_no_kernel(self):
        assert ops.build_backend("plain", "all").kernels == frozenset()
        assert ops.build_backend("fast", "all").kernels == set(ops.KERNELS)
        assert ops.build_backend("fast", "sampling, attention").kernels == {"sampling", "attention"}

    def test_environment_chooses_kernels(self, monkeypatch):
        monkeypatch.setenv(ops.VARIABLE, "depthwise")
        assert ops.build_backend("fast").kernels == {"depthwise"}
        assert ops.build_backend("fast", "none").kernels == frozenset()

    def test_unknown_names_are_named(self):
        with pytest.raises(ValueError, match="quick.*plain, fast"), ops.using("quick"):
            pass
        with pytest.raises(ValueError, match="depthwize.*depthwise, sampling"):
            ops.build_backend("fast", "sampling,depthwize")
