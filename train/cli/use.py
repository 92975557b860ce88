"""What a trained network is used for: loaded, asked which classes images are of, exported."""

from __future__ import annotations

import argparse
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
    from torch import nn

FORMATS = ("pt2", "onnx", "torchscript", "safetensors", "registry")
_BATCH = 512


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
    return _network(str(run), tracking)[0]


def _network(run: str, uri: str | None) -> tuple[nn.Module, dict[str, Any]]:
    from gstds.envs.task.network import load_network
    from gstds.train.tracking.delivery import find_run

    return load_network(find_run("run", run, uri))


def do_predict(arguments: argparse.Namespace) -> int:
    """Say which class images are of."""
    from gstds.train.figures.tables import lay_out

    words.begin(arguments)  # the network may be a user's module:function
    model, note = _network(arguments.run, arguments.tracking_uri)
    rows = [row for path in arguments.inputs for row in predictions(model, note, path)]
    if arguments.json:
        write_json(arguments.json, {"version": 1, "model": note, "predictions": rows})
    columns = [("input", "input", "text"), ("class", "class", "text")]
    print_table(lay_out(rows, [*columns, ("probability", "probability", "{:.3f}")]))
    return words.Exit.DONE


def predictions(model: nn.Module, note: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    """Yield of each image its name, its most probable class, that one's number and probability.

    Args:
        model: The network that is asked.
        note: What its ``model.json`` says.
        path: An image file, a folder of them, or an ``.npz``; read as a data set's are.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If there are no images, or they have another size than the network's.
    """
    import numpy as np
    import torch

    from gstds.envs.data.readers import images_at

    channels, height, width = note["shape"]
    if not Path(path).exists():
        raise FileNotFoundError(f"input {path!r} is not there; give images, folders, or .npz files")
    called, source = images_at(path, (height, width), note["depth"])
    if source.shape[1:] != (height, width) or source.shape[0] < channels:
        wanted = f"the network takes (C, H, W) = {(channels, height, width)}: give it such"
        raise ValueError(f"{path} has images of shape {source.shape}, {wanted}")
    for rows in np.split(np.arange(len(called)), range(_BATCH, len(called), _BATCH)):
        images = source.gather(rows)
        if len(images[0]) > channels:  # gray that was stored in color is as it was
            images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
        with torch.inference_mode():
            shares, best = model(images).softmax(1).max(1)
        for row, index, share in zip(rows, best.tolist(), shares.tolist(), strict=True):
            found = {"input": called[row], "class": note["class_names"][index]}
            yield {**found, "index": index, "probability": share}


def do_export(arguments: argparse.Namespace) -> int:
    """Write a network for programs that know nothing of this one, or put it into the registry."""
    from gstds.train.tracking.uploader import register_network

    words.begin(arguments)
    run, uri, target = arguments.run, arguments.tracking_uri, arguments.file
    if arguments.to == "registry":
        out(f"registered: {register_network(run, target, uri)}")
    else:
        write_bytes(target, exported(*_network(run, uri), arguments.to))
        out(f"exported: {target}")
    return words.Exit.DONE


def exported(model: nn.Module, note: dict[str, Any], form: str) -> bytes:
    """Return the content of a file that holds a network; the number of images is free.

    Args:
        model: The network, which is exported with the scaling of its pixels; as ``safetensors`` its
            weights alone, and the note under ``gstds`` in the metadata.
        note: What its ``model.json`` says.
        form: One of `FORMATS` but the registry.

    Raises:
        ImportError: If what ONNX needs is not installed.
        ValueError: If a user's network cannot be taken down as a graph, or only for one number of
            images.
    """
    import torch
    from safetensors.torch import save

    from gstds.envs.task.network import example_images

    images, others, file = (example_images(note),), (example_images(note, 3),), io.BytesIO()
    free: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if form == "safetensors":
                tensors = {name: one.contiguous() for name, one in model.state_dict().items()}
                return save(tensors, {"gstds": json.dumps(note)})
            if form == "torchscript":
                trace: Any = torch.jit.trace
                torch.jit.save(trace(model, images, check_inputs=[others]), file)
            elif form == "pt2":
                torch.export.save(torch.export.export(model, images, **free), file)
            else:
                import onnxscript  # noqa: F401  (brings onnx)

                free |= {"input_names": ["images"], "output_names": ["logits"], "verbose": False}
                graph: Any = torch.onnx.export(model, images, dynamo=True, **free)
                file.write(graph.model_proto.SerializeToString())
    except ImportError as error:
        raise ImportError(f"--to {form} needs {error.name}: pip install 'gstds[export]'") from error
    except Exception as error:  # whatever a user's network meets where it is taken down
        told = " ".join(str(error).split())[:300]
        raise ValueError(f"{note['learner']!r} cannot be exported to {form}: {told}") from error
    return file.getvalue()
