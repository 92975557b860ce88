"""What a trained network is used for: loaded, asked which classes images are of, exported."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gstds.common.files import write_bytes, write_json
from gstds.train.terminal import options as words
from gstds.train.terminal.console import out, print_table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gstds.envs.task.network import Network

FORMATS = ("pt2", "onnx", "torchscript", "safetensors")
_ONNX = ("onnx", "onnxscript")
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
    from gstds.train.tracking.delivery import find_run

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


def do_export(arguments: argparse.Namespace) -> int:
    """Write a network for programs that know nothing of this one."""
    words.begin(arguments)
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    if arguments.to == "onnx" and missing:
        raise ImportError(
            f"--to onnx needs {' and '.join(missing)}: "
            "pip install 'gstds[export]', or choose another format"
        )
    network = _network(arguments.run, arguments.tracking_uri)
    write_bytes(arguments.file, exported(network, arguments.to))
    out(f"exported: {arguments.file}")
    return words.Exit.DONE


def exported(network: Network, form: str) -> bytes:
    """Return the content of a file that holds a network; the number of images is free.

    Args:
        network: The network, which is exported with the scaling of its pixels; as ``safetensors``
            its weights alone, and its note under ``gstds`` in the metadata.
        form: One of `FORMATS`.

    Raises:
        ValueError: If a user's network cannot be taken down as a graph, or only for one number of
            images.
    """
    import torch
    from safetensors.torch import save

    model, images, file = network.model, network.example(), io.BytesIO()
    if form == "safetensors":
        tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
        return save(tensors, {"gstds": json.dumps(network.note)})
    free: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if form == "torchscript":
                other = [(network.example(3),)]
                torch.jit.save(torch.jit.trace(model, images, check_inputs=other), file)
            elif form == "pt2":
                torch.export.save(torch.export.export(model, (images,), **free), file)
            else:
                free |= {"input_names": ["images"], "output_names": ["logits"], "verbose": False}
                graph: Any = torch.onnx.export(model, (images,), dynamo=True, **free)
                return bytes(graph.model_proto.SerializeToString())
    except Exception as error:  # whatever a user's network meets where it is taken down
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"learner {network.note['learner']!r} cannot be exported to {form}: {told}"
        ) from error
    return file.getvalue()
