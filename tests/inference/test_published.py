"""Published weights as the command line names them: which network, options, slices and files that
means.
"""

import numpy as np
import pytest
import torch

from inference.published import load_published, parse_published
from models import build_model
from tests.helpers.golden import golden
from utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "method", "options", "path", "label"),
    [
        ("matr=model_10.pth", "matr", {}, "model_10.pth", "matr"),
        ("matr=/a=b/c:d.pth", "matr", {}, "/a=b/c:d.pth", "matr"),
        (
            "dilran:statistics=running=a=b.pt",
            "dilran",
            {"statistics": "running"},
            "a=b.pt",
            "dilran-running",
        ),
        (
            "swinfuse:blocks_per_stage=6,tiles=released=w.model",
            "swinfuse",
            {"blocks_per_stage": 6, "tiles": "released"},
            "w.model",
            "swinfuse-6-released",
        ),
    ],
)
def test_method_options_and_file(text, method, options, path, label):
    published = parse_published(text, "--weights")
    assert (published.method, published.options, str(published.path)) == (method, options, path)
    assert published.label == label


@pytest.mark.parametrize(
    "text", ["matr", "matr=", "=w.pth", "dc2fusion=w.pth", "matr:tokens=w.pth", "matr:x=1=w.pth"]
)
def test_what_names_no_weights_is_refused(text):
    with pytest.raises(InputError, match="^--weights: "):
        parse_published(text, "--weights")


def test_options_and_plane_reach_the_network(tmp_path):
    model = build_model("u2fusion").method
    np.savez(
        tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()}
    )
    published = parse_published(
        f"u2fusion:pet_range=studio,stretch=volume={tmp_path}/w.npz", "--weights"
    )
    trained = load_published(published, "--weights", "coronal", "released", 40)
    assert (trained.model.plane, trained.model.stretch, trained.model.method.pet_range) == (
        "coronal",
        "volume",
        "studio",
    )
    assert (trained.name, trained.recipe, trained.size, trained.model.training) == (
        "u2fusion",
        "released",
        40,
        False,
    )
    for name, tensor in trained.model.method.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_tensors_that_a_method_never_uses_are_counted():
    published = parse_published(f"matr={golden('baselines/matr_weights.npz')}", "--weights")
    trained = load_published(published, "--weights", "axial", "paper", 128)
    assert "5 tensors skipped that it never uses" in trained.description
