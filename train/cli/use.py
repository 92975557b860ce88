"""What a trained network is used for: loaded, and asked which classes images are of."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import write_json
from gstds.train.terminal import options as words
from gstds.train.terminal.console import print_table
from gstds.train.tracking.delivery import find_run

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gstds.envs.task.network import Network

_BATCH = 512
_GRAY = (19595, 38470, 7471)  # of 65536: what red, green and blue weigh in Pillow's gray


def load_learner(run: str | Path, *, tracking: str | None = None) -> nn.Module:
    """Return the network that a run has trained, in evaluation mode, on the processor.

    It takes images (n, C, H, W): in uint8 as they are, 0 to 255, or in floats normalized as in
    training; and returns logits (n, classes). Its state is the one that was trained, under the same
    names. A user's own is imported by its ``module:function``: load only runs that you trust.

    Args:
        run: The run's folder, or its id, gstds' own or MLflow's.
        tracking: URI of the MLflow store that knows the id; default as for `gstds run`.

    Raises:
        FileNotFoundError: If the run has left no network: it has not ended, or is of release 0.1.
        ValueError: If there is no such run, or its network is damaged, diverged, or a user's that
            cannot be built any more.
    """
    return _network(str(run), tracking).model


def _network(run: str, uri: str | None) -> Network:
    from gstds.envs.task.network import load_network

    return load_network(find_run("run", run, uri))


def do_predict(arguments: argparse.Namespace) -> int:
    """Say which class images are of."""
    from gstds.train.figures.tables import lay_out

    words.begin(arguments)  # the network may be a user's module:function
    network = _network(arguments.run, arguments.tracking_uri)
    rows = [row for path in arguments.inputs for row in predictions(network, path)]
    if arguments.json:
        known = {name: network.note[name] for name in ("run_id", "class_names")}
        write_json(arguments.json, {"version": 1, **known, "predictions": rows})
    columns = [("input", "input", "text"), ("class", "class", "text")]
    print_table(lay_out(rows, [*columns, ("probability", "probability", "{:.3f}")]))
    return words.Exit.DONE


def predictions(network: Network, path: str) -> Iterator[dict[str, Any]]:
    """Yield of each image its name, its most probable class, that one's number and probability.

    Args:
        network: Who is asked.
        path: An image file, a folder of them, or an ``.npz``; read as a data set's are.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If there are no images, or they have another size than the network's.
    """
    import numpy as np
    import torch

    from gstds.envs.data.readers import images_at
    from gstds.envs.learner.learner import resolve_device

    note, device = network.note, resolve_device("auto")
    channels, *size = note["shape"]
    torch.backends.cudnn.allow_tf32 = False  # as in the evaluation
    model = network.model.to(device)
    for called, source in images_at(path, (size[0], size[1]), note["depth"]):
        if list(source.shape[1:]) != size or source.shape[0] < channels:
            raise ValueError(
                f"{path} has images of shape (C, H, W) = {source.shape}, the network takes "
                f"{(channels, *size)}: give it such"
            )
        for rows in np.split(np.arange(len(called)), range(_BATCH, len(called), _BATCH)):
            images = source.gather(rows)
            images = _gray(images) if images.shape[1] > channels else images
            with torch.inference_mode():
                best = model(images.to(device)).softmax(1).max(1)
            for row, index, share in zip(rows, *map(torch.Tensor.tolist, best[::-1]), strict=True):
                name = note["class_names"][index]
                found = {"input": called[row], "class": name, "index": index}
                yield {**found, "probability": share}


def _gray(images: torch.Tensor) -> torch.Tensor:
    """Return colored images in gray (n, 1, H, W); gray that was stored in color is as it was."""
    parts = [weight * images[:, [at]].int() for at, weight in enumerate(_GRAY)]
    return ((sum(parts) + 2**15) >> 16).to(images.dtype)
