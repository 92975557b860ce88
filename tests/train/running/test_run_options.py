"""Options from a YAML file are the command line's, with the same checks."""

from __future__ import annotations

import json

import pytest

from gstds.train.cli.main import main, parse_words
from gstds.train.comparing.comparison import split_name
from gstds.train.running.options import RunConfig, config_from
from gstds.train.terminal.options import given as given_in


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def given(text, *words, command="run"):
        (tmp_path / "c.yaml").write_text(text)
        return parse_words([command, "--config", "c.yaml", *words])

    return given


def config(arguments):
    return config_from(given_in(arguments, RunConfig))


def test_every_option_may_stand_in_the_file(given, tmp_path):
    text = "policy: random\nschedule-params: {start: 0.2}\nout: there\njson: r.json\n"
    text += "checkpoint_every: 7\nno-tracking: true\nexperiment: mine\ncharge-reference: true\n"
    arguments = given(text)
    assert (arguments.out, arguments.json, arguments.experiment) == ("there", "r.json", "mine")
    assert (arguments.checkpoint_every, arguments.no_tracking) == (7, True)
    assert config(arguments) == RunConfig(
        policy="random", schedule_params={"start": 0.2}, charge_reference=True
    )


def test_the_command_line_wins_also_with_a_default_of_its_own(given):
    text = "epochs: 5\nexperiment: file\n"
    assert config(given(text, "--epochs", "10")).epochs == 10
    assert given(text, "--experiment", "gstds").experiment == "gstds"
    text = "seeds: 5\npolicies: [full]\n"
    arguments = given(text, "--seeds", "3", "--policies", "random", "full", command="compare")
    assert (arguments.seeds, arguments.policies) == (3, ["random", "full"])
    assert given(text, command="compare").seeds == 5


@pytest.mark.parametrize("text", ["1e-2", "1.0e-2", "0.01", "1E-2", "+1e-2", ".1e-1", "10e-3"])
def test_numbers_may_be_written_as_people_do(given, text):
    assert config(given(f"learning_rate: {text}")).learning_rate == 0.01
    arguments = given("", "--policy-params", f"a={text}", "b=e5")
    assert config(arguments).policy_params == {"a": 0.01, "b": "e5"}
    assert config(given(f"policy_params: {{a: {text}}}")).policy_params == {"a": 0.01}


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("-007", -7), ("1_000", 1000), ("0", 0)])
def test_a_leading_zero_is_no_octal_number(given, text, number):
    assert config(given("", "--policy-params", f"a={text}")).policy_params == {"a": number}
    assert config(given(f"policy_params: {{a: {text}}}")).policy_params == {"a": number}
    assert split_name(f"random@low={text}") == ("random", {"low": number})


@pytest.mark.parametrize("text", ["0x10", "0b11", "1:30"])
def test_numbers_of_other_bases_are_refused(given, text):
    with pytest.raises(ValueError, match=f"'{text}' has no readable value"):
        split_name(f"random@low={text}")


def test_null_means_not_given(given):
    assert config(given("dataset: null\nlimit: ~\n")) == RunConfig()


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("run", "polcy: x", "unknown option 'polcy'; did you mean 'policy'"),
        ("run", "policies: [x]", "unknown option 'policies'; did you mean 'policy'"),
        ("compare", "policy: x", "unknown option 'policy'; did you mean 'policies'"),
        ("compare", "seed: 1", "unknown option 'seed'; did you mean 'seeds'"),
        ("run", "resume: x", "unknown option 'resume'"),
        ("run", "learner: 5", "learner must be a text, got 5"),
        ("run", "dataset: [a]", r"dataset must be a text, got ['a']"),
        ("run", "epochs: ten", "--epochs: invalid int value: 'ten'"),
        ("run", "epochs: true", "epochs must not be true or false"),
        ("run", "epochs: 1.5", "epochs must be a whole number, got 1.5"),
        ("run", "keep: [1]", "keep must be a number, got [1]"),
        ("run", "deterministic: 3", "deterministic must be true or false, got 3"),
        ("run", "no_tracking: 'no'", "no_tracking must be true or false, got 'no'"),
        ("run", "policy_params: [a]", "policy_params must map names to values, got ['a']"),
        ("run", "policy_params: a=1", "policy_params must map names to values, got ('a', 1)"),
        ("run", "label_noise: .nan", "label_noise must be a finite number, got nan"),
        ("run", "epochs: 1\nepochs: 2", "'epochs' stands twice"),
        ("compare", "policies: random", "policies must be a list, such as [a, b], got 'random'"),
        ("compare", "policies: [1]", "policy must be a text, got 1"),
        ("compare", "seeds: many", "--seeds: invalid int value: 'many'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, monkeypatch, capsys, command, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    assert main([command, "--config", "c.yaml", "--no-tracking", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_run_by_a_file_alone(tmp_path, monkeypatch, tiny_npz):
    monkeypatch.chdir(tmp_path)
    text = f"dataset: {tiny_npz}\npolicy: random\nepochs: 1\nbatch_size: 32\nlearning_rate: 1e-1\n"
    (tmp_path / "c.yaml").write_text(
        text + "out: r\njson: a.json\nno_tracking: true\nquiet: true\n"
    )
    assert main(["run", "--config", "c.yaml"]) == 0
    result = json.loads((tmp_path / "a.json").read_text())["runs"][0]
    assert result["mlflow_run_id"] is None
    assert (tmp_path / "r" / "result.json").exists()
