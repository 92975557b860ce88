"""Selection in a training loop of one's own: the three lines are marked."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gstds import Selector, prepare_store
from gstds.common.files import cache_root


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images uint8 (1797, 1, 8, 8) and labels (1797,) of scikit-learn's digits."""
    bunch = load_digits()
    images = torch.as_tensor(bunch.images * 15.9).to(torch.uint8)[:, None]
    return images, torch.as_tensor(bunch.target)


def main() -> float:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="gstds")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    images, labels = digits()
    train, test = slice(0, 600), slice(600, None)
    folder = str(cache_root() / "examples" / "digits")
    store = prepare_store(folder, images[train].numpy(), labels[train].numpy())

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.arange(600), images[train].float() / 255, labels[train])
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    steps = arguments.epochs * len(loader)
    selector = Selector(arguments.policy, store, steps, labels=labels[train])  # line 1
    for _ in range(arguments.epochs):
        for indices, x, y in loader:
            kept, weights = selector.select(indices)  # line 2
            losses = F.cross_entropy(model(x[kept]), y[kept], reduction="none")
            optimizer.zero_grad()
            (weights * losses).sum().backward()
            optimizer.step()
            selector.observe_losses(indices[kept], losses)  # line 3, for policies with a memory

    model.eval()
    with torch.no_grad():
        right = model(images[test].float() / 255).argmax(1) == labels[test]
    accuracy = right.float().mean().item()
    print(f"{arguments.policy}: kept {selector.mean_keep:.2f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
