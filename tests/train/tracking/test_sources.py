from __future__ import annotations

import os
import subprocess

from gstds.train.tracking.sources import git_commit


def test_git_commit(tmp_path):
    assert git_commit(tmp_path) is None
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*words):
        own = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *own, *words]
        subprocess.run(command, check=True, env=environment, capture_output=True)

    git("init")
    (tmp_path / "a.py").write_text("1\n")
    assert git_commit(tmp_path) is None
    git("add", "a.py")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a.py").write_text("2\n")
    assert git_commit(tmp_path) == f"{clean}-dirty"
