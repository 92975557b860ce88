"""Selection inside a Lightning module: the three lines are marked. Needs the package lightning."""

from __future__ import annotations

import argparse
import logging
import warnings

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gstds import Selector, prepare_store
from gstds.common.files import cache_root
from gstds.reference.vision import import_torchvision

import_torchvision()  # beside a CPU torch it may need a hand, and lightning imports it
import lightning  # noqa: E402


class Digits(lightning.LightningModule):
    """A small network; `training_step` trains on what the selector keeps."""

    def __init__(self, selector: Selector) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.selector = selector

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """Return the loss that Lightning is to minimize."""
        indices, x, y = batch
        kept, weights = self.selector.select(indices)  # line 2
        losses = F.cross_entropy(self.network(x[kept]), y[kept], reduction="none")
        self.selector.observe_losses(indices[kept], losses)  # line 3, for policies with a memory
        return (weights * losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.network.parameters(), lr=0.01)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Let Lightning's checkpoints hold the selector's state."""
        checkpoint["selector"] = self.selector.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take it up again."""
        self.selector.load_state_dict(checkpoint["selector"])


def main() -> float:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="gstds")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    bunch = load_digits()
    images = torch.as_tensor(bunch.images * 15.9).to(torch.uint8)[:, None]
    labels = torch.as_tensor(bunch.target)
    folder = str(cache_root() / "examples" / "digits")
    store = prepare_store(folder, images[:600].numpy(), labels[:600].numpy())

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.arange(600), images[:600].float() / 255, labels[:600])
    loader = DataLoader(data, batch_size=64, shuffle=True, generator=generator)
    steps = arguments.epochs * len(loader)
    selector = Selector(arguments.policy, store, steps, labels=labels[:600])  # line 1
    module = Digits(selector)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)

    with torch.no_grad():
        right = module.network(images[600:].float() / 255).argmax(1) == labels[600:]
    accuracy = right.float().mean().item()
    print(f"{arguments.policy}: kept {selector.mean_keep:.2f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    main()
