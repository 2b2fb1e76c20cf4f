"""VGG-16 (Simonyan and Zisserman, 2015) as a fixed extractor of features.

Its weights come from a file that the user names: a state dict with torchvision's key names,
`features.<n>.weight` and `.bias`, and of the form with batch normalisation also `.running_mean` and
`.running_var`; keys of the classifier are not read.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

# Width of each 3 x 3 convolution; "pool" is 2 x 2 maximum pooling.
_STACK = (
    *(64, 64, "pool"),
    *(128, 128, "pool"),
    *(256, 256, 256, "pool"),
    *(512, 512, 512, "pool"),
    *(512, 512, 512, "pool"),
)


class Vgg16(nn.Module):
    """The stack of convolutions, numbered as in torchvision; never trained, always in eval mode.

    Args:
        batch_norm: normalise after each convolution (torchvision's `vgg16_bn`).
    """

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        layers = []
        channels = 3
        for step in _STACK:
            if step == "pool":
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(channels, step, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(step))
            layers.append(nn.ReLU())
            channels = step
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Vgg16":
        """Stays in eval mode whatever the module is a part of."""
        return super().train(False)

    def forward(self, images: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """The outputs of some layers.

        Args:
            images: (N, 3, H, W).
            layers: numbers in the stack, rising.

        Returns:
            (N, C, h, w) for each.
        """
        outputs = []
        for number, layer in enumerate(self.features[: layers[-1] + 1]):
            images = layer(images)
            if number in layers:
                outputs.append(images)
        return outputs


def load_vgg16(path: str | Path, batch_norm: bool) -> Vgg16:
    """Read VGG-16's weights, running no code from the file.

    Args:
        path: state dict saved by torch.
        batch_norm: which of the two forms is needed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such state dict, or of the other form; the message says which is
            needed.
    """
    needed = f"VGG-16 {'with' if batch_norm else 'without'} batch normalisation"
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle's protocol
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file that only looks like a pickle raises nearly any kind
        raise ValueError("not a state dict saved by torch") from error
    if not isinstance(state, dict) or "features.0.weight" not in state:
        raise ValueError(f"no state dict of {needed}: it has no features.0.weight")
    if batch_norm != ("features.1.running_mean" in state):
        raise ValueError(f"the other form: {needed} is needed")
    vgg = Vgg16(batch_norm)
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    try:
        vgg.load_state_dict(features)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"its tensors are not those of {needed}") from error
    return vgg
