"""The wheel holds the packages and nothing else, and works beside a user's own files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
MAPPED = {"gstds/envs": "envs", "gstds/policies": "policies", "gstds/train": "train"}
FOLDERS = ("gstds", *MAPPED.values())
AGENT = "gstds/policies/learned/agents/fifth/agent"
TEMPLATES = {
    f"gstds/train/reporting/templates/{name}.jinja"
    for name in ("html", "kept", "markdown", "report", "sweep")
}
DATA = {
    *("gstds/py.typed", f"{AGENT}.json", f"{AGENT}.safetensors", *TEMPLATES),
    *("gstds/train/cli/names.json", "gstds/train/comparing/presets.toml"),
    *("gstds/train/figures/metrics.toml", "gstds/train/figures/palette.toml"),
    *("gstds/train/tracking/mlflow_schema.sql", "gstds/train/tracking/view.json.jinja"),
}
# A user's Python keeps the bytecode that it makes, which halves what the libraries cost here.
NOT_A_USERS = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


def installed_name(path: Path) -> str:
    """Return the name in the wheel of a file of the repository."""
    name = path.relative_to(ROOT).as_posix()
    return name if name.startswith("gstds/") else f"gstds/{name}"


def run(command, folder, **environment):
    """Run a command as a user does: no variable of the tests' but the cache and the threads."""
    kept = {name: v for name, v in os.environ.items() if name not in NOT_A_USERS}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what is built, with what an older build and an older list left behind."""
    clone = tmp_path_factory.mktemp("clone")
    for name in (*FOLDERS, ".ci"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "Makefile", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, clone)
    for name in ("tests/test_goldens.py", "mlflow/notes.py", "build/lib/gstds/old.py"):
        (clone / name).parent.mkdir(parents=True)
        (clone / name).write_text("")
    (clone / "gstds.egg-info").mkdir()
    (clone / "gstds.egg-info" / "SOURCES.txt").write_text("mlflow/notes.py\n")
    return clone


@pytest.fixture(scope="module")
def built(clone):
    """The wheel and the source distribution that ``make wheel`` makes in that copy."""
    done = run([sys.executable, clone / ".ci" / "wheel", "dist"], clone)
    assert done.returncode == 0, done.stderr
    wheel, sdist = map(Path, done.stdout.split())
    assert {wheel, sdist} == set((clone / "dist").iterdir())
    return wheel, sdist


# ------------------------------------------------------------------------------- what is in it


def test_the_listed_packages_are_the_folders_that_hold_modules():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {k.replace(".", "/"): v for k, v in listed["package-dir"].items()} == MAPPED
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    rooms = {str(Path(installed_name(path)).parent).replace("/", ".") for path in modules}
    packages = {
        str(Path(installed_name(path)).parent).replace("/", ".")
        for path in modules
        if path.name == "__init__.py"
    }
    assert listed["packages"] == sorted(packages)
    assert rooms == packages


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    modules = {installed_name(p) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    names = set(contents(built[0]))
    records = {name for name in names if name.startswith("gstds-")}
    assert names - records == modules | DATA
    files = {name.partition(".dist-info/")[2] for name in records}
    assert files == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    }


def test_no_data_of_the_packages_is_left_behind():
    ours = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()]
    data = {installed_name(path) for path in ours if path.suffix not in (".py", ".pyc")}
    assert data == DATA


def test_the_source_distribution_holds_what_builds_the_wheel_and_nothing_else(built):
    with tarfile.open(built[1]) as file:
        names = [Path(member.name).parts[1:] for member in file.getmembers() if member.isfile()]
    assert {parts[0] for parts in names} == {
        *("LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"),
        *("gstds.egg-info", *FOLDERS),
    }
    ours = {"/".join(parts) for parts in names if parts[0] in FOLDERS}
    assert {installed_name(ROOT / name) for name in ours} == {
        name for name in contents(built[0]) if name.startswith("gstds/")
    }


def test_the_tree_builds_the_same_as_fresh_copies(built, clone, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(clone, tree, ignore=shutil.ignore_patterns("build", "*.egg-info", "dist"))
    code = "import setuptools.build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    (tree / "dist").mkdir()
    done = run([sys.executable, "-c", code], tree)
    assert done.returncode == 0, done.stderr
    wheel, sdist = (tree / "dist" / path.name for path in built)
    assert contents(wheel) == contents(built[0])
    with tarfile.open(sdist) as ours, tarfile.open(built[1]) as theirs:
        assert sorted(ours.getnames()) == sorted(theirs.getnames())


def test_make_wheel_is_this_build():
    (line,) = (t for t in (ROOT / "Makefile").read_text().splitlines() if ".ci/wheel" in t)
    assert line == "\t$(BIN)/python .ci/wheel dist"


# ------------------------------------------------------------------------------- two copies


def test_two_copies_that_mix_are_both_named(tmp_path):
    shutil.copytree(ROOT / "gstds", tmp_path / "gstds")
    (tmp_path / "other").mkdir()
    for name in MAPPED.values():
        (tmp_path / "other" / name).mkdir()
        (tmp_path / "other" / name / "__init__.py").write_text("")
    (tmp_path / "mix.py").write_text(
        "import sys, importlib.machinery as m\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        rooms = ['other'] if name.count('.') == 1 else path\n"
        "        return m.PathFinder.find_spec(name, rooms)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "import gstds\n"
    )
    done = run([sys.executable, "-S", "mix.py"], tmp_path)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ImportError: two copies of gstds are mixed")
    assert f"gstds comes from {tmp_path / 'gstds'}" in said
    assert f"gstds.envs from {tmp_path / 'other' / 'envs'}" in said


def test_a_copy_without_its_rooms_says_what_to_do(tmp_path):
    shutil.copytree(ROOT / "gstds", tmp_path / "gstds")
    done = run([sys.executable, "-S", "-c", "import gstds"], tmp_path)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: gstds comes from {tmp_path / 'gstds'}, which is no whole")
    assert f"pip install {tmp_path}" in said


# ------------------------------------------------------------------------------- used


POLICY = """
from gstds import KeepRatioPolicy, Selector

class Mine(KeepRatioPolicy):
    \"\"\"Half.\"\"\"

    def keep_ratio(self, observation):
        return 0.5
"""
DATASET = """
import numpy as np

def load():
    y = np.arange(200) % 4
    x = np.random.default_rng(0).integers(0, 60, size=(200, 8, 8))
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 150
    return {"X": x.astype(np.uint8), "y": y}
"""
NETWORK = """
import math
from torch import nn

def build(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
"""
ROOMS = ("common", "main", "observation", "reference", "run", "selection", "spectral", "store")
OWN = ("--dataset", "my_data:load", "--learner", "my_net:build", "--epochs", 1, "--no-tracking")
POLICIES = ("my_plugin:Mine", "policies.mine:Mine")


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The commands of an environment in which the wheel is installed; libraries are ours."""
    folder = tmp_path_factory.mktemp("environment")
    steps = [
        [sys.executable, "-m", "venv", "--without-pip", folder],
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"],
    ]
    steps[1] += ["--no-deps", "--no-index", built[0]]
    for step in steps:
        done = run(step, folder)
        assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    # A line of a path file puts libraries on the path, but not their own path files, of which one
    # is this clone's.
    (site / "libraries.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder / "bin"


@pytest.fixture
def hostile(tmp_path):
    """A user's folder, in which nearly every name of ours is theirs, and must not be run."""
    broken = 'raise RuntimeError("a file of the user that nobody named")\n'
    for name in ("train", *ROOMS):
        (tmp_path / f"{name}.py").write_text(broken)
    for name in ("envs", "mlflow", "policies"):
        (tmp_path / name).mkdir()
    (tmp_path / "envs" / "__init__.py").write_text(broken)
    (tmp_path / "policies" / "__init__.py").write_text("")
    (tmp_path / "policies" / "mine.py").write_text(POLICY)
    (tmp_path / "my_plugin.py").write_text(POLICY)
    (tmp_path / "my_data.py").write_text(DATASET)
    (tmp_path / "my_net.py").write_text(NETWORK)
    return tmp_path


def succeed(command, folder, **environment):
    done = run(command, folder, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["script", "module", "script with PYTHONPATH"])
def test_the_command_line_starts(installed, hostile, entry):
    command = [installed / "gstds"]
    if entry == "module":
        command = [installed / "python", "-m", "gstds.train.cli.main"]
    paths = {"PYTHONPATH": str(hostile)} if "PYTHONPATH" in entry else {}
    assert "\ninfobatch" in succeed([*command, "list", "policies"], hostile, **paths)
    assert "--port PORT" in succeed([*command, "ui", "--help"], hostile, **paths)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_of_the_users_own_policy_data_and_network(installed, hostile, policy):
    command = [installed / "gstds", "run", "--policy", policy, *OWN, "--json", "result.json"]
    succeed(command, hostile)
    (row,) = json.loads((hostile / "result.json").read_text())["runs"]
    assert (row["policy"], row["status"], row["mean_keep"]) == (policy, "finished", 0.5)


@pytest.mark.slow
def test_a_policy_in_a_file_named_policies(installed, hostile):
    shutil.rmtree(hostile / "policies")
    (hostile / "policies.py").write_text(POLICY)
    command = [installed / "python", "-m", "gstds.train.cli.main", "run"]
    command += ["--policy", "policies:Mine", "--dataset", "digits", "--limit", 256, "--epochs", 1]
    more = {"PYTHONPATH": ".", "GSTDS_UPLOADER": "1"}
    out = succeed([*command, "--tracking-uri", "sqlite:///own.db"], hostile, **more)
    assert "finished" in out
    # It waits for the process that the run has started, beside the same files.
    assert "runs delivered" in succeed([installed / "gstds", "sync"], hostile, **more)
    assert (hostile / "own.db").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("where", [("--workers", 2), ("--ray", "local")])
def test_a_comparison_in_other_processes(installed, hostile, where):
    if where[0] == "--ray":
        pytest.importorskip("ray")
    command = [installed / "gstds", "compare", "--policies", *POLICIES, "--seeds", 1, *OWN, *where]
    succeed([*command, "--no-controls", "--json", "all.json"], hostile)
    rows = json.loads((hostile / "all.json").read_text())["runs"]
    assert {(row["policy"], row["status"]) for row in rows} == {(p, "finished") for p in POLICIES}


@pytest.mark.slow
def test_two_processes_of_torchrun(installed, hostile):
    command = [installed / "python", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", 2, "-m", "gstds.train.cli.main", "run", *OWN]
    out = succeed([*command, "--policy", POLICIES[1], "--batch-size", 32], hostile)
    assert "finished" in out


@pytest.mark.slow
def test_a_script_in_the_folder_runs_and_compares(installed, hostile):
    (hostile / "script.py").write_text(
        "import gstds\n"
        "if __name__ == '__main__':\n"
        "    own = dict(dataset='my_data:load', learner='my_net:build', epochs=1)\n"
        "    row = gstds.run('policies.mine:Mine', out='runs/one', **own)\n"
        "    both = gstds.compare(['policies.mine:Mine', 'my_plugin:Mine'], seeds=1, workers=2,\n"
        "                         controls=False, out='runs/both', **own)\n"
        "    print([row['status'], *(run['status'] for run in both['runs'])])\n"
    )
    out = succeed([installed / "python", "script.py"], hostile)
    assert out.splitlines()[-1] == str(["finished"] * 3)


ENVIRONMENT = """
import gymnasium
from my_plugin import Mine

def make():
    return gymnasium.make("gstds.envs:gstds/DataSelection-v0", dataset="digits", limit=256)

def step(env):
    observation, _ = env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    return sorted(observation)
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["forkserver", "spawn", "fork"])
def test_vector_environments_in_other_processes(installed, hostile, context):
    (hostile / "script.py").write_text(
        f"{ENVIRONMENT}\nif __name__ == '__main__':\n"
        f"    two = gymnasium.vector.AsyncVectorEnv([make, make], context={context!r})\n"
        "    print(step(make()) == step(two))\n"
    )
    assert succeed([installed / "python", "script.py"], hostile) == "True\n"


@pytest.mark.slow
def test_a_notebook_sees_the_installed_packages(installed, hostile):
    code = f"{ENVIRONMENT}\nimport gstds\nstep(make())\nprint(gstds.Selector, gstds.__file__)"
    out = succeed([installed / "python", "-c", code], hostile)
    assert "gstds.policies.dropin.selector.Selector" in out
    assert str(installed.parent) in out


@pytest.mark.slow
@pytest.mark.parametrize("shadow", ["", "gstds.py", "gstds/__init__.py", "gstds/", "mlflow.py"])
def test_doctor_looks_as_the_users_process_does(installed, hostile, shadow):
    place = hostile / shadow
    if shadow.endswith(".py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("raise RuntimeError\n")
    elif shadow:
        place.mkdir()
    code = "from gstds import Selector; import mlflow.tracking"
    works = run([installed / "python", "-c", code], hostile).returncode == 0
    done = run([installed / "gstds", "doctor"], hostile)
    (line,) = (line for line in done.stdout.splitlines() if "packages' places" in line)
    assert works == (shadow in ("", "gstds/"))  # a folder without __init__ hides no package
    assert line.startswith("ok" if works else "fail")
    assert str(installed.parent if works else place) in line
