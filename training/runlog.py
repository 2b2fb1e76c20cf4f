"""What a run leaves to look at: TensorBoard's `log/`, two tables, pictures and `report.html`."""

import csv
import io
import json
import math
import platform
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from data.splits import write_split
from training.checkpoint import full_disk_remedy
from training.config import TrainConfig
from training.registration import RegistrationExample
from training.report import drop_pictures, keep_picture, write_report
from training.validation import Example, Scores
from utils.errors import InputError
from utils.files import replacing

COLUMNS = ("epoch", "method", "score", "mean", "sd", "n")


def start_run_folder(config: TrainConfig, subjects: tuple[Sequence, Sequence]) -> None:
    """Write configuration and lists of subjects, before the first step and when a run goes on.

    Raises:
        InputError: the folder cannot be written to.
    """
    about = {"written": time.strftime("%Y-%m-%d %H:%M:%S"), "python": platform.python_version()}
    # First, because it tells that the folder is a run's, which may be begun again.
    with replacing(config.run_folder / "config.json") as part:
        part.write_text(json.dumps(config.to_dict() | about, indent=2) + "\n")
    write_split(config.run_folder, *subjects)


class RunLog:
    """Writes a run's curves, figures and scores.

    Each method of the validation (the network, and the references it is held against) has a
    TensorBoard run of its own below `log/` with the same tags, so that TensorBoard draws them in
    one chart.

    Args:
        folder: the run's folder.
        epoch, step: what a resumed run has done already; later rows of an interrupted epoch are
            dropped.

    Every method raises an `InputError` of kind "output" where the disk refuses.
    """

    def __init__(self, folder: Path, epoch: int = 0, step: int = 0) -> None:
        self.folder = folder
        _silence_writing_thread()
        # TensorBoard drops what is at this step or later, left by an epoch that was not finished.
        self._purge_step = step + 1 if epoch else None
        self._purge_epoch = epoch + 1 if epoch else None
        self._writers: dict[str, SummaryWriter] = {}
        self.scores_file = folder / "scores.csv"
        self.losses_file = folder / "losses.csv"
        with self._writing():
            self._clear_after(epoch)

    def _clear_after(self, epoch: int) -> None:
        if not epoch:  # curves of an attempt that did not finish one epoch
            shutil.rmtree(self.folder / "log", ignore_errors=True)
        for file in (self.scores_file, self.losses_file):
            _keep_until(file, epoch)
        drop_pictures(self.folder, epoch)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make one line of what the system refuses."""
        try:
            yield
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error})"
            remedy = full_disk_remedy(self.folder)
            raise InputError(self.folder, problem, remedy, kind="output") from error

    def _writer(self, name: str, purge: int | None = None) -> SummaryWriter:
        if name not in self._writers:
            self._writers[name] = SummaryWriter(self.folder / "log" / name, purge_step=purge)
        return self._writers[name]

    def step(self, step: int, values: dict[str, float]) -> None:
        """Values of one training step, such as {"loss/total": ...}."""
        with self._writing():
            writer = self._writer("training", self._purge_step)
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)

    def epoch(self, epoch: int, means: dict[str, float]) -> None:
        """Means of an epoch's steps, a row of `losses.csv`."""
        row = [epoch, *(f"{value:.6g}" for value in means.values())]
        with self._writing():
            self._append(self.losses_file, ("epoch", *means), [row])

    def scores(self, epoch: int, method: str, scores: Scores) -> None:
        """A method's validation scores."""
        rows = []
        for name, (mean, sd, subjects) in scores.items():
            rows.append([epoch, method, name, f"{mean:.6g}", f"{sd:.6g}", subjects])
        with self._writing():
            self._append(self.scores_file, COLUMNS, rows)
            writer = self._writer(method, self._purge_epoch)
            for name, (mean, _, _) in scores.items():
                if math.isfinite(mean):  # the PSNR of a copy to itself is infinite: nothing to draw
                    writer.add_scalar(f"validation/{name}", mean, epoch)

    @staticmethod
    def _append(path: Path, header: Sequence[str], rows: list[list]) -> None:
        text = _csv(rows if path.exists() else [header, *rows])
        with open(path, "a", newline="", encoding="utf-8") as file:
            file.write(text)

    def example(self, epoch: int, method: str, example: Example | RegistrationExample) -> None:
        """A picture of one subject, shown by TensorBoard with a slider over epochs.

        It lies beside the method's scores, whose steps are epochs, too: in another run those of an
        epoch that is done again would stay.
        """
        title = f"{example.subject}, epoch {epoch}"
        figure = example.figure(title)
        with self._writing():
            writer = self._writer(method, self._purge_epoch)
            writer.add_figure(f"{example.tag}/{example.subject}", figure, epoch)
            keep_picture(self.folder, epoch, example)

    def report(self, config: TrainConfig) -> None:
        """Write `report.html` anew from the tables and pictures so far."""
        with self._writing():
            write_report(self.folder, config)

    def flush(self) -> None:
        """Write out what is still in memory, and go on."""
        with self._writing():
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Write out what is still in memory."""
        with self._writing():
            for writer in self._writers.values():
                writer.close()


def _silence_writing_thread() -> None:
    """Keep the traceback of TensorBoard's thread off the screen where the disk is full.

    Its next call raises the same error where it can be told.
    """
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        is_writer = type(failed.thread).__name__ == "_AsyncWriterThread"
        if not (is_writer and isinstance(failed.exc_value, OSError)):
            others(failed)

    threading.excepthook = hook


def _keep_until(path: Path, epoch: int) -> None:
    """Drop a table's rows of epochs after `epoch`, the whole table where that is 0.

    A row that a kill has cut short is of such an epoch.
    """
    if not path.is_file():
        return
    if not epoch:
        path.unlink()
        return
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [header]
    for row in rows:
        if len(row) == len(header) and row[0].isdecimal() and int(row[0]) <= epoch:
            kept.append(row)
    with replacing(path, "free space, then --resume") as part:
        part.write_text(_csv(kept), encoding="utf-8", newline="")


def _csv(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory so far in GiB: allocated on a CUDA device, the process's own on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
