"""The training loop, where a command's files do not show it."""

from dataclasses import replace

import pytest
import torch

from data.subjects import find_subjects
from tests.helpers.runs import SMALL_NETWORK
from training.build import build_loss, build_network
from training.checkpoint import LAST, read
from training.config import TrainConfig
from training.datasets import build_datasets
from training.devices.distributed import Process
from training.trainer import Trainer, learning_rate
from utils.errors import InputError

QUICK = {"epochs": 2, "workers": 0, "cache": "memory", "batch_size": 2}
CONFIG = TrainConfig(**SMALL_NETWORK, **QUICK, size=36)


@pytest.fixture
def trainer(synthetic_cohort, tmp_path):
    """Function (**changes) -> a trainer of a tiny network, always with the same first weights."""

    def build(device: str = "cpu", **changes) -> Trainer:
        config = replace(CONFIG, out=str(tmp_path), **changes)
        subjects = find_subjects(synthetic_cohort).subjects
        datasets = build_datasets(config, subjects[:2], subjects[2:])
        torch.manual_seed(0)
        model = build_network(config)
        process = Process(0, 1, torch.device(device))
        return Trainer(config, model, build_loss(config), *datasets, process)

    return build


def losses(trainer: Trainer) -> list[float]:
    """Of two epochs; stochastic depth draws the same each time."""
    torch.manual_seed(1)
    return [trainer.train_epoch(epoch) for epoch in range(2)]


def test_augmenting_in_the_training_process_gives_the_same_losses(trainer):
    at_once, deferred = trainer(name="at-once"), trainer(name="deferred")
    assert not at_once.train.deferred, "a CPU augments in the loading processes"
    deferred.train.deferred = True
    assert losses(deferred) == losses(at_once)


def test_checkpointed_activations_train_the_same_network(trainer):
    kept, again = trainer(name="kept"), trainer(name="again", checkpoint_activations=True)
    assert losses(again) == pytest.approx(losses(kept), rel=1e-4)


def test_the_learning_rate_warms_up_and_then_falls(trainer):
    warming = trainer(name="warming", warmup=4, epochs=3, batch_size=1)
    seen = []
    step = warming.train_step

    def watched(batch):
        seen.append(warming.optimizers[0].param_groups[0]["lr"])
        return step(batch)

    warming.train_step = watched
    for epoch in range(3):
        warming.train_epoch(epoch)
    epochs = [learning_rate(warming.config, epoch) for epoch in range(3)]
    assert seen == [epochs[0] / 4, epochs[0] / 2, epochs[1] * 0.75, *epochs[1:2], *2 * epochs[2:]]


def test_the_mean_of_the_weights_follows_them_and_is_what_is_kept(trainer):
    averaged = trainer(name="averaged", ema=0.75, epochs=1, batch_size=1)
    expected, step = [], averaged.train_step

    def watched(batch):
        values = step(batch)
        for place, new in enumerate(averaged.model.parameters()):
            new = new.detach().double().clone()
            if averaged.step == 0:
                expected.append(new)
            else:
                expected[place] = 0.75 * expected[place] + 0.25 * new
        return values

    averaged.train_step = watched
    averaged.fit()
    content = read(averaged.config.run_folder / LAST)
    assert averaged.step == 2
    for (name, _), mean in zip(averaged.model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(content["model"][name].double(), mean, rtol=1e-6, atol=1e-6)
    last = averaged.model.state_dict()
    assert all(torch.equal(content["trained"][name], last[name]) for name in last)
    assert any(not torch.equal(content["model"][name], last[name]) for name in last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_augments_what_it_trains_on(trainer):
    on_gpu, on_cpu = trainer("cuda", name="gpu"), trainer(name="cpu")
    assert on_gpu.train.deferred
    # Stochastic depth draws differently on a GPU, so only the images can be compared.
    batches = [next(iter(trainer.loader)) for trainer in (on_gpu, on_cpu)]
    for image, expected in zip(on_gpu._images(batches[0]), on_cpu._images(batches[1]), strict=True):
        torch.testing.assert_close(image.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["published", "muon"])
def test_a_graph_takes_the_steps_of_a_plain_loop(trainer, monkeypatch, optimizer):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr("models.dc2fusion.MAX_DROP_PATH", 0.0)  # draws differ
    options = {"balance": "any", "objective": "salient-composite", "ema": 0.9, "epochs": 7}
    options["optimizer"] = optimizer
    plain, graphed = (
        trainer("cuda", name=str(graph), cuda_graph=graph, **options) for graph in (False, True)
    )
    for one in (plain, graphed):
        one.history = [one.train_epoch(epoch) for epoch in range(7)]
    assert graphed.graph.taken == plain.step == 7
    assert graphed.history == pytest.approx(plain.history, rel=1e-4)
    weights = [torch.cat([p.flatten() for p in one.kept.parameters()]) for one in (plain, graphed)]
    assert float((weights[1] - weights[0]).norm() / weights[0].norm()) < 1e-4


def test_without_a_gpu_there_is_no_graph(trainer):
    plain, asked = trainer(name="plain"), trainer(name="asked", cuda_graph=True)
    assert asked.graph is None
    assert losses(asked) == losses(plain)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scan_that_goes_bad_during_training_is_told(trainer, workers):
    """As it was raised, whichever process read it."""
    training = trainer(name="bad", workers=workers)

    def broken(index: int) -> None:
        raise InputError("scan.nii", "is gone", "bring it back", kind="output")

    training.train._kept = broken
    with pytest.raises(InputError, match="scan.nii: is gone; bring it back") as caught:
        training.train_epoch(0)
    assert caught.value.kind == "output"
