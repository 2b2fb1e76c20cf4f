"""DC2Fusion by `torch.hub`, from a checkout of this repository:

torch.hub.load("DC2Fusion", "dc2fusion", source="local")

`data`, `models`, `utils` and the other folders of the checkout become importable by these names, so
that a program with modules of the same names needs a process of its own.
"""

from torch import nn

from inference.optimum import Refined, parse_objective
from inference.trained import load_model
from models import build_model
from training.weights import SHIPPED

dependencies = ["torch", "monai", "numpy", "scipy", "nibabel", "safetensors", "tqdm"]


def dc2fusion(
    pretrained: bool = True, balance: float | None = None, refine: int = 0, **options
) -> nn.Module:
    """DC2Fusion, `model(mri, pet) -> fused`, in evaluation mode and on the CPU.

    MRI and PET are (B, 1, D, H, W) in [0, 1], of one head on one grid and of any size; so is what
    is returned, except that the network alone may lie slightly outside [0, 1]. Voxels of 0.8 to 2.5
    mm are what the weights have seen.

    Args:
        pretrained: with the weights that come with the code, which runs no code of theirs.
        balance: share of the MRI, 0 to 1, of the pretrained network; None for its default. Or as
            the third input: `model(mri, pet, 0.7)`.
        refine: steps over the fused voxels, at the balance above, as `infer_sigleImage.py` takes
            three; sides of at least 11 voxels. 0 gives the network, which alone has gradients.
        options: without weights those of `models.dc2fusion.DC2Fusion`, such as `embed_dim=96`,
            `depths=(2, 2)`, `variant="paper"`, `balanced=True`.

    Raises:
        ValueError: options that do not go together or that the network does not take.
        utils.errors.InputError: weights that are missing or damaged.
    """
    if not pretrained:
        if balance is not None or refine:
            raise ValueError("balance and refine are those of the pretrained network")
        return build_model("dc2fusion", **options).eval()
    if options:
        raise ValueError(f"the pretrained network has its own {', '.join(options)}")
    trained = load_model(SHIPPED)
    if balance is not None:
        if not 0 <= balance <= 1:
            raise ValueError(f"the balance is the MRI's share, 0 to 1, received {balance}")
        trained = trained.turned_to(balance)
    if not refine:
        return trained.model
    return Refined(trained.model, parse_objective(trained.objective, "refine"), refine).eval()
