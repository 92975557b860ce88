"""What a comparison will cost, and whether what it needs is there, said before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from gstds.envs.data.datasets import Data
from gstds.envs.learner.learner import Learner
from gstds.envs.task.options import EnvOptions
from gstds.envs.task.task import load_dataset, needs_reference
from gstds.observation.spec import asked_of
from gstds.policies.registry import follows_schedule, policy_class
from gstds.reference.networks import Reference, make_reference
from gstds.train.comparing.compare import plan
from gstds.train.comparing.comparison import Comparison
from gstds.train.figures.tables import format_flops
from gstds.train.launching.jobs import Jobs
from gstds.train.running.folder import finished_result
from gstds.train.running.options import RunConfig
from gstds.train.running.setup import make_run_policy, make_run_schedule

_GPU_SPEED = 8e13
_GPU = "a constant: what ResNet-18 got at 32 pixels on an H200; others are slower"
_PROBE_FLOPS, _LEAST = 2e10, 4
_LARGEST_SIDE = 224
References = dict[tuple[str, int], Reference]


def forecast(every: Sequence[Comparison]) -> list[str]:
    """Say what comparisons will cost, optional rows and runs that are done left out.

    Compute is counted by formula: training on what the schedules keep, forwards that score, the
    references; not spectral solves. A policy with a keep ratio of its own counts as one that keeps
    that, or all if it is not constant. The processor's speed is that of one update of the learner.

    Returns:
        A sentence for each comparison with something to do.

    Raises:
        FileNotFoundError: If data or references cannot be had: all that lacks, and how to bring it.
    """
    todo = {}
    for one in every:
        jobs = [job for job in plan(one) if job.label not in one.optional]
        todo[one.folder] = one, [job for job in jobs if not finished_result(job.folder)]
    references: References = {}
    missing: dict[str, None] = {}
    firsts = {(job.config.dataset, job.label): job for _, jobs in todo.values() for job in jobs}
    for job in firsts.values():
        options, side = _options(job.config), _LARGEST_SIDE
        try:
            side = max(load_dataset(options).image_shape[1:])
        except OSError as error:
            missing[str(error)] = None
        key = (options.reference, side)
        if needs_reference(options) and key not in references:
            try:
                references[key] = make_reference(options.reference, image_side=side)
            except (OSError, ImportError) as error:
                missing[str(error)] = None
    if missing:
        raise FileNotFoundError("; and ".join(missing))
    return [_sentence(one, jobs, references) for one, jobs in todo.values() if jobs]


def _options(config: RunConfig) -> EnvOptions:
    needs: Any = make_run_policy(config).needs
    return EnvOptions(**{**config.env_options(), "device": "cpu"}, observe=needs)


def _sentence(one: Comparison, jobs: Jobs, references: References) -> str:
    charged, reference, learner = 0.0, {}, None
    for job in {job.label: job for job in jobs}.values():
        options = _options(job.config)
        data = load_dataset(options)
        learner = learner or _learner(options, data)
        flops = _charged(job.config, options, learner, len(data.train))
        times = 1 + (one.controls and job.label == one.baseline)
        charged += flops * times * sum(other.label == job.label for other in jobs)
        if needs_reference(options):
            side = max(data.image_shape[1:])
            each = references[options.reference, side].flops_per_image
            reference[options.reference] = each * len(data.train)
    assert learner  # noqa: S101  (there are jobs)
    once = sum(reference.values())
    speed, images = _speed(learner, data, options.batch_size)
    hours, on_gpu = ((charged + once) / pace / 3600 for pace in (speed, _GPU_SPEED))
    beside = " and their short-full" if one.controls else ""
    return (
        f"{one.base.dataset}: {len(jobs)} runs{beside} will take about {format_flops(charged)} by "
        f"formula, spectral solves aside, and their references {format_flops(once)} once: "
        f"{hours:.2g} hours on this processor at {format_flops(speed)}/s (measured: an update of "
        f"{options.learner} on {images} images, {torch.get_num_threads()} threads), "
        f"{on_gpu:.2g} on a GPU at {format_flops(_GPU_SPEED)}/s ({_GPU})."
    )


def _learner(options: EnvOptions, data: Data) -> Learner:
    device = torch.device("cpu")
    return Learner(options, shape=data.image_shape, classes=data.num_classes, seed=0, device=device)


def _charged(config: RunConfig, options: EnvOptions, learner: Learner, samples: int) -> float:
    """Return what a run is charged, by formula."""
    full = config.epochs * samples * learner.train_flops
    if config.setting == "equal-budget":
        return full * config.budget
    own = getattr(make_run_policy(config), "keep", None)
    keep = own if isinstance(own, float) else 1.0
    if follows_schedule(policy_class(config.policy)):
        keep = make_run_schedule(config).mean_keep("steps")
    scores = bool(asked_of(options.observe, "learner"))
    return full * keep + scores * config.epochs * samples * learner.forward_flops


def _speed(learner: Learner, data: Data, batch: int) -> tuple[float, int]:
    """Return the operations a second of an update here, the second of two, and of how many."""
    count = min(batch, max(_LEAST, int(_PROBE_FLOPS / learner.train_flops)))
    images, weights = torch.zeros((count, *data.image_shape)), torch.ones(count)
    for step in range(2):
        start = time.perf_counter()
        learner.update(images, weights.long(), weights, float(count), step=step)
    return count * learner.train_flops / (time.perf_counter() - start), count
