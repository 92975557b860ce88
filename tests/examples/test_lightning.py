"""The Lightning example, and that Lightning's own checkpoints carry a selector."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_examples import accuracy_of

from gstds.policies import SelectionSampler, Selector
from gstds.reference.vision import import_torchvision

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCRIPT = Path(__file__).parents[2] / "examples" / "lightning_loop.py"
N, CLASSES, BATCH, EPOCHS = 80, 4, 16, 4


@pytest.fixture(scope="module")
def example():
    import_torchvision()
    pytest.importorskip("lightning")
    spec = importlib.util.spec_from_file_location("lightning_loop", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loader():
    x = torch.arange(N * 64).reshape(N, 1, 8, 8).float().cos()
    data = torch.utils.data.TensorDataset(torch.arange(N), x, torch.arange(N) % CLASSES)
    return torch.utils.data.DataLoader(data, batch_size=BATCH)


def module(example, policy="stale-big-loss"):
    steps = EPOCHS * N // BATCH
    selector = Selector(policy, None, steps, labels=np.arange(N) % CLASSES)
    made = example.Digits(selector)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter).add(i).sin() / 10)
    return made


def trainer(example, epochs, folder):
    return example.lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.parameters()])


def plain_loop(example):
    """The same training without Lightning."""
    one = module(example)
    optimizer = one.configure_optimizers()
    for _ in range(EPOCHS):
        for batch in loader():
            loss = one.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return one


@pytest.mark.parametrize("policy", ["gstds", "infobatch"])
def test_a_lightning_loop(example, policy):
    assert accuracy_of("lightning_loop.py", "--policy", policy)[0] > 0.7


def test_it_trains_as_the_plain_loop_and_goes_on_from_lightnings_checkpoint(example, tmp_path):
    whole = module(example)
    trainer(example, EPOCHS, tmp_path).fit(whole, loader())
    assert torch.equal(weights(whole), weights(plain_loop(example)))
    part, half = module(example), trainer(example, EPOCHS // 2, tmp_path)
    half.fit(part, loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(example)
    trainer(example, EPOCHS, tmp_path).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.selector.step == whole.selector.step == EPOCHS * N // BATCH
    assert torch.equal(weights(resumed), weights(whole))


# ---------------------------------------------------------------------------- before loading


BEFORE_LOADING = """
import sys, torch, warnings
from gstds.reference.vision import import_torchvision
import_torchvision()
import lightning
from torch.utils.data import (
    BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset)
from gstds import IndexedDataset, SelectionSampler, Selector

N, BATCH, EPOCHS = 80, 8, 3
PROCESSES, DEFAULT_SAMPLER, OUT = int(sys.argv[1]), sys.argv[2] != "off", sys.argv[3]
WHOLE, STATEFUL, EARLY = sys.argv[2] == "whole", sys.argv[2] == "stateful", len(sys.argv) > 4
if STATEFUL:
    from torchdata.stateful_dataloader import StatefulDataLoader as DataLoader
x = torch.arange(N * 64).reshape(N, 64).float().cos()
data = TensorDataset(x, torch.arange(N) % 4)

class Small(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(64, 4)
        torch.nn.init.constant_(self.network.weight, .01)
        torch.nn.init.zeros_(self.network.bias)
        self.seen, self.selector = [], Selector(
            "random", None, EPOCHS * N // BATCH // PROCESSES, labels=torch.arange(N) % 4)
        self.rank = 0

    def train_dataloader(self):
        shard = DistributedSampler(data, PROCESSES, self.rank, seed=1)
        drawn = RandomSampler(data, generator=torch.Generator().manual_seed(0))
        batches = BatchSampler(drawn if WHOLE else shard, BATCH, drop_last=False)
        return DataLoader(
            IndexedDataset(data), batch_sampler=SelectionSampler(self.selector, batches))

    def setup(self, stage):
        self.rank = self.trainer.global_rank

    def training_step(self, batch, at):
        x, y, indices, weights = batch
        self.seen.append((self.current_epoch, indices.tolist()))
        losses = torch.nn.functional.cross_entropy(self.network(x), y, reduction="none")
        return (weights * losses).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["selector"] = self.selector.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.selector.load_state_dict(checkpoint["selector"])

    def on_fit_end(self):
        whole = self.selector.step, self.seen, self.network.weight.detach().clone()
        torch.save(whole, f"{OUT}/{self.rank}.pt")

def trainer(epochs, steps=-1, **saving):
    options = dict(devices=PROCESSES, strategy="ddp_fork") if PROCESSES > 1 else {}
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=bool(saving),
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=OUT,
        max_steps=steps, **saving, use_distributed_sampler=DEFAULT_SAMPLER, **options)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if EARLY:
        if STATEFUL:  # saved while it trains: afterwards Lightning has let go of the loader
            saver = lightning.pytorch.callbacks.ModelCheckpoint(
                OUT, "half", every_n_train_steps=14)
            trainer(EPOCHS, 14, callbacks=[saver]).fit(Small())
        else:
            half = trainer(1)
            half.fit(Small())
            half.save_checkpoint(f"{OUT}/half.ckpt")
        trainer(EPOCHS).fit(Small(), ckpt_path=f"{OUT}/half.ckpt")
    else:
        trainer(EPOCHS).fit(Small())
"""


def fitted(folder, processes, default_sampler, *more):
    folder.mkdir()
    script = folder / "fit.py"
    script.write_text(BEFORE_LOADING)
    done = subprocess.run(
        [sys.executable, script, str(processes), default_sampler, folder, *more],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = [torch.load(path) for path in sorted(folder.glob("?.pt"))]
    return done.stderr if done.returncode else found


def test_lightning_draws_each_epoch_anew_before_loading_and_resumes(example, tmp_path):
    [(steps, seen, trained)] = fitted(tmp_path / "on", 1, "on")
    assert steps == 30
    order = torch.utils.data.DistributedSampler(range(N), 1, 0, seed=1)
    selector = Selector("random", None, 30, labels=np.arange(N) % CLASSES)
    drawn = torch.utils.data.BatchSampler(order, 8, drop_last=False)
    sampler = SelectionSampler(selector, drawn)
    by_hand = []
    for epoch in range(3):
        order.set_epoch(epoch)
        by_hand += [(epoch, [index for index, _ in batch]) for batch in sampler]
    assert seen == by_hand
    [off] = fitted(tmp_path / "off", 1, "off")
    assert torch.equal(off[2], trained)
    [resumed] = fitted(tmp_path / "resumed", 1, "on", "resume")
    assert resumed[0] == 30
    assert resumed[1] == seen[10:]
    assert torch.equal(resumed[2], trained)


def test_two_lightning_processes_select_from_their_shards(example, tmp_path):
    first, second = fitted(tmp_path / "off", 2, "off")
    assert first[0] == second[0] == 15
    assert torch.equal(first[2], second[2])
    for epoch in range(3):
        ours, theirs = (
            {i for e, drawn in seen if e == epoch for i in drawn} for seen in (first[1], second[1])
        )
        assert not ours & theirs
    on = fitted(tmp_path / "on", 2, "on")  # a sampler of one's own stays
    assert [(steps, seen) for steps, seen, _ in on] == [first[:2], second[:2]]
    assert torch.equal(on[0][2], first[2])


def test_lightnings_own_distributed_sampler_draws_each_processs_shard(example, tmp_path):
    first, second = fitted(tmp_path / "whole", 2, "whole")
    assert first[0] == second[0] == 15
    assert torch.equal(first[2], second[2])
    for rank, (_, seen, _) in enumerate((first, second)):
        order = torch.utils.data.DistributedSampler(range(N), 2, rank, seed=0)
        for epoch in range(3):
            order.set_epoch(epoch)
            drawn = list(torch.utils.data.BatchSampler(order, 8, drop_last=False))
            kept = [indices for e, indices in seen if e == epoch]
            assert len(kept) == len(drawn)
            assert all(set(k) <= set(d) for k, d in zip(kept, drawn, strict=True))


def test_lightning_resumes_in_mid_epoch_by_torchdatas_loader(example, tmp_path):
    pytest.importorskip("torchdata")
    [whole] = fitted(tmp_path / "whole", 1, "stateful")
    [resumed] = fitted(tmp_path / "resumed", 1, "stateful", "resume")
    assert resumed[0] == whole[0] == 30
    assert resumed[1] == whole[1][14:]
    assert torch.equal(resumed[2], whole[2])
