"""Trained networks: which paths are checkpoints of this project."""

import numpy as np
import torch

from inference.trained import is_own
from models import build_model


def test_an_own_checkpoint_is_told_from_published_weights(tmp_path):
    torch.save({"format": "dc2fusion-1", "model": {}}, tmp_path / "last.pt")
    torch.save(build_model("matr").method.state_dict(), tmp_path / "model_10.pth")
    np.savez(tmp_path / "w.npz", a=np.zeros(1))
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "just-begun").mkdir()
    (tmp_path / "just-begun" / "config.json").touch()
    assert is_own(tmp_path) and is_own(tmp_path / "last.pt") and is_own(tmp_path / "just-begun")
    for other in ("model_10.pth", "w.npz", "tensorflow", "nowhere.pt"):
        assert not is_own(tmp_path / other)
