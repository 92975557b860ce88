from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from gstds.train.cli.listed import NAMES, listed
from gstds.train.cli.main import main
from tests.told import note


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, x, y):
    np.savez(path, X=x, y=y)
    return f"npz:{path}"


IMAGES = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8)
QUICK = ["--no-tracking", "--quiet", "--policy", "random"]


def bad(capsys, *words):
    """Run a command that must be refused; return its one line."""
    code = main(list(words))
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    note(error.removeprefix("gstds: error: "))
    return error


def test_run_writes_the_json_of_the_contract(here, tiny_npz, capsys):
    words = ["run", *QUICK, "--dataset", tiny_npz, "--epochs", "2", "--batch-size", "32"]
    assert main([*words, "--json", "a.json", "--out", "run"]) == 0
    content = json.loads((here / "a.json").read_text(), parse_constant=pytest.fail)
    assert content["version"] == 1
    fields = (
        "policy seed dataset learner run_id status test_accuracy test_loss train_loss mean_keep"
    )
    more = "charged_flops reference_flops seconds seconds_by_phase steps weights_sha256"
    assert set((fields + " " + more).split()) <= set(content["runs"][0])
    row = content["summary"][0]
    names = "policy n mean ci95 p_value mean_keep charged_flops relative_compute relative_seconds"
    assert set(names.split()) <= set(row)
    assert row["ci95"] is None
    assert row["p_value"] is None
    first = content["runs"][0]["weights_sha256"]
    assert main(["run", "--resume", "run", "--no-tracking", "--json", "b.json"]) == 0
    assert json.loads((here / "b.json").read_text())["runs"][0]["weights_sha256"] == first


def test_a_yaml_file_is_the_same_as_options(here, tiny_npz):
    (here / "c.yaml").write_text(f"dataset: {tiny_npz}\nepochs: 2\nbatch-size: 32\nseed: 4\n")
    assert main(["run", *QUICK, "--config", "c.yaml", "--json", "a.json"]) == 0
    words = ["--dataset", tiny_npz, "--epochs", "2", "--batch-size", "32", "--seed", "4"]
    assert main(["run", *QUICK, *words, "--json", "b.json"]) == 0
    runs = [json.loads((here / f).read_text())["runs"][0] for f in ("a.json", "b.json")]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]


def test_compare_ends_with_a_table_a_plot_and_a_link(here, tiny_npz, capsys):
    words = ["compare", "--policies", "random", "full", "--seeds", "2", "--dataset", tiny_npz]
    words += ["--epochs", "1", "--batch-size", "32", "--out", "c", "--json", "c.json", "--quiet"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "random" in out
    assert "gstds ui" in out
    for name in ("accuracy.png", "report.html", "report.md"):
        assert (here / "c" / name).stat().st_size > 500
    content = json.loads((here / "c.json").read_text(), parse_constant=pytest.fail)
    assert content["baseline"] == "random"
    assert all(run["run_id"] for run in content["runs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--polcy", "gstds"], "did you mean '--policy'"),
        (["run", "--policy", "gtsds"], "did you mean 'gstds'"),
        (["run", "--schedule", "sigmod"], "did you mean 'sigmoid'"),
        (["run", "--dataset", "digit", "--policy", "full"], "did you mean 'digits'"),
        (["run", "--learner", "resnet81", "--policy", "full"], "did you mean 'resnet18'"),
        (
            ["run", "--policy", "./mypol:Sched"],
            "policy './mypol:Sched' is no module:Class; name the module, not the file: mypol:Sched",
        ),
        (["run", "--policy", "./a/mypol.py:S"], "mypol:S, from the folder ./a"),
        (["run", "--policy", ".mypol:S"], "name the module without leading dots: mypol:S"),
        (["run", "--learner", "./net:make", "--policy", "full"], "not the file: net:make"),
        (["run", "--reference", "./net:make"], "not the file: net:make"),
        (["run", "--dataset", "./mine:data", "--policy", "full"], "not the file: mine:data"),
        (
            ["run", "--policy", "gstds", "--score", "abs", "--policy-params", "score=raw"],
            "score: --score says 'abs' and --policy-params score='raw'; leave one out",
        ),
        (
            [
                "run",
                "--policy",
                "custom",
                "--picker",
                "hybrid",
                "--policy-params",
                "picker=uniform",
            ],
            "picker: --picker says 'hybrid'",
        ),
        (["run", "--keep", "1.3"], "keep must be in (0, 1], got 1.3"),
        (["run", "--keep", "0.1"], "keep must be in [0.180, 0.880]"),
        (["run", "--policy", "best", "--keep", "0.5"], "--policy-params keep=..."),
        (["run", "--policy", "plateau", "--schedule", "linear"], "follows no schedule"),
        (["run", "--label-noise", "1.5", "--policy", "full"], "label_noise must be in [0, 1)"),
        (["run", "--batch-size", "5000", "--policy", "full"], "batch_size must be at most"),
        (["run", "--epochs", "0", "--policy", "full"], "epochs must be at least 1"),
        (["run", "--reference", "efficientnet"], "did you mean 'efficientnet-lite0'"),
        (["run", "--resume", "nowhere"], "neither a folder nor"),
        (["run", "--config", "missing.yaml"], "cannot be read"),
        (["run", "--schedule-params", "midpoint"], "KEY=VALUE"),
        (["compare", "--seeds", "0"], "seeds must be at least 1"),
        (["compare", "--policies", "full", "full"], "once each"),
        (["compare", "--policies", "random", "short-full"], "full@epochs=8"),
        (["compare", "--policies", "full", "--baseline", "random"], "baseline must be one of"),
        (["list", "polices"], "did you mean 'policies'"),
        (["data", "fetch", "mnist"], "fashion-mnist"),
        (["report", "nowhere"], "comparison.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(here, capsys, words, message):
    extra = ["--no-tracking"] if words[0] in ("run", "compare") else []
    assert message in bad(capsys, *words, *extra)
    assert not (here / "runs").exists()


def test_unusable_data_is_refused_by_name(here, capsys):
    y = np.arange(40) % 4
    lonely = y.copy()
    lonely[lonely == 3] = 0
    lonely[5] = 3
    cases = {
        "one": (save("one.npz", IMAGES, lonely), "class"),
        "shape": (save("shape.npz", IMAGES[0], y), "X"),
        "float": (save("float.npz", IMAGES.astype(float), y), "uint8"),
        "negative": (save("negative.npz", IMAGES, y - 1), "y"),
    }
    (here / "broken.npz").write_bytes((here / "one.npz").read_bytes()[:200])
    cases["broken"] = ("npz:broken.npz", "broken.npz")
    cases["missing"] = ("npz:none.npz", "none.npz")
    for dataset, message in cases.values():
        assert message in bad(capsys, "run", *QUICK, "--dataset", dataset, "--batch-size", "8")


@pytest.mark.told(
    "Where results go",
    "`--out file/run`, below a file",
    "`--json no/such/folder.json`",
    "`--json /proc/result.json`",
    "`--json /dev`",
)
def test_places_that_cannot_be_written_are_refused(here, tiny_npz, capsys):
    (here / "file").write_text("")
    words = ["run", *QUICK, "--dataset", tiny_npz, "--batch-size", "32"]
    assert "--out" in bad(capsys, *words, "--out", "file/run")
    for place in ("no/such/folder.json", "/proc/result.json", "/dev"):
        assert "--json" in bad(capsys, *words, "--json", place)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_what_was_read_is_said_before_anything_is_computed(here, tiny_npz, capsys, command):
    words = ["--dataset", tiny_npz, "--batch-size", "32", "--epochs", "1", "--no-tracking"]
    few = ["--policy", "random"] if command == "run" else ["--policies", "random", "--seeds", "1"]
    for quiet in ([], ["--quiet"]):
        assert main([command, *words, *few, *quiet, "--out", f"r{len(quiet)}"]) == 0
        told = capsys.readouterr().err
        assert told.count(f"data {tiny_npz}: ") == (not quiet)
    result = json.loads(next((here / "r0").rglob("result.json")).read_text())
    counts = result["class_counts"]
    assert sum(counts.values()) > 0
    assert set(counts) == {str(number) for number in range(len(counts))}


@pytest.mark.told("Where results go", "`--tracking-uri http://127.0.0.1:9`, where no server is")
def test_an_mlflow_server_that_is_not_there_is_an_error_before_training(here, tiny_npz, capsys):
    words = ["run", "--policy", "full", "--dataset", tiny_npz, "--batch-size", "32", "--out", "r"]
    assert "127.0.0.1:9" in bad(capsys, *words, "--tracking-uri", "http://127.0.0.1:9")
    assert not (here / "r").exists()


@pytest.mark.told(
    "Where results go", "`--config` of what is no YAML", "`--config` that holds `epoch: 3`"
)
def test_bad_yaml_is_refused(here, capsys):
    (here / "bad.yaml").write_text("a: [1")
    assert "YAML" in bad(capsys, "run", "--no-tracking", "--config", "bad.yaml")
    (here / "key.yaml").write_text("epoch: 3")
    message = bad(capsys, "run", "--no-tracking", "--config", "key.yaml")
    assert "did you mean 'epochs'" in message


def test_a_failed_run_is_exit_code_1_with_one_line(here, tiny_npz, capsys):
    (here / "fails.py").write_text(
        "from gstds.policies import Policy\n"
        "class Fails(Policy):\n"
        "    def act(self, observation):\n"
        "        if observation['progress'][0] > 0: raise RuntimeError('on purpose')\n"
        "        return observation['valid']\n"
    )
    words = ["run", "--policy", "fails:Fails", "--dataset", tiny_npz, "--batch-size", "32"]
    assert main([*words, "--no-tracking", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "on purpose" in error
    assert "Traceback" not in error


def test_lists_are_tabbed_for_programs(capsys):
    for kind in ("policies", "schedules", "datasets", "learners", "references"):
        assert main(["list", kind]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) >= 3
        assert all(line.count("\t") == 1 and line.split("\t")[1] for line in lines)


def test_lists_import_nothing_heavy():
    script = (
        "import sys\nfrom gstds.train.cli.main import main\nmain(['list'])\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'gymnasium', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in NAMES:
        names = [line.split()[0] for line in done.stdout.split(f"{kind}:\n")[1].splitlines()]
        assert names[: len(listed(kind))] == list(listed(kind))


def test_a_terminal_is_told_what_will_be_done_before_torch_is_imported(here):
    script = (
        "import sys\nfrom gstds.train.cli import commands\n"
        "from gstds.train.cli.main import main\n"
        "def told(text, *, quiet):\n"
        "    print(text, quiet, sorted({'torch', 'numpy', 'mlflow'} & set(sys.modules)))\n"
        "    raise KeyboardInterrupt\n"
        "commands.announce = told\nmain(['run', '--epochs', '3', '--seed', '4'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = "training small-cnn: policy gstds on digits, 3 epochs, seed 4 False []"
    assert done.stdout.strip() == said, done.stderr


def test_help_is_quick_because_it_imports_nothing_heavy():
    script = (
        "import sys\nfrom gstds.train.cli.main import main\n"
        "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'gymnasium', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout
    assert "(default: 128)" in done.stdout
