"""The command line."""

from benchmarks.windows import main
from utils.cli import run

run(main)
