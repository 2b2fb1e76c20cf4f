"""The training loop: epochs of steps, validation, checkpoints."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.dataset import EpochSampler, ErrorsAsItems, PairDataset, collate
from models import build_model
from training import checkpoint, weights
from training.build import build_loss, build_network
from training.config import FROM_WEIGHTS, TrainConfig
from training.devices.batchnorm import synchronise
from training.devices.distributed import Process
from training.devices.graph import StepGraph
from training.hyperparameters import REGISTRATION, SLICES
from training.optimizer import build_optimizers
from training.registration import BEFORE, validate_registration
from training.runlog import RunLog, peak_memory_gib
from training.validation import BEST_BY, METRICS, NETWORK, Scores, Validation, summarise, validate
from utils.errors import InputError, notice

REFERENCES = ("average", "copy-mri")  # every score of a fusion is read beside these
DECAY_POWER = 0.9
BALANCES = (0.15, 0.85)  # shares of the MRI that a training for any balance draws
NORM = "gradient norm"
WAITED = "time/waiting for data seconds"
PREFETCHED = 4  # batches that each loading process keeps ready


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, which counts from 0.

    Of DC2Fusion round(lr (1 - epoch / epochs)^0.9, 8), the released schedule; else constant.
    """
    if not config.published.decays:
        return config.lr
    return round(config.lr * (1 - epoch / config.epochs) ** DECAY_POWER, 8)


def warm_up(config: TrainConfig, step: int) -> float:
    """The share of the learning rate that a step takes, which counts from 0."""
    return min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0


class Loss(nn.Module):
    """Network and objective as one module, which is what data-parallel training wraps.

    Args:
        network: `(mri, pet[, balance]) -> fused`, or one that registers.
        objective: see `training.build.build_loss`.
        kind: of the model, see `training.hyperparameters`.
        objective_at: the objective of a balance, for a network that takes any.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Callable,
        kind: str,
        objective_at: Callable[[float | torch.Tensor], Callable] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.objective, self.kind = network, objective, kind
        self.objective_at = objective_at

    def forward(
        self, *images: torch.Tensor, balance: float | torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise and each term of it, of a batch of pairs or of single images."""
        if self.kind == SLICES:
            return self.objective(self.network.method, *images)
        if self.kind == REGISTRATION:
            return self.objective(self.network, *images)
        if balance is not None:
            return self.objective_at(balance)(self.network(*images, balance), *images)
        return self.objective(self.network(*images), *images)


class Trainer:
    """Trains a network and writes the run folder.

    Whatever is trained, the scores are those of whole volumes.

    Args:
        config: the run's configuration.
        model: the network, `(mri, pet) -> fused` on volumes, or `(moving, fixed) -> (warped,
            displacement)`; it is moved to the process's device.
        objective: see `training.build.build_loss`.
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
        self.published = config.published
        self.process = process
        self.model = model.to(process.device)
        if config.sync_batchnorm and process.world_size > 1:
            synchronise(self.model)
        self.network = torch.compile(self.model) if config.compile else self.model
        self.mean = None
        if config.ema:
            self.mean = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        # The 2-D methods keep parameters of their published state dicts that have no effect.
        self.loss = Loss(self.network, objective, config.kind, partial(build_loss, config))
        self.runner = process.wrap(self.loss, some_unused=config.kind == SLICES)
        self.names: list[str] = []  # of what a step returns
        self.graph = None
        if config.cuda_graph and process.device.type == "cuda" and process.world_size == 1:
            self.graph = StepGraph(self._take, process.device)
        self.rate = torch.zeros((), device=process.device)  # a graph reads it from the device
        self.optimizers = build_optimizers(config, self.model, in_graph=bool(self.graph))
        self.train = train
        train.defer_to(process.device)
        self.sampler = EpochSampler(
            len(train), config.seed, shuffle=True, rank=process.rank, world_size=process.world_size
        )
        self.loader = self._build_loader()
        self.validation = validation
        self.references: dict[str, Scores] = {}
        self.said_undefined = False
        self.epoch, self.step, self.best = 0, 0, -math.inf
        if resumed:
            self._restore(resumed)
        self.log = RunLog(config.run_folder, self.epoch, self.step) if process.is_main else None

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and kept: the running mean where there is one."""
        return self.mean.module if self.mean else self.model

    def _build_loader(self) -> DataLoader:
        config = self.config
        return DataLoader(
            ErrorsAsItems(self.train),
            batch_size=config.batch_size,
            collate_fn=collate,
            sampler=self.sampler,
            drop_last=self.published.drops_last and len(self.sampler) >= config.batch_size,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            # Its own, or starting the processes would draw from the global one and shift what a
            # resumed run draws.
            generator=torch.Generator().manual_seed(config.seed),
            prefetch_factor=PREFETCHED if config.workers else None,
            pin_memory=self.process.device.type == "cuda",
        )

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
            if self.log and scores:
                self.log.report(self.config)
            epochs.set_postfix(loss=f"{loss:.4g}")
            self._say(loss, scores, time.perf_counter() - started)
        if self.log:
            self.log.close()

    def train_epoch(self, epoch: int) -> float:
        """One pass over the training pairs; returns the mean loss."""
        self.sampler.epoch = epoch
        rate = learning_rate(self.config, epoch)
        self.runner.train()
        steps = self._bar(self.loader, f"epoch {epoch + 1}", "step")
        history = []
        started = time.perf_counter()
        for values in self._steps(steps, rate):
            self.step += 1
            history.append(values)
            steps.set_postfix(loss=f"{values['loss/total']:.4g}")
            values["time/step seconds"] = time.perf_counter() - started
            values[WAITED] = values.pop(WAITED)  # behind the whole that it is a part of
            if self.log:
                self.log.step(self.step, values)
            started = time.perf_counter()
        means = {name: statistics.fmean(values[name] for values in history) for name in history[0]}
        if self.log:
            self.log.epoch(epoch + 1, means)
        return means["loss/total"]

    def _steps(self, batches: Iterable, rate: float) -> Iterator[dict[str, float]]:
        """Take the steps of an epoch, whose learning rate this is; gives what is logged of each.

        Raises:
            InputError: an item could not be read.
        """
        under_way = None  # what a graph was started with, and its subjects
        started = time.perf_counter()
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            if self.graph:  # the device works on the step before meanwhile
                images = self._images(batch)
            waited = time.perf_counter() - started
            if under_way:
                yield self._finished(*under_way) | {WAITED: waited}
            self._set_rate(rate)
            if self.graph:
                values = self.graph(*images, *self._drawn_balance().values())
                under_way = values, batch["name"]
            else:
                yield self.train_step(batch) | {WAITED: waited}
            started = time.perf_counter()
        if under_way:
            yield self._finished(*under_way) | {WAITED: 0.0}

    def train_step(self, batch: dict) -> dict[str, float]:
        """One update of the weights; returns what is logged of it.

        Losses are means over all processes, times and memory are those of this one.
        """
        inputs = *self._images(batch), *self._drawn_balance().values()
        values = self._finished(self._differentiate(*inputs), batch["name"])
        self._update()
        return values

    def _take(self, *inputs: torch.Tensor) -> torch.Tensor:
        """A whole step that does not wait for the device: the weights change, whatever comes."""
        values = self._differentiate(*inputs)
        self._update()
        return values

    def _differentiate(self, *inputs: torch.Tensor | float) -> torch.Tensor:
        """The losses and the norm of the gradients, which are left with the weights.

        Args:
            inputs: the images, then the balance where one is drawn.
        """
        balance = {"balance": inputs[-1]} if self.config.balance == "any" else {}
        with self._autocast():
            loss, terms = self.runner(*inputs[: len(inputs) - len(balance)], **balance)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        losses = {"loss/total": loss.detach()}
        losses |= {f"loss/{name}": value for name, value in terms.items()}
        self.names = [*losses, NORM]
        return torch.stack([*losses.values(), norm])  # all in one transfer from the device

    def _finished(self, values: torch.Tensor, subjects: list[str]) -> dict[str, float]:
        """What `_differentiate` found, for the log; stops where it is not finite."""
        own = dict(zip(self.names, values.tolist(), strict=True))
        means = dict(zip(self.names, self.process.mean([*own.values()]), strict=True))
        self._stop_unless_finite(
            {name: means[name] for name in means if name != NORM}, own, subjects
        )
        self._stop_unless_finite({NORM: means[NORM]}, own, subjects)
        rate = {"learning rate": float(self.optimizers[0].param_groups[0]["lr"])}
        return means | rate | {"memory/peak GiB": peak_memory_gib(self.process.device)}

    def _update(self) -> None:
        """New weights, and their running mean."""
        for optimizer in self.optimizers:
            optimizer.step()
        self._limit_weights()
        if self.mean and self.graph and self.graph.taken > 1:
            self._follow()
        elif self.mean:
            self.mean.update_parameters(self.model)

    @torch.no_grad()
    def _follow(self) -> None:
        """As `AveragedModel` does after its first update, but without asking the device for it."""
        mean, new = (
            [parameter.detach() for parameter in module.parameters()]
            for module in (self.mean.module, self.model)
        )
        get_ema_multi_avg_fn(self.config.ema)(mean, new, None)
        buffers = zip(self.mean.module.buffers(), self.model.buffers(), strict=True)
        for kept, buffer in buffers:
            kept.copy_(buffer)
        self.mean.n_averaged += 1

    def _set_rate(self, rate: float) -> None:
        """The learning rate of the next step, of an epoch's."""
        rate = rate * warm_up(self.config, self.step)
        if self.graph:
            rate = self.rate.fill_(rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _images(self, batch: dict) -> list[torch.Tensor]:
        """What the objective takes of a batch, on the process's device."""
        with self.graph.beside() if self.graph else nullcontext():
            return self._images_on_device(batch)

    def _images_on_device(self, batch: dict) -> list[torch.Tensor]:
        inputs, device = self.published.inputs, self.process.device
        there = [key for key in inputs if key in batch]
        images = {key: batch[key].to(device, non_blocking=True) for key in there}
        if not self.train.deferred:
            return list(images.values())
        finished = []
        for place, index in enumerate(batch["index"]):
            item = {key: image[place] for key, image in images.items()}
            finished.append(self.train.finish(item, self.sampler.epoch, int(index)))
        there = [key for key in inputs if key in finished[0]]
        return [torch.stack([item[key] for item in finished]) for key in there]

    def _drawn_balance(self) -> dict[str, float | torch.Tensor]:
        """The share of the MRI that this step asks for, from (seed, step, rank) alone."""
        if self.config.balance != "any":
            return {}
        draw = np.random.default_rng([self.config.seed, self.step, self.process.rank])
        balance = draw.uniform(*BALANCES)
        if self.graph:
            balance = torch.full((), balance, device=self.process.device)
        return {"balance": balance}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.config.amp)

    @torch.no_grad()
    def _limit_weights(self) -> None:
        limit = self.published.weight_limit
        if limit is not None:
            for parameter in self.model.parameters():
                parameter.clamp_(-limit, limit)

    def _stop_unless_finite(
        self, means: dict[str, float], own: dict[str, float], names: list[str]
    ) -> None:
        """Stop all processes where a mean over them is not finite; those at fault say so.

        Args:
            means: the same in all processes.
            own: this process's values.
            names: its subjects.
        """
        if all(map(math.isfinite, means.values())):
            return
        bad = [f"{name} = {own[name]}" for name in means if not math.isfinite(own[name])]
        subjects = ", ".join(dict.fromkeys(names))
        where = f"epoch {self.sampler.epoch + 1}, step {self.step + 1} ({subjects})"
        self._stop_together(where, ", ".join(bad))

    def _stop_together(self, where: str, problem: str) -> None:
        """Stop all processes if any has a problem; "" is none."""
        error = None
        if problem:
            last = self.config.run_folder / checkpoint.LAST
            kept = "no epoch was finished"
            if last.exists():
                kept = f"the last good checkpoint is {last}"
            problem = f"training diverged: {problem}; {kept}"
            error = InputError(where, problem, "lower --lr or look at these subjects")
        self.process.raise_together(error)

    def validate(self) -> Scores:
        """Score the network on the validation pairs, beside what it is held against."""
        self.kept.eval()
        self.process.share_buffers(self.kept)
        found = self._examined()
        where = f"validation after epoch {self.epoch} ({found.not_finite})"
        problem = "the network's output is NaN or infinite" if found.not_finite else ""
        self._stop_together(where, problem)
        scores = summarise(self.process.gather(found.rows))
        if not self.references:
            self.references = {name: scores[name] for name in scores if name != NETWORK}
        self._say_undefined(scores[NETWORK])
        if self.log:
            for example in found.examples:
                self.log.example(self.epoch, self.config.model, example)
            for name, values in self.references.items():
                self.log.scores(self.epoch, name, values)
            self.log.scores(self.epoch, self.config.model, scores[NETWORK])
        return scores[NETWORK]

    def _examined(self) -> Validation:
        """What this process's share of the validation pairs shows."""
        share = self.process.share_of(range(len(self.validation)))
        bar = self._bar(share, "validation", "subject")
        where = self.validation, bar, self.process.device
        if self.config.kind == REGISTRATION:
            return validate_registration(self._run, *where)
        # Their scores never change.
        beside = {} if self.references else {name: build_model(name) for name in REFERENCES}
        return validate(self._run, *where, self.config.best_by, beside)

    def _say_undefined(self, scores: Scores) -> None:
        """Say once which scores have no value for some subjects."""
        number = len(self.validation)
        without = [name for name, (_, _, n) in scores.items() if n < number]
        if without and self.process.is_main and not self.said_undefined:
            names = ", ".join(without)
            notice(f"validation: {names} of the network have no value (nan) for some subjects")
            self.said_undefined = True

    def _run(self, *images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The network's result for a pair, in the precision of the training."""
        network = self.mean.module if self.mean else self.network
        with self._autocast():
            return network(*images)

    def _bar(self, items: Iterable, title: str, unit: str) -> tqdm:
        """A progress bar below the bar of epochs; none without a terminal."""
        hidden = None if self.process.is_main else True
        return tqdm(items, title, unit=unit, leave=False, disable=hidden)

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
            "model": self.kept.state_dict(),
            "optimizer": checkpoint.optimizer_state(self.optimizers),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "rng": rng,
        }
        if self.mean:
            content["trained"] = self.model.state_dict()
        self.log.flush()  # what is behind the checkpoint must not be lost
        # The best one first: who is killed in between does this epoch again. A file of its own
        # each, so that damage to one leaves the other.
        if is_best:
            checkpoint.save(best, content)
        checkpoint.save(last, content)

    def _restore(self, content: dict) -> None:
        last = self.config.run_folder / checkpoint.LAST
        if self.mean:  # a copy of the mean so far, which the model was built with
            checkpoint.load_tensors(last, content.get("trained"), self.model)
            self.mean.n_averaged.fill_(content["step"])
        checkpoint.restore_optimizers(last, content["optimizer"], self.optimizers)
        self.epoch, self.step, self.best = content["epoch"], content["step"], content["best"]
        if self.process.is_main:
            checkpoint.complete_best(self.config.run_folder, content)
        # States belong to processes; with another number of devices there is no going on with them.
        rng = content["rng"]
        if isinstance(rng, list) and len(rng) == self.process.world_size:
            checkpoint.restore_rng(last, rng[self.process.rank])

    def _say(self, loss: float, scores: Scores | None, seconds: float) -> None:
        """One line an epoch that stays readable in a log file."""
        if not self.process.is_main:
            return
        line = f"epoch {self.epoch}/{self.config.epochs}  loss {loss:.4g}  {seconds:.1f} s"
        if scores and self.config.kind == REGISTRATION:
            line += self._registration_line(scores)
        elif scores:
            for metric in METRICS:
                mri, pet = scores[f"{metric}_mri"][0], scores[f"{metric}_pet"][0]
                line += f"  {metric.upper()} {mri:.3f}/{pet:.3f}"
        tqdm.write(line, file=sys.stdout)

    def _registration_line(self, scores: Scores) -> str:
        """Scores before and after, and folded voxels."""
        before, line = self.references[BEFORE], ""
        for name in ("dice", "similarity"):
            if name in scores:
                line += f"  {name} {before[name][0]:.3f} -> {scores[name][0]:.3f}"
        return f"{line}  folded {scores['folded'][0]:.2%}"


def build_trainer(
    process: Process,
    config: TrainConfig,
    datasets: tuple[PairDataset, PairDataset],
    resumed: dict | None = None,
) -> Trainer:
    """A trainer with its network and objective, at the beginning or where a checkpoint left off."""
    torch.manual_seed(config.seed + process.rank)
    if resumed:
        last = config.run_folder / checkpoint.LAST
        model = checkpoint.restore_model(last, resumed, config)
    else:
        model = build_network(config)
    if config.init == FROM_WEIGHTS and not resumed:
        weights.read(weights.SHIPPED).load_into(model)
    return Trainer(config, model, build_loss(config), *datasets, process, resumed)


def train(
    process: Process,
    config: TrainConfig,
    datasets: tuple[PairDataset, PairDataset],
    resumed: dict | None = None,
) -> None:
    """A whole training; runs in a process for each device, see `devices.distributed.launch`."""
    build_trainer(process, config, datasets, resumed).fit()
