from __future__ import annotations

import pytest

from gstds.train.comparing.compare import Comparison, plan
from gstds.train.running.options import config_from
from gstds.train.running.setup import make_run_policy, make_run_schedule, with_paper_defaults


def own(policy, **options):
    return with_paper_defaults(config_from({"policy": policy, "keep": 0.7} | options))


@pytest.mark.parametrize(
    ("policy", "keep"),
    [("jest", 0.2), ("rho-loss", 0.1), ("stale-rho-loss", 0.1), ("divbs", 0.1), ("random", 0.7)],
)
def test_each_paper_keeps_its_own_share(policy, keep):
    assert make_run_schedule(own(policy)).mean_keep() == pytest.approx(keep)


def test_the_papers_sigmoid_and_exponent():
    gstds = make_run_schedule(own("gstds", schedule="constant"))
    assert gstds.mean_keep() == pytest.approx(0.53, abs=1e-3)
    assert make_run_policy(own("selective-backprop")).beta == 1.0
    assert make_run_policy(own("selective-backprop", policy_params={"beta": 3.0})).beta == 3.0


def test_a_comparison_uses_them_only_when_asked(tmp_path):
    def schedules(asked):
        comparison = Comparison(
            base=config_from({"keep": 0.7, "schedule": "linear"}),
            policies=("jest", "random"),
            seeds=1,
            baseline="random",
            name="x",
            folder=tmp_path,
            tracking=None,
            experiment="x",
            paper_defaults=asked,
        )
        return [(job.config.schedule, job.config.keep) for job in plan(comparison)]

    assert schedules(False) == [("linear", 0.7), ("linear", 0.7)]
    assert schedules(True) == [("constant", 0.2), ("linear", 0.7)]
