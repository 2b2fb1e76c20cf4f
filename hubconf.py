"""DC2Fusion by `torch.hub`, from a checkout of this repository:

torch.hub.load("DC2Fusion", "dc2fusion", source="local")

`data`, `models`, `utils` and the other folders of the checkout become importable by these names, so
that a program with modules of the same names needs a process of its own.
"""

from torch import nn

from inference.trained import load_model
from models import build_model
from training.weights import SHIPPED

dependencies = ["torch", "monai", "numpy", "scipy", "nibabel", "safetensors", "tqdm"]


def dc2fusion(pretrained: bool = True, balance: float | None = None, **options) -> nn.Module:
    """DC2Fusion, `model(mri, pet) -> fused`, in evaluation mode and on the CPU.

    MRI and PET are (B, 1, D, H, W) in [0, 1], of one head on one grid and of any size; so is what
    is returned, except that it may lie slightly outside [0, 1]. Voxels of 0.8 to 2.5 mm are what
    the weights have seen. It is the network alone: what `infer_sigleImage.py` writes has taken some
    steps more from there, see `inference.optimum.Refined`.

    Args:
        pretrained: with the weights that come with the code, which runs no code of theirs.
        balance: share of the MRI, 0 to 1, of the pretrained network; None for its default. Or as
            the third input: `model(mri, pet, 0.7)`.
        options: without weights those of `models.dc2fusion.DC2Fusion`, such as `embed_dim=96`,
            `depths=(2, 2)`, `variant="paper"`, `balanced=True`.

    Raises:
        ValueError: options that do not go together or that the network does not take.
        utils.errors.InputError: weights that are missing or damaged.
    """
    if not pretrained:
        if balance is not None:
            raise ValueError("balance is that of the pretrained network")
        return build_model("dc2fusion", **options).eval()
    if options:
        raise ValueError(f"the pretrained network has its own {', '.join(options)}")
    trained = load_model(SHIPPED)
    if balance is None:
        return trained.model
    if not 0 <= balance <= 1:
        raise ValueError(f"the balance is the MRI's share, 0 to 1, received {balance}")
    return trained.turned_to(balance).model
