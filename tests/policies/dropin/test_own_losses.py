"""Loops of one's own with losses, labels, samples and lengths of any kind."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import torch
from test_selector import N, run, selector
from torch.utils.data import DataLoader

from gstds.observation.spec import LARGEST
from gstds.policies import Policy, Selector, make_policy


class Looking(Policy):
    """Keeps all, and notes what it saw."""

    needs = {}  # noqa: RUF012

    def act(self, observation):
        self.seen = observation
        return np.ones(len(observation["valid"]), dtype=np.float32)

    def learn(self, transition):
        self.told = transition.info


def regression(policy):
    """Return the sums of weights, and the mean squared error after 160 steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 10, generator=generator)
    target = x @ torch.randn(10, 1, generator=generator) * 10 + 30
    model = torch.nn.Linear(10, 1)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    chooser, sums = Selector(policy, None, 160, num_samples=1000), []
    for _ in range(160):
        indices = torch.randperm(1000, generator=generator)[:64]
        kept, weights = chooser.select(indices)
        now = indices[kept]
        losses = ((model(x[now]) - target[now]) ** 2).squeeze(1)
        optimizer.zero_grad()
        (weights * losses).sum().backward()
        optimizer.step()
        chooser.observe_losses(now, losses)
        sums.append(float(weights.sum()))
    return sums, float(((model(x) - target) ** 2).mean().detach())


@pytest.mark.filterwarnings("error")
@pytest.mark.told(
    "Loops of your own",
    "`best` in a regression, targets in tens",
    works="losses are compared with this run's own, in their unit",
)
def test_a_regression_is_not_frozen_by_a_weight_that_a_policy_lowers():
    sums, error = regression(make_policy("best", doubt=0))
    assert min(sums) == pytest.approx(2.0)
    assert error < regression("random")[1]


def multi_label(policy):
    """Return the sums of weights, and the loss summed over 20 labels after 60 steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=generator)
    target = (x @ torch.randn(10, 20, generator=generator) > 0).float()
    model = torch.nn.Linear(10, 20)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    chooser, sums = Selector(policy, None, 60, num_samples=200), []

    def loss(now):
        score = torch.nn.functional.binary_cross_entropy_with_logits
        return score(model(x[now]), target[now], reduction="none").sum(1)

    for _ in range(60):
        indices = torch.randperm(200, generator=generator)[:64]
        kept, weights = chooser.select(indices)
        losses = loss(indices[kept])
        optimizer.zero_grad()
        (weights * losses).sum().backward()
        optimizer.step()
        chooser.observe_losses(indices[kept], losses)
        sums.append(float(weights.sum()))
    return sums, float(loss(slice(None)).mean().detach())


@pytest.mark.filterwarnings("error")
def test_a_multi_label_loss_of_twenty_labels_is_not_frozen():
    sums, loss = multi_label(make_policy("best", doubt=0))
    assert min(sums) == pytest.approx(2.0)
    assert loss < multi_label("random")[1]


@pytest.mark.parametrize("name", ["stale-big-loss", "stale-selective-backprop", "best"])
@pytest.mark.parametrize("unit", [1.0, -30.0])
@pytest.mark.told(
    "Loops of your own",
    "a quarter is kept, losses of any sign (`stale-big-loss`, …)",
    works="samples never seen are a state of their own: all are visited",
)
def test_every_sample_is_visited_whatever_the_unit(name, unit):
    policy = make_policy(name, doubt=0) if name == "best" else name
    options = {} if name == "best" else {"schedule": "constant", "keep": 0.25}
    chooser = Selector(policy, None, 128, num_samples=1000, num_classes=1, **options)
    seen, rng = np.zeros(1000, bool), np.random.default_rng(0)
    for _ in range(8):
        order = rng.permutation(1000)
        for batch in np.array_split(order, 16):
            kept = batch[chooser.select(batch)[0].numpy()]
            seen[kept] = True
            chooser.observe_losses(kept, unit * (rng.random(len(kept)) * 0.5 + 0.1))
    assert seen.mean() > (0.95 if name == "best" else 0.99)  # of random choices .9 would be


@pytest.mark.parametrize("shift", [0, 1000, -1000])
@pytest.mark.told(
    "Loops of your own", "losses of any size and sign", works="ranked as they were told"
)
def test_the_highest_losses_are_kept_of_any_size_and_sign(shift):
    chooser = Selector("big-loss", None, 9, num_samples=64, schedule="constant", keep=0.25)
    kept, _ = chooser.select(np.arange(32), shift + np.arange(32.0))
    assert kept.tolist() == list(range(24, 32))


@pytest.mark.filterwarnings("error")
@pytest.mark.told("Loops of your own", "losses that are NaN or infinite")
def test_losses_that_are_not_finite_are_set_aside_and_told_of_once_at_both_doors():
    policy = Looking()
    policy.needs = {"learner_losses": {}}
    chooser = selector(policy=policy)
    with pytest.warns(UserWarning, match=r"1 of 3 losses are not finite: set aside"):
        chooser.select([1, 2, 3], [1.0, np.nan, 3.0])
    chooser.observe_losses([1, 2, 3], [2.0, np.inf, 4.0])  # where warnings are errors
    chooser.select([1, 2, 3], [1.0, np.nan, 3.0])
    assert chooser.set_aside == 3
    assert policy.seen["learner_losses"].tolist() == [1.0, 1.0, 3.0]  # the least: it ranks last
    assert policy.seen["last_losses"].tolist() == [2.0, 2.0, 4.0]
    assert policy.told["losses"].tolist() == [2.0, 2.0, 4.0]
    assert policy.seen["visited"].tolist() == [1.0] * 3
    assert policy.seen["train_loss"] == [3.0]


@pytest.mark.filterwarnings("ignore:.*not finite")
@pytest.mark.parametrize("before", [np.nan, 9.0])
def test_broken_samples_are_trained_on_no_more_than_others(before):
    options = {"num_samples": 1000, "schedule": "constant", "keep": 0.25}
    chooser = Selector("stale-big-loss", None, 160, **options)
    counts, rng = np.zeros(1000), np.random.default_rng(0)
    for _ in range(160):
        batch = rng.permutation(1000)[:64]
        kept = batch[chooser.select(batch)[0].numpy()]
        counts[kept] += 1
        broken = np.where(counts[kept] < 2, before, np.nan)
        chooser.observe_losses(kept, np.where(kept < 20, broken, rng.random(len(kept))))
    assert counts[:20].mean() < counts[20:].mean()
    assert chooser.set_aside == counts[:20].sum() - 20 * np.isfinite(before)


def infobatch_keep(indices, count):
    chooser = Selector("infobatch", None, 150, num_samples=count, num_classes=10)
    rng = np.random.default_rng(0)
    for _ in range(10):
        for batch in np.array_split(rng.permutation(indices), 15):
            now = batch[chooser.select(batch)[0].numpy()]
            chooser.observe_losses(now, rng.random(len(now)))
    return chooser.mean_keep


@pytest.mark.told("Loops of your own", "`num_samples=1000`, of which 900 are drawn")
def test_samples_that_are_never_drawn_change_no_mean_and_are_told_of():
    used = np.random.default_rng(1).permutation(1000)[:900]
    renumbered = infobatch_keep(np.arange(900), 900)
    for indices, count, missing in ((used, 1000, 100), (np.arange(1000), 1500, 500)):
        with pytest.warns(UserWarning, match=f"{missing} of {count} samples are never drawn"):
            # Epochs that are counted too long keep everything for longer at first.
            assert infobatch_keep(indices, count) == pytest.approx(renumbered, abs=0.05)


@pytest.mark.filterwarnings("error")
def test_draws_with_replacement_and_a_dropped_last_batch_are_no_missing_samples():
    for draw in (lambda rng: rng.integers(0, 500, 32), lambda rng: rng.permutation(500)[:32]):
        chooser, rng = Selector("random", None, 100, num_samples=500), np.random.default_rng(0)
        for _ in range(60):
            chooser.select(draw(rng))
    chooser, rng = Selector("random", None, 100, num_samples=500), np.random.default_rng(0)
    for _ in range(6):
        order = rng.permutation(500)
        for at in range(0, 480, 32):
            chooser.select(order[at : at + 32])


@pytest.mark.told("Loops of your own", "`observe_losses(kept, losses)`")
def test_losses_told_of_positions_instead_of_indices_are_told_of():
    chooser = selector()
    kept, _ = chooser.select(np.arange(40, 60))
    with pytest.warns(UserWarning, match=r"never drawn, .*pass indices\[kept\], not the positions"):
        chooser.observe_losses(kept, np.ones(len(kept)))


@pytest.mark.parametrize("shape", [(4, 7), (4, 3, 5), (4, 1)])
@pytest.mark.told(
    "Loops of your own",
    "`observe_losses` with losses of shape `{shape}`",
    "`select` with losses of shape `{shape}`",
)
def test_losses_of_parts_of_a_sample_are_to_be_reduced(shape):
    advice = r"losses\.flatten\(1\)\.mean\(1\)"
    with pytest.raises(ValueError, match=advice) as error:
        selector().observe_losses(np.arange(4), torch.rand(shape))
    assert "reduction" not in str(error.value)
    chooser = Selector("big-loss", None, 9, num_samples=64)
    with pytest.raises(ValueError, match="learner_" + advice):
        chooser.select(np.arange(4), torch.rand(shape))
    reduced = torch.rand(shape).flatten(1).mean(1)
    assert len(chooser.select(np.arange(4), reduced)[0])


@pytest.mark.parametrize(
    ("losses", "advice"),
    [
        (torch.rand(7, 4), r"stand in a column: losses\.mean\(0\)"),
        (torch.rand(28), r"each sample's 7: losses\.view\(4, -1\)\.mean\(1\) where they stand"),
        (torch.rand(2), r"they are of, indices\[kept\] after training"),
        (torch.rand(()), "compute them with reduction='none'"),
    ],
)
def test_losses_of_another_length_get_advice_of_their_own(losses, advice):
    with pytest.raises(ValueError, match=advice):
        selector().observe_losses(np.arange(4), losses)


def kept_of(losses):
    chooser = Selector("big-loss", None, 9, num_samples=64, schedule="constant", keep=0.25)
    return chooser.select(np.arange(32), losses)[0].tolist()


@pytest.mark.filterwarnings("error")
def test_losses_of_any_type_are_ranked_as_told():
    rising = np.arange(32.0)
    each = [one.clone().requires_grad_() for one in torch.arange(32.0)]  # made one by one
    top = rising * 1e300
    top[24:] = 1e308  # beyond float32: the largest that there are
    for losses in (each, rising.astype(np.float16), torch.arange(32.0).bfloat16(), top - top[24]):
        assert kept_of(losses) == list(range(24, 32))
    assert kept_of([float(one) * 1e-30 for one in rising]) == list(range(24, 32))


@pytest.mark.parametrize("losses", [1e9 + np.arange(32.0), 1e-50 * np.arange(32.0)])
def test_losses_that_float32_cannot_tell_apart_are_told_of(losses):
    with pytest.warns(UserWarning, match=r"learner_losses differ by so little that float32"):
        kept_of(losses)


def test_a_first_batch_without_losses_lowers_no_weight():
    chooser, rng = (
        Selector(make_policy("best", doubt=0), None, 99, num_samples=64),
        np.random.default_rng(0),
    )
    for step in range(40):
        batch = rng.permutation(64)[:48]
        kept, weights = chooser.select(batch)
        chooser.observe_losses(batch[kept], rng.random(len(kept)) * (step > 0))
    assert float(weights.sum()) == pytest.approx(2)


@pytest.mark.told("Loops of your own", "`observe_validation(nan)`")
def test_any_finite_validation_loss_may_be_told():
    chooser = selector(policy=make_policy("loss-gap", picker="uniform"))
    for loss in (-3.5, 0.0, 1e30):
        chooser.observe_validation(loss)
        chooser.select(np.arange(8))
        chooser.observe_losses([], [])
    with pytest.raises(ValueError, match="loss must be in"):
        chooser.observe_validation(float("nan"))


# ---------------------------------------------------------------------- labels and names


def shown_labels(labels):
    policy = Looking()
    Selector(policy, None, 9, labels=labels).select(np.arange(3))
    return policy.seen["labels"].tolist()


@pytest.mark.told("Loops of your own", "labels that are one-hot or soft")
def test_labels_of_other_kinds_are_read_where_it_is_clear():
    assert shown_labels(["dog", "cat", "dog"]) == [1, 0, 1]
    assert shown_labels(np.array(["b", "a", "c"], object)) == [1, 0, 2]
    with pytest.warns(UserWarning, match="one-hot or soft"):
        assert shown_labels(torch.tensor([[0.1, 0.9], [0.7, 0.3], [0.5, 0.5]])) == [1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(4)[[0, 1, 2]] + np.eye(4)[[1, 2, 3]], "multi-label loss leave labels out"),
        (np.array([0.5, 1.7, 2.0]), "targets of a regression leave labels out"),
    ],
)
@pytest.mark.told("Loops of your own", "`labels={labels}`")
def test_what_is_no_class_is_left_out(labels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        shown_labels(labels)


@pytest.mark.told(
    "Loops of your own",
    "`select(['image-60.png'])`, an id that is not there",
    "`ids=['a', 'b', 'a']`",
    "a state of other `ids`",
)
def test_samples_may_go_by_names():
    names = [f"image-{at}.png" for at in range(N)]
    named, numbered = (selector(policy="stale-big-loss", **o) for o in ({"ids": names}, {}))
    rng = np.random.default_rng(0)
    for _ in range(6):
        batch = rng.permutation(N)[:20]
        kept, weights = named.select([names[at] for at in batch])
        same, others = numbered.select(batch)
        assert torch.equal(kept, same)
        assert torch.equal(weights, others)
        named.observe_losses([names[at] for at in batch[kept]], batch[kept] / 7)
        numbered.observe_losses(batch[kept], batch[kept] / 7)
    with pytest.raises(ValueError, match="no sample has the id 'image-60"):
        named.select(["image-60.png"])
    with pytest.raises(ValueError, match="ids must differ, got 'a' twice"):
        Selector("random", None, 9, ids=["a", "b", "a"])
    with pytest.raises(ValueError, match="the state is of ids"):
        selector(policy="stale-big-loss", ids=names[::-1]).load_state_dict(named.state_dict())


def test_ids_are_looked_up_exactly():
    numbers = [2**60 + at for at in range(N)]
    for ids in (numbers, [uuid.UUID(int=at) for at in numbers], [("a", at) for at in numbers]):
        chooser = selector(schedule="constant", keep=0.5, ids=ids)
        parts = chooser.select_together([ids[3:9], ids[9:20]])
        assert len(np.concatenate([kept for kept, _ in parts])) == 9
        again = selector(schedule="constant", keep=0.5, ids=ids)
        again.load_state_dict(chooser.state_dict())
        assert torch.equal(chooser.select(ids[:20])[0], again.select(ids[:20])[0])
    chooser = selector(policy="stale-big-loss", ids=numbers)
    chooser.observe_losses(torch.tensor(numbers[5:7]), [1.0, 2.0])
    assert chooser.state_dict()["memory"]["visits"].nonzero().flatten().tolist() == [5, 6]
    with pytest.raises(ValueError, match=r"no sample has the id 1\.15"):  # each one's, once rounded
        chooser.select(torch.tensor(numbers[:4]).double())
    assert len(selector(ids=[b"%d" % at for at in range(N)]).select(b"3")[0]) == 1
    for wrong in ([0], object()):
        with pytest.raises(TypeError, match=r"ids must be numbers, text or other values that can"):
            selector(ids=[wrong, *range(N - 1)])
    with pytest.raises(TypeError, match=r"indices must be whole numbers, got <U1 .*pass ids="):
        selector().select(["a", "b"])


# ---------------------------------------------------------------------- lengths


@pytest.mark.told(
    "Loops of your own", "a state of fewer samples and steps", "a state of more samples"
)
def test_data_that_grew_and_training_that_goes_on_longer_load_with_a_word():
    before = Selector("stale-big-loss", None, 12, num_samples=N)
    run(before, 4)
    after = Selector("stale-big-loss", None, 30, num_samples=N + 15)
    with pytest.warns(
        UserWarning, match=r"num_samples 60 -> 75, total_steps 12 -> 30; what is new"
    ):
        after.load_state_dict(before.state_dict())
    assert after.step == 4
    kept, _ = after.select(np.arange(45, 75))
    assert set(range(15, 30)) & set(kept.tolist())
    after.observe_losses([74], [0.5])
    with pytest.raises(ValueError, match="the state is of num_samples 75, this selector of 60"):
        before.load_state_dict(after.state_dict())


@pytest.mark.told(
    "Loops of your own",
    "`total_steps=None`, `select` without `progress=`",
    "`progress=3`",
    "`progress=0.5` beside `total_steps=10`",
    "`plateau` with `total_steps=None`",
)
def test_of_a_length_unknown_the_progress_is_told():
    known = Selector("random", None, 10, num_samples=64, schedule="linear")
    unknown = Selector("random", None, None, num_samples=64, schedule="linear")
    for step in range(10):
        same = known.select(np.arange(32))[0]
        assert torch.equal(unknown.select(np.arange(32), progress=step / 10)[0], same)
    with pytest.raises(ValueError, match=r"got None beside total_steps=None; .*progress=\.\.\."):
        unknown.select([1])
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], got 3"):
        unknown.select([1], progress=3)
    with pytest.raises(
        ValueError, match=r"progress is told where total_steps is None, .* beside total_steps=10"
    ):
        known.select([1], progress=0.5)
    for name in ("plateau", "budget", "linucb"):
        one = Selector(make_policy(name, picker="uniform"), None, None, num_samples=64)
        with pytest.raises(ValueError, match=r"the length of the run is not known; make the Sele"):
            one.select([1], progress=0.5)


@pytest.mark.told("Loops of your own", "`select_together([])`")
def test_batches_of_one_update_share_a_divisor():
    apart, at_once = (selector(schedule="constant", keep=0.3) for _ in range(2))
    batches = [np.arange(20), np.arange(20, 30), np.arange(30, 60)]
    parts = apart.select_together(batches)
    kept, weights = at_once.select(np.arange(60))
    found = np.concatenate([batch[k.numpy()] for batch, (k, _) in zip(batches, parts, strict=True)])
    assert found.tolist() == kept.tolist()
    assert torch.equal(torch.cat([w for _, w in parts]), weights)
    assert weights.sum().item() == pytest.approx(1)
    assert apart.step == 1
    for wrong in ([], np.arange(20), torch.arange(3)):
        with pytest.raises(ValueError, match="at least one batch of indices"):
            apart.select_together(wrong)


def test_losses_of_batches_of_one_update_may_be_told_in_parts():
    options = {"num_samples": 64, "schedule": "constant", "keep": 0.25}
    losses, batches = torch.rand(20), [torch.arange(8), torch.arange(8, 20)]
    parts = Selector("big-loss", None, 9, **options).select_together(
        batches, learner_losses=[losses[:8], losses[8:]]
    )
    found = torch.cat([batch[kept] for batch, (kept, _) in zip(batches, parts, strict=True)])
    assert found.tolist() == sorted(losses.topk(5).indices.tolist())


def one_by_one(chooser, steps):
    for index in range(steps):
        chooser.select([index])
        chooser.observe_losses([index], [1.0])


@pytest.mark.parametrize("policy", ["random", make_policy("best", doubt=0)])
def test_batches_of_one_are_kept_whole_and_told_of(policy):
    chooser = selector(policy=policy)
    one_by_one(chooser, 9)
    with pytest.warns(UserWarning, match=r"which for batches of one is all: call .*_together"):
        one_by_one(chooser, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("policy", ["infobatch", "full"])  # they decide sample by sample
def test_batches_of_one_may_be_meant(policy):
    one_by_one(selector(policy=policy), 12)


@pytest.mark.told(
    "Loops of your own",
    "`torch.compile` around the whole step",
    works="selection stays outside of what is compiled",
)
def test_a_compiled_step_selects_outside_what_is_compiled():
    few = {"labels": np.arange(20) % 4, "reference_losses": None}
    chooser, plain = selector(**few), selector(**few)

    @torch.compile(backend="eager")
    def step(indices):
        kept, weights = chooser.select(indices)
        chooser.observe_losses(indices[kept], torch.ones(len(kept)))
        return kept, weights * 2

    for _ in range(3):
        kept, weights = step(torch.arange(20))
        same, others = plain.select(torch.arange(20))
        assert torch.equal(kept, same)
        assert torch.equal(weights, others * 2)
        plain.observe_losses(torch.arange(20)[same], torch.ones(len(same)))


def in_a_worker(indices):
    return CHOOSER.select(indices)[0]


CHOOSER = Selector("random", None, 9, num_samples=N)


def test_a_copy_in_a_worker_is_refused():
    loader = DataLoader(range(N), 20, collate_fn=in_a_worker, num_workers=1)
    with pytest.raises(RuntimeError, match=r"select is called in a DataLoader's worker, on a copy"):
        next(iter(loader))
    assert len(in_a_worker(torch.arange(20))) > 0


def test_what_is_selected_in_inference_mode_goes_into_a_gradient():
    with torch.inference_mode():
        kept, weights = selector(policy="full").select(torch.arange(4), torch.ones(4))
    losses = torch.ones(len(kept), requires_grad=True)
    (weights * losses).sum().backward()
    assert losses.grad.tolist() == [0.25] * 4


@pytest.mark.filterwarnings("error")
def test_observed_losses_stay_inside_float32():
    policy = Looking()
    policy.needs = {"learner_losses": {}}
    chooser = selector(policy=policy)
    chooser.select([1, 2], [LARGEST, -LARGEST])
    chooser.observe_losses([1, 2], [LARGEST, LARGEST])
    chooser.select([1, 2], [0.0, 0.0])
    assert all(np.isfinite(value).all() for value in policy.seen.values())
