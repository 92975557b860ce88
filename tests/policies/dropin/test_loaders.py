"""Selection before loading under the loaders of others: each batch is selected once, in its place.

A run of three epochs of six batches is stopped and taken up by each library's own means; what comes
after is what came in the run that was never stopped, and the selector has counted 18 batches.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_selector import CLASSES, Counting, N
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from gstds.policies import IndexedDataset, SelectionSampler, Selector

BATCH, PER_EPOCH, EPOCHS = 10, 6, 3


def seeded(data):
    return RandomSampler(data, generator=torch.Generator().manual_seed(3))


def by_epoch(data):
    return DistributedSampler(data, 1, 0, seed=3)


ORDERS = [seeded, by_epoch]


def made(order=seeded, **options):
    labels = np.arange(N) % CLASSES
    selector = Selector("random", None, PER_EPOCH * EPOCHS, labels=labels, **options)
    batches = BatchSampler(order(range(N)), BATCH, drop_last=False)
    return SelectionSampler(selector, batches)


def loader_of(sampler, kind=DataLoader, **options):
    return kind(IndexedDataset(Counting()), batch_sampler=sampler, **options)


def told(batch):
    return batch[-2].tolist()


def whole_run(order=seeded):
    """The indices that are kept, by epoch and batch, drawn by hand."""
    sampler, epochs = made(order), []
    for epoch in range(EPOCHS):
        if order is by_epoch:
            sampler.sampler.set_epoch(epoch)
        epochs.append([[index for index, _ in batch] for batch in sampler])
    assert sampler.selector.step == PER_EPOCH * EPOCHS
    return epochs


def taken(loader, sampler, since=0):
    """The epochs since one, and whether each batch was counted once."""
    epochs = []
    for epoch in range(since, EPOCHS):
        sampler.set_epoch(epoch)
        epochs.append([told(batch) for batch in loader])
    assert sampler.selector.step == PER_EPOCH * EPOCHS
    return epochs


def stopped(loader, sampler, after, save):
    """Train on a number of batches, and save."""
    done = 0
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for _ in loader:
            done += 1
            if done == after:
                return save()
        if done == after - 0.5:
            return save()
    raise AssertionError("stopped too late")


@pytest.mark.told(
    "Loaders and frameworks",
    "`sampler`, `set_epoch`, `batch_size`, `drop_last` of a `SelectionSampler`",
    works="those of its batches",
)
def test_what_frameworks_look_for_is_that_of_the_batches():
    sampler = made(by_epoch)
    assert sampler.sampler is sampler.batches.sampler
    assert (sampler.batch_size, sampler.drop_last, len(sampler)) == (BATCH, False, PER_EPOCH)
    sampler.set_epoch(2)
    assert sampler.sampler.epoch == 2
    sampler.sampler = SequentialSampler(range(N))
    sampler.set_epoch(3)  # nobody wants to know
    assert isinstance(sampler.batches.sampler, SequentialSampler)
    listed = SelectionSampler(sampler.selector, [range(20), range(20, 40)])
    assert not hasattr(listed, "sampler")
    listed.set_epoch(1)


@pytest.mark.told(
    "Loaders and frameworks",
    "`start_at(7)` in epochs of 6 batches",
    "`start_at(2)` where there is 1 batch",
)
def test_a_position_beyond_the_epoch_is_refused():
    sampler = made()
    with pytest.raises(ValueError, match=r"batch must be in \[0, 6\].* got 7; .*pass batch % 6"):
        sampler.start_at(7)

    class Unknown:
        def __iter__(self):
            yield range(20)

    sampler = SelectionSampler(made().selector, Unknown())
    sampler.start_at(2)
    with pytest.raises(ValueError, match=r"batch must be in \[0, 1\].* got 2"):
        list(sampler)


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("order", ORDERS)
def test_a_plain_loader_draws_the_same_with_persistent_workers(order, options):
    sampler = made(order)
    assert taken(loader_of(sampler, **options), sampler) == whole_run(order)


@pytest.mark.told(
    "Loaders and frameworks",
    "a selector's state saved in mid-epoch, and `start_at(4)`",
    works="each batch is drawn and counted once",
)
def test_the_selectors_state_in_mid_epoch_is_of_the_epochs_beginning():
    sampler = made(by_epoch)
    loader = loader_of(sampler)
    state = stopped(loader, sampler, PER_EPOCH + 4, sampler.selector.state_dict)
    assert state["step"] == PER_EPOCH
    resumed = made(by_epoch)
    resumed.selector.load_state_dict(state)
    resumed.start_at(4)
    whole = whole_run(by_epoch)
    assert taken(loader_of(resumed), resumed, 1) == [whole[1][4:], whole[2]]
    assert sampler.selector.held["step"] == PER_EPOCH
    state["memory"].clear()
    assert sampler.selector.state_dict()["memory"]


@pytest.mark.parametrize("after", [4, PER_EPOCH + 1, PER_EPOCH + 5])
@pytest.mark.parametrize("order", ORDERS)
def test_the_samplers_own_state_is_the_position_and_the_order(order, after):
    sampler = made(order)
    state = stopped(loader_of(sampler), sampler, after, sampler.state_dict)
    resumed = made(order)
    resumed.selector.load_state_dict(sampler.selector.state_dict())  # beside it: not twice
    resumed.load_state_dict(state)
    epoch, at = divmod(after, PER_EPOCH)
    whole = whole_run(order)
    assert taken(loader_of(resumed), resumed, epoch) == [whole[epoch][at:], *whole[epoch + 1 :]]


def test_a_position_that_was_taken_up_is_saved_before_it_goes_on():
    sampler = made(by_epoch)
    state = stopped(loader_of(sampler), sampler, PER_EPOCH + 2, sampler.state_dict)
    resumed = made(by_epoch)
    resumed.load_state_dict(state)
    again = resumed.state_dict()
    assert again["drawn"] == state["drawn"] == 2
    assert again["order"] == state["order"] == {"epoch": 1, "generator": None}
    assert again["selector"]["step"] == PER_EPOCH


def test_the_state_is_copied_once_an_epoch():
    """Loaders with workers ask at every batch, and it is as large as the data are many."""
    sampler = made()
    states = [sampler.state_dict() for _ in sampler]
    assert len({id(state["selector"]) for state in states}) == 1
    assert [state["drawn"] for state in states] == [1, 2, 3, 4, 5, 6]


@pytest.mark.told(
    "Loaders and frameworks",
    "`state_dict()` over a RandomSampler without generator",
    None,
    "`load_state_dict` of what is no state",
)
def test_an_order_that_cannot_be_drawn_again_is_not_saved():
    sampler = made(RandomSampler)
    with pytest.raises(ValueError, match=r"RandomSampler without a generator .*manual_seed\(0\)"):
        sampler.state_dict()
    state = made(seeded).state_dict()
    before = sampler.selector.state_dict()
    with pytest.raises(ValueError, match="RandomSampler without a generator"):
        sampler.load_state_dict(state)
    with pytest.raises(ValueError, match="drawn"):
        sampler.load_state_dict({"selector": before, "order": {}})
    assert sampler.selector.state_dict()["step"] == before["step"]


# ---------------------------------------------------------------------------- torchdata


WORKERS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]


@pytest.mark.slow
@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("after", [4, PER_EPOCH - 1, PER_EPOCH, PER_EPOCH + 0.5, PER_EPOCH + 3])
def test_torchdatas_loader_goes_on_where_it_stopped(order, options, after):
    kind = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    sampler = made(order)
    loader = loader_of(sampler, kind, **options)
    state, beside = stopped(
        loader, sampler, after, lambda: (loader.state_dict(), sampler.selector.state_dict())
    )
    resumed = made(order)
    fresh = loader_of(resumed, kind, **options)
    fresh.load_state_dict(state)
    resumed.selector.load_state_dict(beside)
    whole = whole_run(order)
    epoch, at = divmod(int(after), PER_EPOCH)
    if after == PER_EPOCH:  # after the last batch, before the loader has said that it was the last
        epoch, at = 0, PER_EPOCH
    assert taken(fresh, resumed, epoch) == [whole[epoch][at:], *whole[epoch + 1 :]]


# ---------------------------------------------------------------------------- accelerate


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 2, PER_EPOCH + 1, PER_EPOCH])
def test_accelerate_skips_the_first_batches_once(after, workers):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    sampler = made(by_epoch)
    loader = accelerator.prepare(loader_of(sampler, num_workers=workers))
    state = stopped(loader, sampler, after, sampler.selector.state_dict)
    resumed = made(by_epoch)
    fresh = accelerator.prepare(loader_of(resumed, num_workers=workers))
    resumed.selector.load_state_dict(state)
    epoch, at = divmod(after, PER_EPOCH)
    fresh.set_epoch(epoch)
    fresh.iteration = epoch
    first = accelerate.skip_first_batches(fresh, at)
    assert not fresh.batch_sampler.sampler.epoch - epoch
    whole = whole_run(by_epoch)
    assert [told(batch) for batch in first] == whole[epoch][at:]
    fresh.iteration = epoch + 1
    assert taken(fresh, resumed, epoch + 1) == whole[epoch + 1 :]


@pytest.mark.slow
def test_accelerate_puts_its_own_seeded_sampler_in_and_its_loader_saves():
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("torchdata")
    config = accelerate.DataLoaderConfiguration(
        use_seedable_sampler=True, use_stateful_dataloader=True, data_seed=3
    )
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)

    def prepared():
        sampler = made(seeded)
        return sampler, accelerator.prepare(loader_of(sampler))

    sampler, loader = prepared()
    assert type(sampler.batches.sampler).__name__ == "SeedableRandomSampler"
    whole = [[told(batch) for batch in loader] for _ in range(EPOCHS)]
    assert sampler.selector.step == PER_EPOCH * EPOCHS
    assert whole[0] != whole[1]
    sampler, loader = prepared()
    for at, _ in enumerate(loader, 1):
        if at == 4:
            state = loader.state_dict()
            break
    resumed, fresh = prepared()
    fresh.load_state_dict(state)
    rest = [[told(batch) for batch in fresh] for _ in range(EPOCHS)]
    assert rest == [whole[0][4:], *whole[1:]]
    assert resumed.selector.step == PER_EPOCH * EPOCHS


@pytest.mark.slow
def test_accelerate_deals_the_batches_out_to_its_processes_and_loses_none(monkeypatch):
    shard = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    whole = whole_run()[0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *group: 2)
    dealt = []
    for rank in range(2):
        sampler = made(distributed=False)
        dealt.append([[index for index, _ in batch] for batch in shard(sampler, 2, rank)])
    assert dealt == [whole[0::2], whole[1::2]]


# ---------------------------------------------------------------------------- Lightning


def rebuilt(sampler, injected):
    """Return what Lightning makes of a batch sampler: anew, with a sampler of its own."""
    made_with = getattr(sampler, "__pl_saved_kwargs")
    assert "sampler" in made_with
    return type(sampler)(*getattr(sampler, "__pl_saved_args"), **made_with | {"sampler": injected})


@pytest.mark.parametrize("order", [seeded, SequentialSampler])
def test_lightnings_own_distributed_sampler_draws_the_batches(order):
    sampler = made(order)
    parts = [rebuilt(sampler, DistributedSampler(range(N), 2, rank, seed=3)) for rank in (0, 1)]
    drawn = []
    for rank, part in enumerate(parts):
        part.set_epoch(4)
        own = DistributedSampler(range(N), 2, rank, seed=3)
        own.set_epoch(4)
        assert [list(batch) for batch in part.batches] == list(BatchSampler(own, BATCH, False))
        drawn += [index for batch in part.batches for index in batch]
        assert part.selector is sampler.selector
        assert len(list(part)) == PER_EPOCH / 2
    assert sorted(drawn) == list(range(N))
    assert isinstance(sampler.sampler, RandomSampler | SequentialSampler)


def test_a_distributed_sampler_of_ones_own_stays():
    sampler = made(lambda samples: DistributedSampler(samples, 2, 1, seed=3))
    again = rebuilt(sampler, DistributedSampler(range(N), 2, 1, seed=0))
    assert again.batches is sampler.batches


@pytest.mark.parametrize(
    ("order", "injected"),
    [
        (lambda samples: SubsetRandomSampler(range(30)), DistributedSampler(range(N), 2, 0)),
        (lambda samples: RandomSampler(samples, True), DistributedSampler(range(N), 2, 0)),
        (lambda samples: DistributedSampler(samples, 1, 0), DistributedSampler(range(N), 2, 0)),
        (seeded, SequentialSampler(range(N))),  # to predict, of what is kept alone
    ],
)
def test_a_sampler_that_would_draw_other_samples_is_refused(order, injected):
    with pytest.raises(ValueError, match=r"does not draw what .*use_distributed_sampler=False"):
        rebuilt(made(order), injected)


def test_batches_that_are_drawn_in_another_order_when_resumed_are_refused():
    """As by a sampler that reads the global generator: nothing else would tell."""
    sampler = made(by_epoch)
    state = stopped(loader_of(sampler), sampler, 4, sampler.state_dict)
    other = made(lambda samples: DistributedSampler(samples, 1, 0, seed=4))
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"the 4 batches drawn again are not those that were"):
        list(other)


# ---------------------------------------------------------------------------- ids


def test_samplers_draw_positions_and_ids_that_are_no_numbers():
    names = [f"image-{at}" for at in range(N)]
    positions = [list(range(20)), list(range(20, 60))]
    of_names = [[names[at] for at in batch] for batch in positions]
    plain = list(SelectionSampler(Selector("random", None, 9, num_samples=N), positions))
    for ids in (names, list(range(1, N + 1))):
        named = SelectionSampler(Selector("random", None, 9, ids=ids), positions)
        assert list(named) == plain
    found = list(SelectionSampler(Selector("random", None, 9, ids=names), of_names))
    assert found == [[(names[at], weight) for at, weight in batch] for batch in plain]
    keyed = IndexedDataset({name: float(at) for at, name in enumerate(names)})
    loader = DataLoader(
        keyed, batch_sampler=SelectionSampler(Selector("random", None, 9, ids=names), of_names)
    )
    assert [list(name) for _, name, _ in loader] == [[name for name, _ in batch] for batch in found]
