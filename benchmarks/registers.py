"""Compiles every Triton kernel for a GPU that need not be there; prints what a thread takes of it.

    python -m benchmarks.registers --capability 90 --levels 0

The network's operations run at their true sizes, but where they would launch a kernel it is
compiled instead, with the same types, constants and divisibilities, so that a kernel that does not
compile, or spills registers, shows without a GPU. For the tile sizes of `models.ops.kernels.tiles`:
more registers are fewer warps at a time, spills are traffic.
"""

import argparse
import inspect
import re
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.kernels import DTYPES, cases, differentiated
from models import ops
from models.dc2fusion import HEADS
from models.ops import kernels

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--capability", type=int, default=90, help="compute capability times ten (90)"
    )
    parser.add_argument("--embed-dim", type=int, default=96, help="E (96)")
    parser.add_argument(
        "--tokens", type=int, default=32, help="tokens a side on the finest grid (32)"
    )
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[0], help="stages, 0 the finest (0)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--kernels", nargs="+", default=list(ops.KERNELS), choices=ops.KERNELS)
    return parser


def compiled(function: triton.JITFunction, target: GPUTarget, arguments: dict, options: dict):
    """The kernel as a launch with these arguments would compile it."""
    signature, constants, attributes = {}, {}, {}
    for place, (name, parameter) in enumerate(
        zip(function.arg_names, function.params, strict=True)
    ):
        value = arguments[name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[(place,)] = "constexpr", value
            continue
        divisible = isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
        signature[name] = POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        if isinstance(value, float):
            signature[name] = "fp32"
        if divisible:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=options)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack (spilled registers) of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(NVIDIA / "cuobjdump"), "-res-usage", file.name]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", output.stdout + output.stderr)
    return int(found[1]), int(found[2])


def main() -> None:
    """Print a line for every kernel that is compiled."""
    args = build_parser().parse_args()
    target = GPUTarget("cuda", args.capability, 32)
    seen = set()

    def compile_instead(function, *positional, grid, warmup, num_warps, **constants):
        arguments = inspect.signature(function.fn).bind(*positional, **constants).arguments
        kernel = compiled(function, target, arguments, {"num_warps": num_warps})
        if kernel.hash not in seen:
            seen.add(kernel.hash)
            name = f"{function.__module__.split('.')[-1]}.{function.__name__}"
            registers, stack = resources(kernel.asm["cubin"])
            print(
                f"| {name} | {positional[0].dtype} | {num_warps} | {registers} | {stack} |",
                flush=True,
            )

    print(f"Triton {triton.__version__}, compute capability {args.capability / 10}")
    print(
        "| kernel | type | warps | registers | spilled, bytes |", "|---|---|---|---|---|", sep="\n"
    )
    # Nothing is launched: tensors on the CPU do.
    with (
        mock.patch.object(triton.JITFunction, "run", compile_instead),
        mock.patch.object(kernels, "_interpreting", True),
    ):
        for dtype in args.dtypes:
            for kernel in args.kernels:
                for level in args.levels:
                    width, side = args.embed_dim * 2**level, max(1, args.tokens >> level)
                    for case in cases(
                        kernel, width, side, HEADS[level], torch.device("cpu"), DTYPES[dtype]
                    ).values():
                        differentiated(case)


if __name__ == "__main__":
    main()
