"""Updates replayed from a CUDA graph: the same bits. What needs a GPU is skipped without one."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch

from gstds.common.state import state_digest
from gstds.envs import DataSelectionEnv
from gstds.envs.batches import loader
from gstds.envs.learner import cuda_graphs as captured
from gstds.envs.learner.learner import Learner, resolve_device
from gstds.options.world import LearnerOptions
from gstds.train.running.options import config_from
from gstds.train.running.run import execute

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
SHAPE, CLASSES = (3, 16, 16), 4


def learner(seed: int = 0, **options) -> Learner:
    device = resolve_device("auto")
    made = LearnerOptions(**{"learning_rate": 0.05} | options)
    return Learner(made, shape=SHAPE, classes=CLASSES, seed=seed, device=device)


def batches(count: int, sizes=(24, 17)):
    device = resolve_device("auto")
    rng = np.random.default_rng(0)
    for step in range(count):
        n = sizes[step % len(sizes)]
        images = torch.from_numpy(rng.standard_normal((n, *SHAPE), dtype=np.float32))
        images = images.to(device=device, memory_format=torch.channels_last)
        labels = torch.from_numpy(rng.integers(0, CLASSES, n)).to(device)
        weights = torch.from_numpy(rng.uniform(0.5, 2, n).astype(np.float32)).to(device)
        yield step, images, labels, weights


def train(model: Learner, steps) -> list[bytes]:
    losses = []
    for step, images, labels, weights in steps:
        model.set_progress(step / 60)
        losses.append(model.update(images, labels, weights, len(labels), step=step).tobytes())
    return losses


@GPU
@pytest.mark.parametrize("name", ["small-cnn", "resnet18", "mlp"])
@pytest.mark.parametrize("extra", [{}, {"label_smoothing": 0.1}, {"precision": "float32"}])
def test_replayed_updates_are_the_plain_ones_to_the_bit(name, extra):
    torch.backends.cudnn.benchmark = False
    plain, replayed = learner(name=name, cuda_graphs=False, **extra), learner(name=name, **extra)
    assert plain.captured is None
    steps = list(batches(50))
    with_determinism = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert train(plain, steps) == train(replayed, steps)
    finally:
        torch.use_deterministic_algorithms(with_determinism)
    assert state_digest(plain.model.state_dict()) == state_digest(replayed.model.state_dict())
    assert replayed.captured.replayed == 50 - 2 * captured.PLAIN_UPDATES


@GPU
def test_a_learner_put_back_goes_on_as_it_was(monkeypatch):
    monkeypatch.setattr(captured, "PLAIN_UPDATES", 2)
    steps = list(batches(40))
    whole = learner()
    train(whole, steps)
    part = learner()
    train(part, steps[:20])
    state = part.state_dict()
    train(part, steps[20:30])  # gone astray, with graphs that know the momenta of then
    part.load_state_dict(state)
    train(part, steps[20:])
    assert state_digest(part.model.state_dict()) == state_digest(whole.model.state_dict())


@GPU
def test_without_memory_for_a_graph_updates_go_on(monkeypatch):
    monkeypatch.setattr(captured, "PLAIN_UPDATES", 2)
    steps = list(batches(12))
    plain, short = learner(), learner(cuda_graphs=False)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "graph", full)
    train(plain, steps)
    train(short, steps)
    assert plain.captured.replayed == 0
    assert state_digest(plain.model.state_dict()) == state_digest(short.model.state_dict())


@GPU
@pytest.mark.parametrize("pack", [False, True])
def test_a_run_is_the_same_with_graphs_resumed_or_not(tiny_npz, tmp_path, monkeypatch, pack):
    from tests.stops import StopAfter

    monkeypatch.setattr(captured, "PLAIN_UPDATES", 2)
    options = {"dataset": tiny_npz, "policy": "gstds", "batch_size": 20, "epochs": 8}
    options |= {"device": "cuda", "deterministic": True, "reference": "untrained", "pack": pack}
    plain = execute(config_from(options | {"cuda_graphs": False}), tmp_path / "plain")
    config = config_from(options)
    whole = execute(config, tmp_path / "whole", checkpoint_every=4)
    assert execute(config, tmp_path / "part", stop=StopAfter(11))["status"] == "interrupted"
    part = execute(config, tmp_path / "part", resume=True)
    assert plain["weights_sha256"] == whole["weights_sha256"] == part["weights_sha256"]


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "adamw", "learning_rate": 0.01}, {"on_nan": "skip"}, {"cuda_graphs": False}],
)
def test_updates_that_are_more_than_calls_to_kernels_are_not_recorded(options):
    made = learner(**options)
    assert made.captured is None
    assert np.isfinite(np.frombuffer(train(made, batches(1))[0], np.float32)).all()


def test_on_the_processor_nothing_is_recorded():
    made = Learner(
        LearnerOptions(), shape=SHAPE, classes=CLASSES, seed=0, device=torch.device("cpu")
    )
    assert made.captured is None


@GPU
def test_pixels_stay_on_the_gpu_where_they_have_room(tiny_npz, monkeypatch):
    seen = []
    for share in (loader.SHARE_OF_GPU, 0.0):
        monkeypatch.setattr(loader, "SHARE_OF_GPU", share)
        monkeypatch.setattr(loader, "pixels_on_gpu", type(loader.pixels_on_gpu)())
        env = DataSelectionEnv(dataset=tiny_npz, device="cuda", reward="none", observe=())
        env.reset(seed=0)
        images = env.loader.images(np.array([5, 1, 5]), 2)
        evaluated = env.monitor("test")
        seen.append((images.cpu().numpy().tobytes(), evaluated))
        copies = list(loader.pixels_on_gpu.values())
        assert [len(c) for c in copies if c] == ([1] if share else [])
    on_processor = DataSelectionEnv(dataset=tiny_npz, device="cpu", reward="none", observe=())
    on_processor.reset(seed=0)
    plain = on_processor.loader.images(np.array([5, 1, 5]), 2)
    assert seen[0] == seen[1]
    assert seen[0][0] == plain.numpy().tobytes()


def try_the_gpu(answers):
    try:
        answers.put(str(resolve_device("auto")))
    except ValueError as error:
        answers.put(str(error))


@GPU
def test_a_process_forked_from_one_on_a_gpu_is_told_what_to_do():
    torch.zeros(1, device="cuda")
    for method, said in (("fork", "start it with the method 'spawn'"), ("spawn", "cuda")):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        child = context.Process(target=try_the_gpu, args=(answers,))
        child.start()
        assert said in answers.get(timeout=120)
        child.join()
