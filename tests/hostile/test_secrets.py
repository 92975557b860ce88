from __future__ import annotations

import json

from gstds.train.cli.main import main


def test_a_password_in_a_tracking_address_is_neither_shown_nor_written(
    tmp_path, monkeypatch, capsys, tiny_npz
):
    monkeypatch.chdir(tmp_path)
    address = "http://me:hunter2@127.0.0.1:9"
    words = ["run", "--dataset", tiny_npz, "--policy", "random", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", ["gstds", *words, "--tracking-uri", address])
    assert main([*words, "--batch-size", "32", "--out", "a", "--tracking-uri", address]) == 2
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "127.0.0.1:9" in said.err
    assert main([*words, "--batch-size", "32", "--out", "b", "--no-tracking", "--quiet"]) == 0
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert "hunter2" not in json.dumps(written)
    assert "***@127" in json.dumps(written)
