from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gstds
from gstds.train.cli.main import main


class Half(gstds.KeepRatioPolicy):
    def keep_ratio(self, observation):
        return 0.5


def test_a_call_gives_what_the_command_gives(tiny_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_call = gstds.run("random", dataset=tiny_npz, epochs=1, batch_size=32, out="call")
    words = ["--policy", "random", "--dataset", tiny_npz, "--epochs", "1", "--batch-size", "32"]
    assert main(["run", *words, "--out", "word", "--no-tracking", "--quiet"]) == 0
    again = gstds.run("random", dataset=tiny_npz, epochs=1, batch_size=32, out="word", resume=True)
    assert again["weights_sha256"] == by_call["weights_sha256"]


def test_a_comparison_goes_on_in_its_folder(tiny_npz, tmp_path):
    options = {"dataset": tiny_npz, "epochs": 1, "batch_size": 32, "controls": False}
    first = gstds.compare(["random", "full"], seeds=1, out=tmp_path / "c", **options)
    more = gstds.compare(["random", "full"], seeds=2, out=tmp_path / "c", **options)
    assert [row["n"] for row in more["summary"]] == [2, 2]
    assert [run for run in more["runs"] if run["seed"] == 0] == first["runs"]
    assert (tmp_path / "c" / "report.html").exists()


@pytest.mark.parametrize("given", [Half, Half()])
def test_a_class_is_told_how_it_is_named(given, tmp_path):
    for call in (lambda: gstds.run(given, out=tmp_path), lambda: gstds.compare([given], out="c")):
        with pytest.raises(TypeError, match="such as 'my_file:Half'"):
            call()


def test_a_comparison_without_a_finished_run_is_an_error(tiny_npz, tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(
        "import gstds\n"
        "class Bad(gstds.KeepRatioPolicy):\n"
        "    def keep_ratio(self, observation):\n"
        "        if observation['progress'][0] > 0: raise ValueError('my bug')\n"
        "        return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"dataset": tiny_npz, "epochs": 1, "batch_size": 32, "controls": False, "seeds": 1}
    with pytest.raises(RuntimeError, match=r"no run of the comparison finished: .*my bug"):
        gstds.compare(["bad:Bad"], out=tmp_path / "c", **options)


SCRIPT = """
import gstds
gstds.compare(["random"], dataset={data!r}, epochs=1, batch_size=32, seeds=2, workers=2,
              controls=False, out="c")
"""


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_whose_workers_run_it_again_is_told_the_guard(tiny_npz, tmp_path, guarded):
    lines = SCRIPT.format(data=tiny_npz).strip().splitlines()
    if guarded:
        lines = [lines[0], "if __name__ == '__main__':", *(f"    {line}" for line in lines[1:])]
    (tmp_path / "script.py").write_text("\n".join(lines))
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=kept | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) == guarded, done.stderr
    assert ('if __name__ == "__main__":' in done.stderr) != guarded
    assert not (Path(home) / ".config" / "mlflow").exists()
