"""Checks of a policy of one's own: in seconds, what a run would find out late or never.

    from gstds.testing import check_policy

    def test_my_policy():
        assert not check_policy(MyPolicy)

``gstds check my_file:MyPolicy`` prints the same. The policy is asked about made-up batches and
trains small networks on digits, through the environment that a run has.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gstds.common.checks import place, place_of, users_code
from gstds.common.noise import policy_seed
from gstds.common.state import fingerprints, latest_state, save_state, undeclared_changes
from gstds.observation.batch_view import checked_weights
from gstds.observation.shown import Noted, made_up_batch
from gstds.observation.spec import check_observe
from gstds.policies.base import Policy, RunContext, Transition, begin_run
from gstds.policies.registry import check_declarations, make_policy
from gstds.policies.rehearsal import CLASSES, line_to_add, made_up_context, undeclared

_N = 32
_OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "limit": 300,  # the last batch of an epoch is short
    "learner": "mlp",
    "optimizer": "adamw",
    "batch_size": _N,
    "epochs": 3,
}
_STOP = 11  # steps before a run is stopped and gone on with
_TIMED = 20
_PADDING = "padding has a weight above 0"


def pixels() -> Callable[[Any], Any]:
    """Return a reference model that costs nothing: brightness, on a coarse grid."""
    return lambda images: images.float().mean(1).flatten(1)[:, ::2] + 1.0


@dataclass(frozen=True)
class Finding:
    """What is wrong with a policy, where, and what to do about it.

    Attributes:
        check: What was looked at.
        what: What was found.
        mend: What to do.
        where: ``file:line``.
    """

    check: str
    what: str
    mend: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.check}: {self.what}; {self.mend}"


@dataclass
class Report:
    """What was found out about a policy.

    Attributes:
        name: The policy's name.
        passed: Checks that found nothing.
        findings: Faults.
        figures: What was measured: the mean keep ratio, and milliseconds for each answer.
    """

    name: str
    passed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def check_policy(policy: str | type[Policy] | Callable[[], Policy], **parameters: Any) -> Any:
    """Return the faults of a policy, an empty list if none was found.

    Args:
        policy: A name as for `gstds.make_policy`, a class, or whatever makes one without arguments.
        **parameters: The policy's parameters.

    Returns:
        A list of `Finding`.
    """
    return examine(policy, **parameters).findings


def examine(policy: str | type[Policy] | Callable[[], Policy], **parameters: Any) -> Report:
    """Return what was found out about a policy; arguments as for `check_policy`."""
    name = policy if isinstance(policy, str) else getattr(policy, "__name__", str(policy))
    report = Report(name)

    def make() -> Policy:
        if isinstance(policy, str):
            return make_policy(policy, **parameters)
        made = policy(**parameters)
        if not isinstance(made, Policy):
            raise TypeError(f"policy must be a gstds.Policy, got {made!r}")
        check_declarations(name, made)
        return made

    try:
        subject = _Subject(make, name)
    except (Exception, SystemExit) as error:
        report.findings.append(Finding("making", str(error), "mend that first", place_of(error)))
        return report
    for check in _CHECKS:
        found = subject.attempt(check)
        report.findings += found or ()
        if found == []:
            report.passed.append(_name(check))
    report.figures = subject.figures
    return report


_Found = Iterator[tuple[str, ...]]
_Check = Callable[["_Subject"], _Found]


class _Subject:
    """A policy under examination, and the environment that it acts in."""

    def __init__(self, make: Callable[[], Policy], name: str) -> None:
        self.make, self.name = make, name
        self.policy = make()
        self.needs = check_observe("needs", self.policy.needs)
        self.figures: dict[str, float] = {}
        self.steady = True  # unless two runs of one seed differ
        self.generators = _generators()
        self._told: set[str] = set()
        self._env: Any = None
        self._whole: _Run | None = None

    def attempt(self, check: _Check) -> list[Finding] | None:
        """Return what a check finds; None if all that it found is known already.

        That the policy raises is a finding too.
        """
        found: list[Finding] = []
        try:
            for what, mend, *methods in check(self):
                found.append(Finding(_name(check), what, mend, self.line(*methods)))
        except Exception as fault:  # of the policy's code, or of what it did to this process
            if not self.first_told(str(fault)):
                return found or None
            where = place_of(fault.__cause__ or fault)
            where = where or self.line(str(fault).partition(" ")[0], "act")
            found.append(Finding(_name(check), str(fault), "mend it", where))
        return found

    def first_told(self, fault: str) -> bool:
        """Say whether this is the first time that a fault is told."""
        first = (kind := re.sub(r"\d+", "", fault)) not in self._told
        self._told.add(kind)
        return first

    @property
    def env(self) -> Any:
        """The environment, with whatever the policy reads."""
        if self._env is None:
            from gstds.envs import DataSelectionEnv

            self._env = DataSelectionEnv(
                **_OPTIONS,
                reference=f"{__name__}:pixels",
                observe=self.needs,
                w_max=self.policy.max_weight,
                normalizer=self.policy.normalizer,
                reward="validation-loss" if self.policy.uses_reward else "none",
            )
        return self._env

    def line(self, *methods: str) -> str:
        """Return ``file:line`` of the first of the methods that is the user's, or of the class."""
        kind = type(self.policy)
        own = [getattr(kind, m) for m in (*methods, "keep_ratio") if hasattr(kind, m)]
        for what in (
            *(m for m in own if not getattr(m, "__module__", "gstds.").startswith("gstds.")),
            kind,
        ):
            with contextlib.suppress(TypeError, OSError):
                return place(str(inspect.getsourcefile(what)), inspect.getsourcelines(what)[1])
        return ""

    def fresh(self, n: int = _N) -> Policy:
        """Return a policy that a made-up run begins with."""
        policy = self.make()
        with users_code("reset"):
            begin_run(policy, 0, made_up_context(n))
        return policy

    def answer(self, policy: Policy, view: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Return the policy's weights (N,), checked."""
        with users_code("act"):
            weights = policy.act(view if isinstance(view, Noted) else Noted(view, self.name))
            n = len(view["valid"])
            return checked_weights(weights, n, policy.max_weight, where="", name="weights")

    @property
    def whole(self) -> _Run:
        """A run from beginning to end."""
        if self._whole is None:
            self._whole = _Run(self).go_on()
        return self._whole


class _Run:
    """A run of the policy, and what was seen of it."""

    def __init__(self, subject: _Subject, rewards: int | None = None) -> None:
        self.subject, self.policy = subject, subject.make()
        self.seen, _ = subject.env.reset(seed=5)
        self.context = RunContext(**subject.env.context())
        with users_code("reset"):
            begin_run(self.policy, policy_seed(5), self.context)
        self.made = fingerprints(self.policy)
        self.rewards = None if rewards is None else np.random.default_rng(rewards)
        self.read: set[str] = set()
        self.read_reward = self.changed_what_it_saw = False
        self.answers: list[npt.NDArray[np.float32]] = []
        self.kept = self.drawn = 0

    def go_on(self, steps: int = 10**9) -> _Run:
        done = False
        while not done and len(self.answers) < steps:
            view = Noted({k: v.copy() for k, v in self.seen.items()}, self.subject.name, self.read)
            weights = self.subject.answer(self.policy, view)
            following, reward, terminated, truncated, info = self.subject.env.step(weights)
            self.changed_what_it_saw |= not _equal([*view.values()], [*self.seen.values()])
            reward = reward if self.rewards is None else float(self.rewards.normal())
            after = Noted(following, self.subject.name, self.read)
            transition = _NotedTransition(view, weights, reward, after, dict(info))
            with users_code("learn"):
                self.policy.learn(transition)
            self.read_reward |= transition.reward_was_read
            self.answers.append(weights)
            self.kept, self.drawn = self.kept + info["kept"], self.drawn + info["drawn"]
            self.seen, done = following, terminated or truncated
        return self


class _NotedTransition(Transition):
    """A transition that notes whether the reward is read."""

    reward_was_read = False

    def __getattribute__(self, name: str) -> Any:
        if name == "reward":
            object.__setattr__(self, "reward_was_read", True)
        return object.__getattribute__(self, name)


# ---------------------------------------------------------------------- the checks
# Each yields what it found, what to do about it, and the methods where that may be.


def _declared_is_read(subject: _Subject) -> _Found:
    """What is read is declared, all at once; what is declared, and charged, is read."""
    policy = subject.fresh()
    with users_code("act"):
        missing = undeclared(subject.name, policy)
    if missing:
        subject.needs = {name: {} for name in missing} | subject.needs
        what = f"act reads {', '.join(missing)}, which needs does not declare"
        yield what, f"add to the class: {line_to_add(subject.policy, missing)}", "act"
    unread = sorted(set(subject.needs) - subject.whole.read)
    if unread:
        what = f"needs declares {', '.join(unread)}, and a whole run never reads it"
        yield what, "take it out: it is computed and charged at every step", "act"
    if subject.whole.changed_what_it_saw:
        mend = "work on a copy: learn and the record read them afterwards"
        yield "act changes the arrays it is shown", mend, "act"


def _odd_batches(subject: _Subject) -> _Found:
    """Short batches, equal values, largest values, samples never seen: each has an answer."""
    batch = made_up_batch(_N, CLASSES, observe=subject.needs)
    rows = {
        n: v
        for n, v in batch.items()
        if v.shape[0] == _N and n not in ("valid", "noise", "indices")
    }
    odd: dict[str, dict[str, Any]] = {
        "every value 0": {name: np.zeros_like(v) for name, v in rows.items()},
        "every value 1": {name: np.ones_like(v) for name, v in rows.items()},
        "losses of a million": {n: v * 1e6 for n, v in rows.items() if n.endswith("losses")},
        "losses below zero": {n: -rows[n] for n in ("last_losses", "learner_losses") if n in rows},
        "no sample seen before": {"visited": np.zeros(_N), "age": np.ones(_N)},
        "the begin of a run": {"progress": np.zeros(1), "budget_left": np.ones(1)},
        "the end of a run": {"progress": np.ones(1), "budget_left": np.zeros(1)},
    }
    odd |= {f"{k} of {_N} samples": {"valid": np.arange(_N) < k} for k in (1, 2, 3)}
    faults: dict[str, list[str]] = {}
    for name, values in odd.items():
        view = batch | {k: np.asarray(v, dtype=np.float32) for k, v in values.items()}
        try:
            weights = subject.answer(subject.fresh(), view)
        except ValueError as fault:
            faults.setdefault(str(fault), []).append(name)
        else:
            if weights[view["valid"] == 0].any():
                faults.setdefault(_PADDING, []).append(name)
    for what, names in faults.items():
        mend = 'multiply by observation["valid"]' if what == _PADDING else "answer any batch"
        if subject.first_told(what):
            yield f"{what} ({', '.join(names)})", mend, "act"


def _order_of_a_batch(subject: _Subject) -> _Found:
    """A batch in another order is answered in that order."""
    view = made_up_batch(_N, CLASSES, observe=subject.needs)
    order = np.random.default_rng(1).permutation(_N)
    moved = {k: v[order] if len(v) == _N else v for k, v in view.items()}
    one, other = (subject.answer(subject.fresh(), v) for v in (view, moved))
    if not np.array_equal(other, one[order]):
        mend = 'break ties and draw by observation["noise"], which goes with the sample'
        yield "the same samples in another order get other weights", mend, "act"


def _same_seed_same_answers(subject: _Subject) -> _Found:
    """Two runs of one seed answer alike, and no global generator is drawn from."""
    answers = subject.whole.answers
    again, now = _Run(subject).go_on(), _generators()
    moved = [name for name, state in subject.generators.items() if state != now[name]]
    subject.steady = _equal(again.answers, answers)
    if moved:
        what = f"the policy draws from the global generator of {' and '.join(moved)}"
        mend = "make one of its own in reset: self._rng = np.random.default_rng(seed), and add "
        mend += 'state = ("_rng",); a network within torch.random.fork_rng(), after manual_seed'
        yield what, mend, "act"
    elif not subject.steady:
        mend = "begin in reset from the seed alone: no clock, nothing that an earlier run left"
        yield "two runs of one seed get different weights", mend, "reset", "act"


def _stopped_and_gone_on(subject: _Subject) -> _Found:
    """A run that is stopped and gone on with is the run that was never stopped."""
    run = _Run(subject).go_on(_STOP)
    changed = undeclared_changes(run.made, run.policy)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with users_code("state_dict"):
                state = {"env": subject.env.state_dict(), "policy": run.policy.state_dict()}
                save_state(folder, _STOP, state)
        except ValueError as fault:
            mend = "keep numbers, text, arrays, tensors and generators in state"
            yield str(fault), mend, "state_dict", "reset"
            return
        saved: Any = latest_state(folder)
    resumed = _Run(subject)
    resumed.seen = subject.env.load_state_dict(saved["env"])
    with users_code("load_state_dict"):
        resumed.policy.load_state_dict(saved["policy"])
    resumed.go_on()
    if changed:
        what = f"a run changes {', '.join(changed)}, which a resumed run would have forgotten"
        yield what, f"add to the class: state = {tuple(changed)}", "learn", "act"
    elif subject.steady and not _equal(resumed.answers, subject.whole.answers[_STOP:]):
        mend = "state must name everything that act and learn change"
        yield "after state_dict and load_state_dict the weights are others", mend, "act"


def _it_prunes(subject: _Subject) -> _Found:
    """Over a run it keeps some; how much is a figure."""
    subject.figures["mean_keep"] = subject.whole.kept / subject.whole.drawn
    if subject.whole.kept == 0:
        yield "nothing was kept in a whole run", "keep some", "act"


def _reward(subject: _Subject) -> _Found:
    """The reward is read if it is asked for, asked for if it is read, and makes a difference."""
    read, asked = subject.whole.read_reward, subject.policy.uses_reward
    if read and not asked:
        mend = "add to the class: uses_reward = True; the evaluations for it are then charged"
        yield "learn reads transition.reward, which is 0 throughout", mend, "learn"
    elif asked and not read:
        what = "uses_reward is set, and learn never reads transition.reward"
        yield what, "take it away: the evaluations for it are charged", "learn"
    elif asked:
        one, other = (_Run(subject, rewards=seed).go_on() for seed in (1, 2))
        learned = [str(run.policy.state_dict()) for run in (one, other)]
        if learned[0] == learned[1] and _equal(one.answers, other.answers):
            what = "other rewards teach the same: neither the weights nor the state differ"
            yield what, "learn from transition.reward, or take uses_reward away", "learn"


def _speed(subject: _Subject) -> _Found:
    """How long an answer takes: a figure."""
    view = made_up_batch(128, CLASSES, observe=subject.needs)
    policy, seconds = subject.fresh(128), []
    for _ in range(_TIMED):
        start = time.perf_counter()
        subject.answer(policy, view)
        seconds.append(time.perf_counter() - start)
    subject.figures["ms_per_answer"] = 1000.0 * float(np.median(seconds))
    yield from ()


_CHECKS = (
    _declared_is_read,
    _odd_batches,
    _order_of_a_batch,
    _same_seed_same_answers,
    _stopped_and_gone_on,
    _it_prunes,
    _reward,
    _speed,
)

# ---------------------------------------------------------------------- looking on


def _name(check: _Check) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _equal(one: list[npt.NDArray[np.float32]], other: list[npt.NDArray[np.float32]]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _generators() -> dict[str, Any]:
    import torch

    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  (to see that nobody used it)
    return {
        "numpy": (name, np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
