"""The scripts as a cluster starts them: by torchrun, two processes on this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def torchrun(script: str, *flags, folder: Path, restarts: int = 0) -> tuple[int, str, str]:
    """Run a script in two processes in a folder; returns (exit status, stdout, stderr)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", str(restarts), str(ROOT / script)]
    threads = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *map(str, flags)],
        cwd=folder,
        env=os.environ | threads,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr
