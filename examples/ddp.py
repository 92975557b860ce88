"""Selection in two processes that train one network: each selects from its own shard.

The weights hold what the loss is divided by, over both processes: the averaged gradient is the one
that a single process would compute from all that was kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gstds import Selector, prepare_store
from gstds.common.files import cache_root


def train(rank: int, address: str, folder: str, policy: str, epochs: int) -> None:
    """Train in one of two processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the process is this example's own
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    bunch = load_digits()
    images = torch.as_tensor(bunch.images / 16).float()[:, None]
    labels = torch.as_tensor(bunch.target)
    data = TensorDataset(torch.arange(600), images[:600], labels[:600])
    shard = DistributedSampler(data, 2, rank, seed=0)
    loader = DataLoader(data, batch_size=32, sampler=shard)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    selector = Selector(policy, folder, epochs * len(loader), labels=labels[:600])
    for epoch in range(epochs):
        shard.set_epoch(epoch)
        for indices, x, y in loader:
            kept, weights = selector.select(indices)
            losses = F.cross_entropy(model(x[kept]), y[kept], reduction="none")
            optimizer.zero_grad()
            (weights * losses).sum().backward()
            optimizer.step()
            selector.observe_losses(indices[kept], losses)
    if rank == 0:
        with torch.no_grad():
            right = network(images[600:]).argmax(1) == labels[600:]
        accuracy = right.float().mean().item()
        print(f"{policy}: kept {selector.mean_keep:.2f}, accuracy {accuracy:.3f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    # DistributedDataParallel (torch 2.14) never lets go of the group: its threads outlive it, and
    # a process that ends while they run is now and then aborted. All is said and done: leave them.
    os._exit(0)


def main() -> None:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="gstds")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    bunch = load_digits()
    pixels = (bunch.images * 15.9).astype("uint8")[:, None]
    folder = str(cache_root() / "examples" / "digits")
    prepare_store(folder, pixels[:600], bunch.target[:600])
    with tempfile.TemporaryDirectory() as meeting:
        rest = (f"file://{meeting}/group", folder, arguments.policy, arguments.epochs)
        torch.multiprocessing.spawn(train, rest, nprocs=2)


if __name__ == "__main__":
    main()
