"""From a configuration to an environment, the policy that acts in it, and torch's settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from gstds import policies
from gstds.common.checks import check_number, users_code
from gstds.policies.around import Sharded
from gstds.policies.registry import follows_schedule, policy_class
from gstds.policies.rehearsal import rehearse
from gstds.selection.schedules import Schedule, make_schedule
from gstds.train.running.options import RunConfig

if TYPE_CHECKING:
    from gstds.common.process_group import Group


Progress = Callable[[str, int, int], None]


def make_run_schedule(config: RunConfig) -> Schedule:
    """Return the configuration's schedule.

    Raises:
        ValueError: If it is unknown, or the wanted mean keep is out of its reach.
    """
    unit = "budget" if config.setting == "equal-budget" else "steps"
    parameters = dict(config.schedule_params)
    return make_schedule(config.schedule, keep=config.keep, unit=unit, **parameters)  # type: ignore[arg-type]


def with_paper_defaults(config: RunConfig) -> RunConfig:
    """Return the configuration with the schedule and parameters of the policy's own paper.

    What ``policy_params`` names stays as it is. A policy whose paper has no schedule keeps the
    configuration's.

    Raises:
        ValueError: If the policy is unknown.
        TypeError: If what the name stands for is no policy.
    """
    kind = policy_class(config.policy)
    changes: dict[str, Any] = {}
    if kind.paper_schedule is not None:
        name, parameters = kind.paper_schedule
        rest = dict(parameters)
        changes = {"schedule": name, "keep": rest.pop("keep", None), "schedule_params": rest}
    own = {**kind.paper_parameters, **config.policy_params}
    return config.with_options(policy_params=own, **changes)


def make_run_policy(config: RunConfig) -> policies.Policy:
    """Return the configuration's policy, on its schedule where its keep ratio is free.

    Raises:
        ValueError: If the policy, the schedule or a parameter is unknown or out of range.
        TypeError: If what the name stands for is no policy.
    """
    schedule, kind = make_run_schedule(config), policy_class(config.policy)
    parameters: dict[str, Any] = dict(config.policy_params)
    free = not follows_schedule(kind) or not kind.__module__.startswith("gstds.policies.")
    for name in ("picker", "score", "weighting"):
        option, parameter = getattr(config, name), parameters.get(name)
        if option is None:
            continue
        if parameter not in (None, option):
            raise ValueError(
                f"{name}: --{name} says {option!r} and --policy-params {name}={parameter!r}; "
                "leave one out"
            )
        if name != "picker" or free or config.policy == "custom":
            parameters[name] = option
    make = partial(policies.make_policy, config.policy, schedule=schedule, **parameters)
    policy = make()
    own = getattr(getattr(policy, "picker", None), "name", None)
    # --picker uniform passes for random, which is that: both then fit one comparison.
    if config.picker not in (None, own, parameters.get("picker")):
        raise ValueError(
            f"picker: policy {config.policy!r} has its own way of picking, not {config.picker!r}"
        )
    if not kind.__module__.startswith("gstds."):
        rehearse(config.policy, make(), config.batch_size // config.shards)
    others = [make() for _ in range(1, config.shards)]
    return Sharded([policy, *others]) if others else policy


def make_env(
    config: RunConfig,
    policy: policies.Policy,
    progress: Progress | None = None,
    group: Group | None = None,
    before_reference: Callable[[Any], None] | None = None,
) -> Any:
    """Return the environment that computes and charges what the policy needs, and no more.

    With ``group`` several processes train its learner together; ``before_reference`` is called with
    the environment before anything that takes long.

    Raises:
        ValueError: If an option is unknown or out of range, or the data or reference is unusable.
        OSError: If a file cannot be read or written.
    """
    from gstds.envs import DataSelectionEnv

    needs: Mapping[str, Mapping[str, Any]] = policy.needs
    return DataSelectionEnv(
        **config.env_options(),
        observe={name: dict(options) for name, options in needs.items()},
        w_max=policy.max_weight,
        normalizer=policy.normalizer,
        reward="validation-loss" if policy.uses_reward else "none",
        progress=progress,
        group=group,
        before_reference=before_reference,
        policy_flops=_policy_flops(config.policy, policy),
    )


def _policy_flops(name: str, policy: policies.Policy) -> Callable[..., float]:
    """Return the policy's ``step_flops``, whose errors name it."""

    def flops(drawn: int, kept: int, context: Mapping[str, Any]) -> float:
        with users_code(f"step_flops of policy {name!r}"):
            value = policy.step_flops(drawn, kept, policies.RunContext(**context))
        return check_number(f"step_flops of policy {name!r}", value, low=0)

    return flops


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, and put its settings back afterwards.

    On a GPU torch's fastest algorithms add up in any order.
    An operation that has no such algorithm warns. On the processor runs are bit-identical anyway.

    Args:
        wanted: Change nothing if false.
    """
    if not wanted:
        yield
        return
    # Read when the first matrices are multiplied on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode = torch.get_deterministic_debug_mode()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
