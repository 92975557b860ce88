"""Selection before loading: workers read what is kept, and nothing else."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from gstds import IndexedDataset, SelectionSampler, Selector, prepare_store
from gstds.common.files import cache_root


class Digits(Dataset):
    """Stands for images that are costly to read: files, say."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index].float() / 255, self.labels[index]


def main() -> float:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="gstds")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    bunch = load_digits()
    images = torch.as_tensor(bunch.images * 15.9).to(torch.uint8)[:, None]
    labels = torch.as_tensor(bunch.target)
    folder = str(cache_root() / "examples" / "digits")
    store = prepare_store(folder, images[:600].numpy(), labels[:600].numpy())

    data = Digits(images[:600], labels[:600])
    order = RandomSampler(data, generator=torch.Generator().manual_seed(0))
    batches = BatchSampler(order, batch_size=64, drop_last=False)
    steps = arguments.epochs * len(batches)
    selector = Selector(arguments.policy, store, steps, labels=labels[:600])
    loader = DataLoader(
        IndexedDataset(data),
        batch_sampler=SelectionSampler(selector, batches),
        num_workers=arguments.workers,
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loaded = 0
    for _ in range(arguments.epochs):
        for x, y, _indices, weights in loader:
            losses = F.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            (weights * losses).sum().backward()
            optimizer.step()
            loaded += len(x)

    with torch.no_grad():
        right = model(images[600:].float() / 255).argmax(1) == labels[600:]
    accuracy = right.float().mean().item()
    drawn = arguments.epochs * len(data)
    print(f"{arguments.policy}: loaded {loaded} of {drawn} drawn, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
