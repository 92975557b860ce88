"""Reference losses from a linear probe, cross-fitted: no sample is judged by a head that saw it.

An ImageNet head says nothing about the target's labels, so a multinomial logistic regression on the
features stands for the reference's head. The samples are split into folds; the loss of each comes
from the head that was trained on the other folds. Duplicates (one group) share a fold.

All heads are trained at once: their weights stand side by side, so that one product (n, D) times
(D, folds × classes) serves every fold, and a mask keeps each head from its own fold. The folds'
objectives do not share a weight, so the minimum of the sum is the minimum of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gstds.common.checks import check_integer, check_number
from gstds.common.noise import keyed_bits

Ints = npt.NDArray[np.int64]

MAX_LOSS = 20.0
"""Losses are clipped here: a probability of 2e-9, far beyond what a regularized head claims."""

FOLDS = 5
"""Folds, unless told otherwise."""

_BLOCK = 8192
_STEP = 1.0 / 8.0
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ProbeResult:
    """What the probe found.

    Attributes:
        losses: Cross-entropy of each sample (n,), float32 in [0, `MAX_LOSS`], out of fold, in nats.
        logits: What the same heads say of each class (n, C), float32; None unless asked for.
        accuracy: Share of samples whose label the head of the other folds names.
        flops: Floating point operations, 2 per multiply-add, by formula.
        folds: How many folds.
    """

    losses: npt.NDArray[np.float32]
    accuracy: float
    flops: float
    folds: int
    logits: npt.NDArray[np.float32] | None = None


def cross_fitted_losses(
    features: npt.ArrayLike | Tensor,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    num_classes: int,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float = 1e-4,
    max_iterations: int = 100,
    device: torch.device | str = "cpu",
    with_logits: bool = False,
) -> ProbeResult:
    """Return each sample's loss under a linear head that never saw it, nor a duplicate of it.

    Args:
        features: Features (n, D); rows are scaled to unit length here.
        labels: Class of each sample (n,), as the learner will see it (noise included).
        groups: Whole numbers (n,); samples with one number are duplicates and share a fold.
        num_classes: How many classes there are.
        folds: How many folds.
        seed: Decides the folds, together with the groups' numbers.
        l2: Weight of the squared norm, in units of the features' mean squared length about their
            mean (see docs/reference.md for how the default was chosen).
        max_iterations: Bound on the iterations of L-BFGS.
        device: Where to compute.
        with_logits: Return the logits too.

    Returns:
        Losses (n,), out-of-fold accuracy and the cost.

    Raises:
        ValueError: If shapes differ, features are not finite, a label is out of range, or a class
            has fewer than two groups.
    """
    folds = check_integer("folds", folds, low=2)
    classes = check_integer("num_classes", num_classes, low=2)
    l2 = check_number("l2", l2, low=0.0, open_low=True)
    max_iterations = check_integer("max_iterations", max_iterations, low=1)
    x, y, group = _checked(features, labels, groups, classes)
    fold = stratified_folds(y, group, num_classes=classes, folds=folds, seed=seed)
    problem = _Problem(x.to(device), y, fold, classes=classes, folds=folds, l2=l2)
    weights = _minimize(problem, max_iterations)
    logits = problem.out_of_fold(weights)
    losses = F.cross_entropy(logits, problem.labels, reduction="none")
    clipped = losses.clamp(0.0, MAX_LOSS).cpu().numpy().astype(np.float32)
    accuracy = float((logits.argmax(dim=1) == problem.labels).double().mean())
    shown = logits.cpu().numpy() if with_logits else None
    return ProbeResult(clipped, accuracy, problem.flops, folds, shown)


def stratified_folds(
    labels: Ints, groups: Ints, *, num_classes: int, folds: int, seed: int
) -> Ints:
    """Return each sample's fold (n,): groups stay together, classes are spread evenly.

    A group counts for its rarest label, so that a rare class never hides inside a common one.

    Raises:
        ValueError: If a class that occurs has fewer than two groups, or there are fewer groups
            than folds.
    """
    keys, group = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.stack([labels, group]), axis=1)
    per_class = np.bincount(pairs[0], minlength=num_classes)
    lonely = np.flatnonzero(per_class == 1)
    if lonely.size:
        what = "every class needs at least 2 groups of samples (duplicates are one group)"
        mend = f"class {lonely[0]} has 1: give it more samples or leave the class out"
        raise ValueError(f"{what}; {mend}")
    if len(keys) < folds:
        raise ValueError(f"folds must be at most the {len(keys)} groups of samples, got {folds}")
    rarest_first = np.lexsort((pairs[0], per_class[pairs[0]], pairs[1]))
    _, first = np.unique(pairs[1][rarest_first], return_index=True)
    stratum = pairs[0][rarest_first][first]
    order = np.lexsort((keyed_bits(seed, indices=keys), stratum))
    fold = np.empty(len(keys), dtype=np.int64)
    # Dealt in one round over all classes: within a class, and in all, sizes differ by at most 1.
    fold[order] = np.arange(len(keys)) % folds
    return np.asarray(fold[group])


def _checked(
    features: npt.ArrayLike | Tensor, labels: npt.ArrayLike, groups: npt.ArrayLike, classes: int
) -> tuple[Tensor, Ints, Ints]:
    x = torch.as_tensor(features)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"features must have the shape (n, D), got {tuple(x.shape)}")
    y, group = whole_numbers("labels", labels, len(x)), whole_numbers("groups", groups, len(x))
    if y.min() < 0 or y.max() >= classes:
        found = f"{y.min()} to {y.max()} (num_classes is {classes})"
        raise ValueError(f"labels must lie in [0, {classes - 1}], got {found}")
    x = x.float()
    # A sum is finite only if its terms are, and needs no array of flags.
    bad = ~torch.isfinite(x.abs().amax(dim=1))
    if bad.any():
        raise ValueError(f"features must be finite, row {int(bad.nonzero()[0])} is not")
    return F.normalize(x, dim=1), y, group


def whole_numbers(name: str, values: npt.ArrayLike, n: int) -> Ints:
    """Return the values (n,) as int64.

    Raises:
        ValueError: If they are not whole numbers, or not n.
    """
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        found = f"{array.dtype} {array.shape}"
        raise ValueError(f"{name} must be whole numbers ({n},), got {found}; one for each sample")
    return array.astype(np.int64)


class _Problem:
    """The heads' objective on fixed samples: value, gradient and out-of-fold losses.

    Weights are (D + 1, folds × classes), the last row the intercepts, in the coordinates of
    ``basis``: a linear change of variables that makes the objective round (see `_basis`).
    """

    def __init__(
        self, x: Tensor, labels: Ints, fold: Ints, *, classes: int, folds: int, l2: float
    ) -> None:
        self.classes, self.folds, self.l2 = classes, folds, l2
        self.labels = torch.from_numpy(labels).to(x.device)
        self.fold = torch.from_numpy(fold).to(x.device)
        counts = np.bincount(fold, minlength=folds)
        self.share = torch.from_numpy(1.0 / (len(labels) - counts)).float().to(x.device)
        self.x, self.penalty = _rounded(x, l2)
        self.flops = 2.0 * len(x) * x.shape[1] ** 2 * 2 + 9.0 * x.shape[1] ** 3

    def gradient(self, weights: Tensor) -> Tensor:
        """Return the objective's gradient in the weights."""
        gradient = torch.cat([self.penalty * weights[:-1], torch.zeros_like(weights[-1:])])
        for start in range(0, len(self.x), _BLOCK):
            block = slice(start, start + _BLOCK)
            residual = self._residual(weights, block)
            gradient[:-1].addmm_(self.x[block].T, residual)
            gradient[-1] += residual.sum(dim=0)
        self.flops += 4.0 * self.x.numel() * self.folds * self.classes
        return gradient

    def _logits(self, weights: Tensor, block: slice) -> Tensor:
        logits = torch.addmm(weights[-1], self.x[block], weights[:-1])
        return logits.view(-1, self.folds, self.classes)

    def _residual(self, weights: Tensor, block: slice) -> Tensor:
        """Return the derivative in the logits (n, folds * classes), zero where a head is blind."""
        residual = F.softmax(self._logits(weights, block), dim=2)
        target = self.labels[block].view(-1, 1, 1).expand(-1, self.folds, 1)
        heads = torch.arange(self.folds, device=residual.device)
        seen = (self.fold[block].view(-1, 1) != heads) * self.share
        residual.scatter_add_(2, target, torch.full_like(target, -1, dtype=residual.dtype))
        residual *= seen.unsqueeze(2)
        return residual.flatten(1)

    def out_of_fold(self, weights: Tensor) -> Tensor:
        """Return each sample's logits (n, classes) by the head that never saw it."""
        parts = []
        for start in range(0, len(self.x), _BLOCK):
            block = slice(start, start + _BLOCK)
            logits = self._logits(weights, block)
            parts.append(logits[torch.arange(len(logits), device=logits.device), self.fold[block]])
        return torch.cat(parts)


def _rounded(x: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Center, rotate and scale the features so that the objective curves alike in all directions.

    The heads' minimum is the same in any coordinates, as the penalty (D, 1) is carried along: only
    the number of iterations changes. Labels play no part.
    """
    centered = x - x.mean(dim=0)
    covariance = (centered.T @ centered).double() / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0.0)
    total = float(values.sum()) or 1.0
    # A softmax curves by at most 1/2, by about p(1 - p) near the start: a tenth stands for it.
    scale = (values / total * 0.1 + l2).rsqrt()
    basis = (vectors * (scale / math.sqrt(total))).to(x.dtype)
    return centered @ basis, (l2 * scale.square()).to(x.dtype).unsqueeze(1)


def _minimize(problem: _Problem, iterations: int) -> Tensor:
    """Descend with Nesterov's momentum, each head by itself, until its own gradient is small.

    The step is fixed by the features alone, momentum restarts per head (O'Donoghue and Candès,
    arXiv 1204.3982): nothing that a head does depends on labels which it must not see.
    """
    width, columns = problem.x.shape[1] + 1, problem.folds * problem.classes
    weights = torch.zeros(width, problem.folds, problem.classes, device=problem.x.device)
    ahead, age = weights.clone(), torch.ones(problem.folds, device=weights.device)
    going = torch.ones(problem.folds, dtype=torch.bool, device=weights.device)
    for _ in range(iterations):
        gradient = problem.gradient(ahead.view(width, columns)).view_as(ahead)
        going &= gradient.square().sum(dim=(0, 2)).sqrt() > _TOLERANCE
        if not bool(going.any()):
            break
        stepped = torch.where(going.view(1, -1, 1), ahead - _STEP * gradient, weights)
        move = stepped - weights
        age = torch.where((gradient * move).sum(dim=(0, 2)) > 0, torch.ones_like(age), age)
        following = 0.5 * (1.0 + (1.0 + 4.0 * age.square()).sqrt())
        ahead = stepped + ((age - 1.0) / following).view(1, -1, 1) * move
        weights, age = stepped, following
    return weights.view(width, columns)
