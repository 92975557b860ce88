from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from gstds.common.noise import policy_seed
from gstds.envs import DataSelectionEnv
from gstds.policies import Policy, RunContext, SelectionSampler, Selector, Transition, make_policy
from gstds.policies.dropin.sampler import IndexedDataset
from gstds.store.feature_store import build_store

N, DIM, CLASSES = 60, 8, 4


@pytest.fixture
def store(tmp_path):
    features = np.abs(np.random.default_rng(0).normal(size=(N, DIM))).astype(np.float32)
    return build_store(
        tmp_path / "store",
        rows=N,
        dim=DIM,
        fingerprint="x",
        backbone={"name": "x"},
        compute=lambda start, stop: features[start:stop],
    )


def selector(store=None, policy="random", **options):
    options = {"labels": np.arange(N) % CLASSES, "reference_losses": np.linspace(0, 2, N)} | options
    return Selector(policy, store, 12, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gstds", "random", "infobatch", "stale-rho-loss", "rho-loss"])
def test_the_same_samples_are_kept_as_in_the_environment(name):
    policy = make_policy(name)
    env = DataSelectionEnv(
        dataset="digits",
        limit=160,
        learner="mlp",
        batch_size=32,
        epochs=2,
        reference="untrained",
        observe={k: dict(v) for k, v in policy.needs.items()},
        w_max=policy.max_weight,
        normalizer=policy.normalizer,
        reward="none",
    )
    seen, _ = env.reset(seed=3)
    policy.reset(policy_seed(3), RunContext(**env.context()))
    reference = env.task.reference
    selector = Selector(
        name,
        reference and reference.store,
        env.total_steps,
        seed=3,
        labels=env.data.train.labels,
        num_classes=env.data.num_classes,
        reference_losses=reference and reference.losses,
        rows=reference and reference.rows,
    )
    done = False
    while not done:
        batch = env.batch
        learner = {k: v[: len(batch)] for k, v in seen.items() if k.startswith("learner_")}
        wanted = policy.act(seen)
        kept, _ = selector.select(batch, **learner)
        np.testing.assert_array_equal(kept.numpy(), np.flatnonzero(wanted))
        following, reward, terminated, truncated, info = env.step(wanted)
        policy.learn(Transition(seen, wanted, reward, following, info))
        seen, done = following, terminated or truncated
        selector.observe_losses(batch[kept], info["losses"][kept])
    assert selector.step == env.total_steps


def run(selector, steps):
    kept = []
    for _ in range(steps):
        batch = np.random.default_rng([7, selector.step]).permutation(N)[:20]
        positions, weights = selector.select(batch)
        kept.append((positions.tolist(), weights.tolist()))
        losses = np.cos(batch[positions] + selector.step) + 1
        selector.observe_losses(batch[positions], losses)
    return kept


@pytest.mark.parametrize("name", ["infobatch", "stale-rho-loss", "stale-selective-backprop"])
def test_a_selector_goes_on_where_its_state_was_saved(name):
    whole, part = selector(policy=name), selector(policy=name)
    expected = run(whole, 9)
    run(part, 4)
    resumed = selector(policy=name)
    resumed.load_state_dict(part.state_dict())
    assert run(resumed, 5) == expected[4:]


def test_the_weights_hold_what_the_loss_is_divided_by():
    kept, weights = selector(policy="full").select(np.arange(20))
    assert torch.allclose(weights, torch.full((20,), 1 / 20))
    half = selector(schedule="constant", keep=0.5)
    assert half.select(np.arange(20))[1].sum().item() == pytest.approx(1)
    assert len(kept) == 20
    policy = make_policy("custom", score="stale-loss", picker="bernoulli", weighting="unbiased")
    assert policy.normalizer == "drawn"
    kept, weights = selector(policy=policy).select(np.arange(20))
    assert 0 < len(kept) < 20
    assert (weights * 20 >= 1).all()


@pytest.mark.told(
    "Loops of your own",
    "`Selector('gstds', None, …)`",
    "`Selector('stale-rho-loss', …)` without reference losses",
    "`Selector('random', None, 10)`",
    "`select([3, 60])` of 60 samples",
    "`select([0.5])`",
    "`select([1, 2])` under `big-loss`",
    "`select([1, 2], [1.0, 2.0, 3.0])`",
    "`observe_losses([1, 2], 0.5)`",
    "`select` under `stale-big-loss`, no losses told",
)
def test_missing_things_are_named_with_the_mend(store):
    with pytest.raises(ValueError, match="store: policy 'gstds' needs spectral_scores"):
        selector(policy="gstds")
    with pytest.raises(ValueError, match="reference_losses: policy 'stale-rho-loss'"):
        selector(policy="stale-rho-loss", reference_losses=None)
    with pytest.raises(ValueError, match="num_samples is not known; pass num_samples="):
        Selector("random", None, 10)
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 59\], got 3 to 60"):
        selector().select([3, 60])
    with pytest.raises(TypeError, match="whole numbers"):
        selector().select([0.5])
    with pytest.raises(ValueError, match=r"call selector\.select\(indices, learner_losses="):
        selector(policy="big-loss").select([1, 2])
    with pytest.raises(ValueError, match="must be one number for each of the 2 indices"):
        selector(policy="big-loss").select([1, 2], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="reduction='none'"):
        selector().observe_losses([1, 2], 0.5)
    stale = selector(policy="stale-big-loss")
    stale.select(np.arange(20))
    with pytest.raises(ValueError, match=r"last_losses.*call selector\.observe_losses"):
        stale.select(np.arange(20))


class Wrong(Policy):
    answer = None

    def act(self, observation):
        return self.answer


@pytest.mark.parametrize("answer", [np.ones(3), np.full(4, np.nan), -np.ones(4), np.full(4, 2.0)])
@pytest.mark.told("Policies and plug-ins", "`act` returns `{answer}` for 4 samples")
def test_a_policy_that_answers_nonsense_is_named(answer):
    policy = Wrong()
    policy.answer = answer
    with pytest.raises(ValueError, match=r"weights must .*\(policy 'Wrong', step 0\)"):
        selector(policy=policy).select(np.arange(4))


class Counting(torch.utils.data.Dataset):
    def __init__(self):
        self.loads = torch.zeros(N, dtype=torch.int64).share_memory_()

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.loads[index] += 1
        return torch.tensor([float(index)]), index % CLASSES


def load_all(store, workers):
    data = Counting()
    order = torch.utils.data.RandomSampler(data, generator=torch.Generator().manual_seed(0))
    batches = torch.utils.data.BatchSampler(order, 20, drop_last=False)
    chooser = selector(store, "gstds", schedule="constant", keep=0.25)
    sampler = SelectionSampler(chooser, batches)
    loader = torch.utils.data.DataLoader(
        IndexedDataset(data), batch_sampler=sampler, num_workers=workers
    )
    seen = [[part.tolist() for part in batch] for batch in loader]
    return seen, data.loads


def test_workers_never_load_what_is_dropped_and_change_nothing(store):
    alone, loads = load_all(store, 0)
    indices = [index for batch in alone for index in batch[2]]
    assert len(indices) == 15
    assert loads.sum() == 15
    assert sorted(indices) == loads.nonzero().flatten().tolist()
    assert all(batch[0] == [[float(i)] for i in batch[2]] for batch in alone)
    with_workers, more = load_all(store, 2)
    assert with_workers == alone
    assert torch.equal(more, loads)


@pytest.mark.told(
    "Loaders and frameworks",
    "`SelectionSampler` with `big-loss`",
    "`SelectionSampler` with `stale-big-loss`",
)
def test_what_is_not_known_ahead_is_refused():
    with pytest.raises(ValueError, match="needs learner_losses"):
        SelectionSampler(selector(policy="big-loss"), [[0, 1]])
    sampler = SelectionSampler(selector(policy="stale-big-loss"), [range(20), range(20)])
    with pytest.raises(ValueError, match="not known ahead of training"):
        list(sampler)


def _leave():
    """End a process without gloo's threads being torn down, which now and then aborts it."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)


def _rank(rank, address, out):
    torch.set_num_threads(1)
    chooser = selector(num_samples=N, schedule="constant", keep=0.3 + 0.4 * rank)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(0)  # the process is this test's own
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))
    shard = np.arange(rank, N, 2)[:10]
    kept, weights = chooser.select(shard)
    x = torch.arange(N * 3).reshape(N, 3).float().cos()
    losses = model(x[shard[kept]]).flatten() ** 2
    (weights * losses).sum().backward()
    chooser.observe_losses(shard[kept], losses)
    torch.save(
        {
            "kept": torch.as_tensor(shard[kept]),
            "weight": model.module.weight.data,
            "bias": model.module.bias.data,
            "gradient": model.module.weight.grad,
            "visited": chooser.state_dict()["memory"]["visits"],
        },
        f"{out}/{rank}.pt",
    )
    _leave()


@pytest.mark.slow
def test_two_processes_average_to_the_gradient_of_one(tmp_path):
    address = f"file://{tmp_path}/rendezvous"
    torch.multiprocessing.spawn(_rank, (address, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [len(part["kept"]) for part in parts] == [3, 7]
    for rank, part in enumerate(parts):
        shard = np.arange(rank, N, 2)[:10]
        alone = selector(schedule="constant", keep=0.3 + 0.4 * rank).select(shard)[0]
        assert part["kept"].tolist() == shard[alone].tolist()
    together = torch.cat([part["kept"] for part in parts])
    weight = parts[0]["weight"].clone().requires_grad_()
    x = torch.arange(N * 3).reshape(N, 3).float().cos()[together]
    ((x @ weight.T + parts[0]["bias"]) ** 2).mean().backward()
    for part in parts:
        assert torch.allclose(part["gradient"], weight.grad, atol=1e-6)
        assert part["visited"].nonzero().flatten().tolist() == sorted(together.tolist())


def _train(model, chooser, batches):
    """Train on each drawn batch; return what was kept of each."""
    x, kept = torch.arange(N * 3).reshape(N, 3).float().cos(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for batch in batches:
        positions, weights = chooser.select(batch)
        losses = (model(x[batch[positions]]).flatten() - 1.0) ** 2
        optimizer.zero_grad()
        (weights * losses).sum().backward()
        optimizer.step()
        chooser.observe_losses(batch[positions], losses)
        kept.append(batch[positions].tolist())
    return kept


def _global_batches():
    return [np.random.default_rng([5, step]).permutation(N)[:40] for step in range(9)]


def _network():
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, -0.2, 0.3]]))
        model.bias.zero_()
    return model


def _half(rank, address, out, policy):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_network())
    chooser = selector(policy=policy, num_samples=N)
    kept = _train(model, chooser, [batch[rank::2] for batch in _global_batches()])
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.save({"kept": kept, "weights": flat}, f"{out}/{rank}.pt")
    _leave()


class Harder(Policy):
    """Keeps what has a loss of at least the mean of all."""

    def act(self, observation):
        hard = observation["last_losses"] >= observation["mean_last_loss"]
        return (hard & (observation["valid"] > 0)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", Harder()], ids=["full", "harder"])
def test_two_processes_train_as_one_on_the_same_global_batches(tmp_path, policy):
    """Both decide sample by sample, so a shard's answer is the whole batch's answer."""
    arguments = (f"file://{tmp_path}/rendezvous", str(tmp_path), policy)
    torch.multiprocessing.spawn(_half, arguments, nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = _network()
    alone = _train(model, selector(policy=policy), _global_batches())
    for one, left, right in zip(alone, parts[0]["kept"], parts[1]["kept"], strict=True):
        assert sorted(one) == sorted(left + right)
    assert any(len(one) < 40 for one in alone) == (policy != "full")
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    for part in parts:
        assert torch.allclose(part["weights"], flat, atol=1e-6)
