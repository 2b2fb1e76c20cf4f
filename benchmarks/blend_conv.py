"""The 7x7x7 grouped convolution alone, on both backends, in one run.

python -m benchmarks.blend_conv --width 96 --side 32
"""

import argparse

import torch

from benchmarks.common.measure import machine, parse_device, seconds
from models import ops
from models.dcfb import BlendConv


def main() -> None:
    """Print time forward and forward + backward on both backends, their ratio and difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=96, help="channels of each stream (96)")
    parser.add_argument("--side", type=int, default=32, help="tokens a side (32)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    args = parser.parse_args()

    torch.manual_seed(0)
    module = BlendConv(args.width).to(args.device)
    shape = (1, args.side, args.side, args.side, args.width)
    # Channels last, as the network hands them over.
    streams = [
        torch.randn(shape, device=args.device).permute(0, 4, 1, 2, 3).requires_grad_()
        for _ in range(2)
    ]
    times, outputs = {}, {}

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return module(*streams)

    def both() -> None:
        module(*streams).square().sum().backward()

    for backend in ops.BACKENDS:
        with ops.using(backend):
            outputs[backend] = forward()
            times[backend] = [seconds(f, args.device, args.repeats) for f in (forward, both)]
    difference = (outputs["fast"] - outputs["plain"]).norm() / outputs["plain"].norm()
    print(machine(args.device))
    print(f"7x7x7 grouped convolution, C={args.width}, {args.side}^3 tokens; ", end="")
    print(f"relative difference {difference:.1e}")
    print("| pass | plain, ms | fast, ms | plain / fast |")
    print("|---|---|---|---|")
    for name, plain, fast in zip(
        ("forward", "forward + backward"), times["plain"], times["fast"], strict=True
    ):
        print(f"| {name} | {plain * 1e3:.1f} | {fast * 1e3:.1f} | {plain / fast:.1f} |")


if __name__ == "__main__":
    main()
