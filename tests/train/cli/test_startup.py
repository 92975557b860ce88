"""What a run has imported when it begins to train: nothing that takes seconds and is not needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

PLUG_IN = """
    import json, sys
    from pathlib import Path
    from gstds.policies.paper import GSTDS

    class Watching(GSTDS):
        def act(self, observation):
            Path("modules.json").write_text(json.dumps(sorted(sys.modules)))
            return super().act(observation)
"""
HEAVY = ("mlflow", "sklearn", "sympy", "pandas", "matplotlib", "scipy.integrate", "sqlalchemy")


def test_a_run_imports_nothing_heavy_before_its_first_update(tmp_path, store_uri):
    (tmp_path / "watching.py").write_text(textwrap.dedent(PLUG_IN))
    words = ["run", "--dataset", "digits", "--policy", "watching:Watching", "--epochs", "1"]
    words += ["--limit", "200", "--tracking-uri", store_uri, "--quiet", "--out", "r"]
    done = subprocess.run(
        [sys.executable, "-m", "gstds.train.cli.main", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads((tmp_path / "modules.json").read_text())
    assert "torch" in loaded
    assert [name for name in HEAVY if name in loaded] == []
