"""Features of some rows of a store, as a task of a Ray cluster computes them on its node."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from gstds.envs.learner.learner import resolve_device
from gstds.envs.task.features import Extractor, chunk_features, reference_store_path
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import load_dataset
from gstds.reference.networks import Reference, make_reference
from gstds.store.compression import parse_compression
from gstds.train.running.options import config_from

__all__ = ["features_of"]


def features_of(plain: Mapping[str, Any], start: int, stop: int, basis: Any) -> tuple[str, Any]:
    """Return the name of a configuration's store and the features (stop - start, D) of its rows."""
    config = config_from(plain)
    data = load_dataset(EnvOptions(**config.env_options(), observe=()))
    extractor = Extractor(
        _loaded_reference(config.reference, max(data.image_shape[1:]), config.device),
        parse_compression(config.compress),
    )
    store = reference_store_path(data, extractor)[0].name
    return store, chunk_features(data, extractor, basis)(start, stop)


@functools.lru_cache(maxsize=1)
def _loaded_reference(name: str, side: int, device: str) -> Reference:
    return make_reference(name, image_side=side, device=resolve_device(device))
