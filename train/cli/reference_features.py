"""``gstds features``: make, check or remake the reference's view of a data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from gstds.common.files import cache_root
from gstds.envs.task.features import make_extractor, reference_store_path
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import load_task, probe_fingerprint
from gstds.train.running.options import RunConfig

__all__ = ["prepare_features"]


def prepare_features(
    config: RunConfig,
    *,
    verify: bool = False,
    rebuild: bool = False,
    ray: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """Build the feature store and the reference losses, unless they are cached.

    Args:
        config: Names the data and the reference.
        verify: Check every byte of the store.
        rebuild: Delete the store first.
        ray: Address of a Ray cluster that computes the features, see
            `gstds.train.launching.ray_runs`; None for this process.
        progress: Called with a phase, what is done, and the total.

    Returns:
        What to tell the user, line by line.

    Raises:
        ImportError: If Ray is wanted and not installed.
        ValueError: If data or reference are unknown, or the store is damaged.
        OSError: If a file cannot be read or written.
    """
    options = EnvOptions(**config.env_options(), observe=("reference_losses",))
    if rebuild:
        _forget(config)
    if ray is not None:
        from gstds.train.launching.ray_features import build_on_ray

        build_on_ray(config, ray, progress)
    reference = load_task(options, progress).reference
    assert reference is not None  # noqa: S101  (the observation above asks for it)
    if verify:
        reference.store.verify()
    store = reference.store
    return [
        f"store: {store.path} ({store.rows} rows of {store.dim})" + (" verified" * verify),
        f"probe: {100 * reference.accuracy:.2f}% on samples it was not fitted to, "
        f"mean loss {float(reference.losses.mean()):.4f} nats",
        f"cost: {reference.features_flops:.3g} FLOP features, {reference.probe_flops:.3g} probe",
    ]


def _forget(config: RunConfig) -> None:
    """Delete the features and what the probe made of them."""
    data = load_task(EnvOptions(**config.env_options(), observe=())).data
    reference = make_extractor(data, config.reference, config.compress)
    shutil.rmtree(reference_store_path(data, reference)[0], ignore_errors=True)
    name = f"{probe_fingerprint(data, reference)}.safetensors"
    for kind in ("losses", "logits"):
        (cache_root() / kind / name).unlink(missing_ok=True)
