"""The training loop: epochs of steps, validation, checkpoints."""

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.dataset import EpochSampler, PairDataset
from metrics import Scorer
from models import build_model
from training import checkpoint
from training.config import TrainConfig
from training.distributed import Process
from training.runlog import RunLog
from utils.errors import InputError
from utils.pictures import fusion_figure

VALIDATION_METRICS = ("psnr", "ssim", "nmi")
REFERENCES = ("average", "copy-mri")  # every score is read beside these
PICTURED_SUBJECTS = 2
DECAY_POWER = 0.9
PREFETCHED = 4  # batches that each loading process keeps ready

RELEASED_SCORE = {"psnr": 0.1, "ssim": 1, "nmi": 1, "mi": 1, "fsim": 1}  # of the published protocol

Scores = dict[str, tuple[float, float, int]]  # score: mean, standard deviation, subjects

# What chooses `best.pt`. The smaller one of the two sources' mean SSIM cannot be won by a copy of
# one source, which is perfect for that source and poor for the other; the released sum can.
BEST_BY: dict[str, Callable[[Scores], float]] = {
    "ssim-min": lambda scores: min(scores["ssim_mri"][0], scores["ssim_pet"][0]),
    "released": lambda scores: scores["released"][0],
}


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Of DC2Fusion round(lr (1 - epoch / epochs)^0.9, 8), the released schedule; `epoch` counts
    from 0.
    """
    if not config.regime.decays:
        return config.lr
    return round(config.lr * (1 - epoch / config.epochs) ** DECAY_POWER, 8)


class Loss(nn.Module):
    """Network and objective as one module, `(*images) -> (total, terms)`: what data-parallel
    training wraps.
    """

    def __init__(self, network: nn.Module, objective: Callable, slicewise: bool) -> None:
        super().__init__()
        self.network, self.objective, self.slicewise = network, objective, slicewise

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise and each term of it, of a batch of pairs or of single images."""
        if self.slicewise:
            return self.objective(self.network.method, *images)
        return self.objective(self.network(*images), *images)


class Trainer:
    """Trains a network and writes the run folder. Whatever is trained, the scores are those of
    whole volumes.

    Args:
        config: the run's configuration.
        model: the network, `(mri, pet) -> fused` on volumes; it is moved to the process's device.
        objective: `(fused, mri, pet) -> (total, terms)`, or for a 2-D method `(method, *images) ->
            (total, terms)`, see `losses`.
        train: the pairs, or the slices for a 2-D method.
        validation: the pairs.
        process: this process and its device.
        resumed: content of the checkpoint to go on from, see `training.checkpoint`.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        objective: Callable,
        train: PairDataset,
        validation: PairDataset,
        process: Process,
        resumed: dict | None = None,
    ) -> None:
        self.config = config
        self.regime = config.regime
        self.process = process
        self.model = model.to(process.device)
        self.network = torch.compile(self.model) if config.compile else self.model
        # The 2-D methods keep parameters of their published state dicts that have no effect.
        self.loss = Loss(self.network, objective, self.regime.slicewise)
        self.runner = process.wrap(self.loss, some_unused=self.regime.slicewise)
        optimizer = getattr(torch.optim, self.regime.optimizer)
        self.optimizer = optimizer(
            self.model.parameters(), lr=config.lr, **self.regime.optimizer_options
        )
        self.sampler = EpochSampler(
            len(train), config.seed, shuffle=True, rank=process.rank, world_size=process.world_size
        )
        self.train = train
        train.deferred = train.augmentation is not None and process.device.type == "cuda"
        self.loader = DataLoader(
            train,
            batch_size=config.batch_size,
            sampler=self.sampler,
            drop_last=self.regime.drops_last and len(self.sampler) >= config.batch_size,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            # Its own, or starting the processes would draw from the global one and shift what a
            # resumed run draws.
            generator=torch.Generator().manual_seed(config.seed),
            prefetch_factor=PREFETCHED if config.workers else None,
            pin_memory=process.device.type == "cuda",
        )
        self.validation = validation
        self.epoch, self.step, self.best = 0, 0, -math.inf
        self.references: dict[str, Scores] | None = None
        if resumed:
            self._restore(resumed)
        self.log = RunLog(config.run_folder, self.epoch, self.step) if process.is_main else None

    def fit(self) -> None:
        """Train until all epochs are done, saving after each.

        Raises:
            InputError: the loss turned NaN or infinite; `last.pt` is then the last good state.
        """
        epochs = tqdm(
            range(self.epoch, self.config.epochs),
            "training",
            initial=self.epoch,
            total=self.config.epochs,
            unit="epoch",
            disable=None if self.process.is_main else True,
        )
        for epoch in epochs:
            started = time.perf_counter()
            loss = self.train_epoch(epoch)
            self.epoch = epoch + 1
            scores = self.validate() if self._validation_is_due() else None
            self.save(scores)
            epochs.set_postfix(loss=f"{loss:.4g}")
            self._say(loss, scores, time.perf_counter() - started)
        if self.log:
            self.log.close()

    def train_epoch(self, epoch: int) -> float:
        """One pass over the training pairs; returns the mean loss."""
        self.sampler.epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, epoch)
        self.runner.train()
        steps = self._bar(self.loader, f"epoch {epoch + 1}", "step")
        history = []
        started = time.perf_counter()
        for batch in steps:
            waited = time.perf_counter() - started
            values = self.train_step(batch)
            self.step += 1
            history.append(values)
            steps.set_postfix(loss=f"{values['loss/total']:.4g}")
            values["time/step seconds"] = time.perf_counter() - started
            values["time/waiting for data seconds"] = waited
            if self.log:
                self.log.step(self.step, values)
            started = time.perf_counter()
        means = {name: statistics.fmean(values[name] for values in history) for name in history[0]}
        if self.log:
            self.log.epoch(epoch + 1, means)
        return means["loss/total"]

    def train_step(self, batch: dict) -> dict[str, float]:
        """One update of the weights; returns what is logged of it."""
        device = self.process.device
        images = self._images(batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.amp):
            loss, terms = self.runner(*images)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        losses = {"loss/total": loss.detach()} | {
            f"loss/{name}": value for name, value in terms.items()
        }
        *numbers, norm = torch.stack(
            [*losses.values(), norm]
        ).tolist()  # all in one transfer from the device
        values = dict(zip(losses, numbers, strict=True))
        self._stop_unless_finite(values, batch["name"])
        values["gradient norm"] = norm
        self._stop_unless_finite(values, batch["name"])
        self.optimizer.step()
        self._limit_weights()
        values["learning rate"] = self.optimizer.param_groups[0]["lr"]
        values["memory/peak GiB"] = peak_memory_gib(device)
        return values

    def _images(self, batch: dict) -> list[torch.Tensor]:
        """What the objective takes of a batch, on the process's device."""
        inputs = self.regime.inputs
        images = {key: batch[key].to(self.process.device, non_blocking=True) for key in inputs}
        if self.train.deferred:
            items = [
                self.train.finish(
                    {key: images[key][place] for key in inputs}, self.sampler.epoch, int(index)
                )
                for place, index in enumerate(batch["index"])
            ]
            images = {key: torch.stack([item[key] for item in items]) for key in inputs}
        return [images[key] for key in inputs]

    @torch.no_grad()
    def _limit_weights(self) -> None:
        limit = self.regime.weight_limit
        if limit is not None:
            for parameter in self.model.parameters():
                parameter.clamp_(-limit, limit)

    def _stop_unless_finite(self, values: dict[str, float], names: list[str]) -> None:
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        where = f"epoch {self.sampler.epoch + 1}, step {self.step + 1} ({', '.join(dict.fromkeys(names))})"
        self.process.raise_together(self._diverged(where, ", ".join(bad)) if bad else None)

    def _diverged(self, where: str, what: str) -> InputError:
        last = self.config.run_folder / checkpoint.LAST
        kept = f"the last good checkpoint is {last}" if last.exists() else "no epoch was finished"
        return InputError(
            where, f"training diverged: {what}; {kept}", "lower --lr or look at these subjects"
        )

    @torch.no_grad()
    def validate(self) -> Scores:
        """Score the network on the validation pairs, beside the average and a copy of the MRI."""
        self.model.eval()
        self.process.share_buffers(self.model)
        trained = self.config.model
        methods = {trained: self._fuse}
        if self.references is None:
            methods |= {name: build_model(name) for name in REFERENCES}
        rows, diverged = [], None
        indices = range(self.process.rank, len(self.validation), self.process.world_size)
        for index in self._bar(indices, "validation", "subject"):
            item = self.validation[self.epoch, index]
            mri, pet = (item[key][None].to(self.process.device) for key in ("mri", "pet"))
            scorer = self._scorer(mri[0, 0], pet[0, 0])
            fused = {name: method(mri, pet)[0, 0].float() for name, method in methods.items()}
            if not fused[trained].isfinite().all():
                where = f"validation after epoch {self.epoch} ({item['name']})"
                diverged = self._diverged(where, "the network's output is NaN or infinite")
                break
            rows += [(name, scorer(volume)) for name, volume in fused.items()]
            if self.log and index < PICTURED_SUBJECTS:
                volumes = [v.cpu().numpy() for v in (mri[0, 0], pet[0, 0], fused[trained])]
                figure = fusion_figure(*volumes, title=f"{item['name']}, epoch {self.epoch}")
                self.log.figure(f"fusion/{item['name']}", figure, self.epoch)
        self.process.raise_together(diverged)
        rows = self.process.gather(rows)
        scores = {name: summarise([row for n, row in rows if n == name]) for name in methods}
        if self.references is None:
            self.references = {name: scores[name] for name in REFERENCES}
        if self.log:
            for name, values in (self.references | {trained: scores[trained]}).items():
                self.log.scores(self.epoch, name, values)
        return scores[trained]

    def _scorer(
        self, mri: torch.Tensor, pet: torch.Tensor
    ) -> Callable[[torch.Tensor], dict[str, float]]:
        """Scores of a fused volume against these sources, with the released sum where it chooses
        the best.
        """
        volume = Scorer(mri, pet, names=VALIDATION_METRICS)
        if self.config.best_by != "released":
            return volume
        published = Scorer(mri, pet, protocol="published")

        def score(fused: torch.Tensor) -> dict[str, float]:
            terms = published(fused)
            released = sum(weight * terms[name] for name, weight in RELEASED_SCORE.items())
            return volume(fused) | {"released": released}

        return score

    def _fuse(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.config.amp):
            return self.network(mri, pet)

    def _bar(self, items: Iterable, title: str, unit: str) -> tqdm:
        """A progress bar below the bar of epochs; none without a terminal."""
        return tqdm(
            items, title, unit=unit, leave=False, disable=None if self.process.is_main else True
        )

    def _validation_is_due(self) -> bool:
        return self.epoch % self.config.val_every == 0 or self.epoch == self.config.epochs

    def save(self, scores: Scores | None) -> None:
        """Write `last.pt`, and `best.pt` where this epoch's validation is the best so far."""
        score = BEST_BY[self.config.best_by](scores) if scores else -math.inf
        best = self.config.run_folder / checkpoint.BEST
        is_best = score > self.best or (bool(scores) and not best.exists())  # a score may be NaN
        self.best = max(self.best, score)  # in this order NaN is never kept
        rng = self.process.gather([checkpoint.rng_states()])
        if not self.process.is_main:
            return
        last = self.config.run_folder / checkpoint.LAST
        content = {
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "rng": rng,
        }
        checkpoint.save(last, content)
        if is_best:
            checkpoint.keep_as(last, best)

    def _restore(self, content: dict) -> None:
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.step, self.best = content["epoch"], content["step"], content["best"]
        if len(content["rng"]) == self.process.world_size:
            checkpoint.restore_rng(content["rng"][self.process.rank])

    def _say(self, loss: float, scores: Scores | None, seconds: float) -> None:
        """One line an epoch that stays readable in a log file."""
        if not self.process.is_main:
            return
        line = f"epoch {self.epoch}/{self.config.epochs}  loss {loss:.4g}  {seconds:.1f} s"
        if scores:
            for metric in VALIDATION_METRICS:
                mri, pet = (scores[f"{metric}_{source}"][0] for source in ("mri", "pet"))
                line += f"  {metric.upper()} {mri:.3f}/{pet:.3f}"
        tqdm.write(line, file=sys.stdout)


def summarise(rows: list[dict[str, float]]) -> Scores:
    """Mean, population standard deviation and number of subjects of each score; NaN rows do not
    count.
    """
    summary = {}
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        finite = all(map(math.isfinite, values))
        mean = statistics.fmean(values) if values else math.nan
        sd = statistics.pstdev(values) if values and finite else math.nan
        summary[name] = (mean, sd, len(values))
    return summary


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory so far in GiB: allocated on a CUDA device, resident of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
