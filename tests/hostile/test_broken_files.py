"""Every byte of every kind of file, cut and flipped: an error that names the file, or no change."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gstds.common.checksummed_json import read_sealed
from gstds.common.state import latest_state, save_state
from gstds.envs.data.datasets import load_data
from gstds.policies.learned.agent_file import load_agent, save_agent
from gstds.store.feature_store import FeatureStore, build_store, open_losses, save_losses
from gstds.train.cli.commands import read_configuration
from gstds.train.cli.main import build_parser
from gstds.train.running.folder import finished_result, open_folder
from gstds.train.running.kept import KeptRecord, read_kept
from gstds.train.running.options import RunConfig, take_defaults
from gstds.train.tracking.delivery import note_target, read_target
from gstds.train.tracking.log import LOG_NAME, RunLog, read_log
from tests.policies.learned.test_agent_policy import agent

RUN = "0" * 32
Case = tuple[Path, Callable[[], Any]]


def flat(value: Any) -> Any:
    """Return a value in a form in which ``==`` compares all of it."""
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        return (str(array.dtype), array.shape, array.tobytes())
    if dataclasses.is_dataclass(value):
        return flat({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return repr(value) if isinstance(value, float) else value


# One case for each kind of file: where it is, and what reads it.


def build(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 3))
    build_store(
        folder,
        rows=6,
        dim=3,
        chunk_rows=2,
        fingerprint="f",
        backbone={"name": "b"},
        compute=lambda a, b: rows[a:b],
    ).close()


def read_store(folder: Path) -> Any:
    store = FeatureStore.open(folder)
    try:
        return store.gather(np.arange(6)), store.manifest
    finally:
        store.close()


def manifest(folder: Path) -> Case:
    build(folder)
    return folder / "manifest.json", lambda: read_store(folder)


def features(folder: Path) -> Case:
    build(folder)
    return folder / "features.npy", lambda: read_store(folder)


def losses(folder: Path) -> Case:
    save_losses(folder / "losses", np.arange(5.0), {"fingerprint": "f"})
    return folder / "losses", lambda: open_losses(folder / "losses")


STATE = {
    "step_count": 12,
    "seed": 3,
    "nested": [{"loss": 0.25, "names": ["a", "b"], "none": None, "flag": True}],
    "weights": torch.arange(4.0),
    "memory": np.arange(3),
}


def checkpoint_note(folder: Path) -> Case:
    save_state(folder, 12, STATE)
    return folder / "step-000000012.json", lambda: latest_state(folder)


def checkpoint_arrays(folder: Path) -> Case:
    save_state(folder, 12, STATE)
    return folder / "step-000000012.safetensors", lambda: latest_state(folder)


def agent_note(folder: Path) -> Case:
    save_agent(folder, agent())
    return folder / "agent.json", lambda: load_agent(str(folder))


def agent_arrays(folder: Path) -> Case:
    save_agent(folder, agent())
    return folder / "agent.safetensors", lambda: load_agent(str(folder))


def configuration(folder: Path) -> Case:
    open_folder(folder, RunConfig(policy_params={"a": 1.5}), command="gstds run", tracking=None)
    return folder / "config.json", lambda: read_configuration(folder)


def comparison(folder: Path) -> Case:
    from gstds.train.comparing.compare import Comparison, finish

    options = {"base": RunConfig(), "policies": ("random",), "seeds": 1, "name": "c"}
    finish(Comparison(folder=folder, **options), [], 1)
    return folder / "comparison.json", lambda: read_sealed(folder / "comparison.json")


def kept(folder: Path) -> Case:
    record = KeptRecord(4, np.arange(8) % 2, 2)
    info = {"drawn": 4, "kept": 2, "progress": 0.5, "indices": np.arange(4)}
    record.add(info, np.array([1, 0, 0, 1], np.float32))
    record.save(folder / "kept.npz", visits=np.arange(8), order_seed=3)
    return folder / "kept.npz", lambda: read_kept(folder / "kept.npz")


def data_set(folder: Path) -> Case:
    y = np.arange(48) % 2
    images = np.arange(48 * 4, dtype=np.uint8).reshape(48, 2, 2)
    arrays = {"X": images, "y": y, "X_test": images[:6], "y_test": y[:6], "class_names": ["a", "b"]}
    np.savez_compressed(folder / "data.npz", **arrays)

    def read() -> Any:
        data = load_data(f"npz:{folder}/data.npz")
        return data.fingerprint, data.class_names, len(data.train), len(data.test)

    return folder / "data.npz", read


def logged(folder: Path) -> Case:
    log = RunLog(folder)
    log.begin(name="test", params={}, tags={"a": "b"})
    for step in range(4):
        log.log({"train/loss": 0.5 * step}, step)
    log.finish("finished")
    path = folder / LOG_NAME
    whole, every = path.read_bytes(), [line for line, _ in read_log(path)]

    def read() -> Any:
        lines = [line for line, _ in read_log(path)]
        content = path.read_bytes()
        # As a kill in the middle of an append leaves it: what came before is delivered.
        cut = whole.startswith(content) and content != whole
        if cut or content[-1:] != b"\n":
            assert lines == every[: len(lines)]
            raise ValueError(f"torn: {path}")
        return lines

    return path, read


CASES = [
    manifest,
    features,
    losses,
    checkpoint_note,
    checkpoint_arrays,
    agent_note,
    agent_arrays,
    configuration,
    comparison,
    kept,
    data_set,
    logged,
]


def damages(whole: bytes, *, full: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the content cut before each byte, and with flipped bits of each: one, or all eight."""
    for at in range(len(whole)):
        yield f"cut at {at}", whole[:at]
        for bit in range(8) if full else (at % 8,):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            yield f"bit {bit} of byte {at}", bytes(flipped)
    random = np.random.default_rng(0)
    for case in range(2000 if full else 100):
        overwritten = bytearray(whole)
        at, size = int(random.integers(len(whole))), int(random.integers(2, 64))
        overwritten[at : at + size] = random.bytes(len(overwritten[at : at + size]))
        yield f"noise {case} at {at}", bytes(overwritten)


def check(case: Callable[[Path], Case], folder: Path, *, full: bool) -> int:
    """Damage a file in every way; return how many ways were refused."""
    path, read = case(folder)
    whole, expected, refused = path.read_bytes(), flat(read()), 0
    for what, content in damages(whole, full=full):
        path.write_bytes(content)
        try:
            found = read()
        except (ValueError, OSError) as error:
            told = str(error)
            refused += 1
        else:
            assert flat(found) == expected, what
            continue
        assert path.stem in told or str(path.parent) in told, (what, told)
    path.write_bytes(whole)
    assert flat(read()) == expected
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_refused_by_name_or_read_as_it_was(tmp_path, case):
    assert check(case, tmp_path, full=False) > 100


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_every_flipped_bit_is_refused_by_name_or_changes_nothing(tmp_path, case):
    assert check(case, tmp_path, full=True) > 2000


@pytest.mark.parametrize("case", CASES)
def test_an_empty_file_is_refused_by_name(tmp_path, case):
    path, read = case(tmp_path)
    path.write_bytes(b"")
    with pytest.raises((ValueError, OSError)) as told:
        read()
    assert path.stem in str(told.value) or str(path.parent) in str(told.value)


def result(folder: Path) -> Path:
    from gstds.common.checksummed_json import sealed
    from gstds.common.files import write_json

    path = folder / "result.json"
    write_json(path, sealed({"status": "finished", "test_accuracy": 0.875, "steps": 12}))
    return path


def test_a_broken_result_is_none_and_its_run_goes_on(tmp_path, caplog):
    path = result(tmp_path)
    whole, expected = path.read_bytes(), finished_result(tmp_path)
    assert expected == {"status": "finished", "test_accuracy": 0.875, "steps": 12}
    for what, content in damages(whole, full=False):
        path.write_bytes(content)
        assert finished_result(tmp_path) in (None, expected), what
    assert "is damaged" in caplog.text


YAML = """\
policy: gstds
policy-params: {score: raw, a: 1.5}
epochs: 3
label-noise: 1e-1
augment: true
budget: 0.25
"""


def check_yaml(path: Path, *, full: bool) -> int:
    refused = 0
    for what, content in damages(YAML.encode(), full=full):
        path.write_bytes(content)
        parser = build_parser().commands["run"]
        try:
            take_defaults(parser, path)
        except (ValueError, TypeError) as error:
            told = str(error)
        else:
            continue
        assert path.name in told, what
        refused += 1
    return refused


@pytest.mark.slow
def test_a_broken_yaml_file_is_refused_by_name_or_has_other_values(tmp_path):
    assert check_yaml(tmp_path / "c.yaml", full=False) > 20


@pytest.mark.soak
def test_every_flipped_bit_of_a_yaml_file_is_an_error_or_a_value(tmp_path):
    assert check_yaml(tmp_path / "c.yaml", full=True) > 100


def test_a_broken_note_of_a_delivery_delivers_again_and_skips_nothing(tmp_path):
    target = note_target(tmp_path, "sqlite:////a.db", "gstds", RUN)
    path = tmp_path / "delivery.json"
    for what, content in damages(path.read_bytes(), full=False):
        path.write_bytes(content)
        assert read_target(tmp_path) in (None, target), what


class Stopped(Exception):  # noqa: N818
    """What ends a build in its middle."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["features.npy", "journal.jsonl"])
def test_a_build_goes_on_to_the_same_store_whatever_became_of_its_files(tmp_path, name):
    rows = np.random.default_rng(0).normal(size=(6, 3))

    def compute(start: int, stop: int, until: int = 6) -> Any:
        if start >= until:
            raise Stopped
        return rows[start:stop]

    def built(folder: Path, until: int) -> Any:
        options = {"rows": 6, "dim": 3, "chunk_rows": 2, "fingerprint": "f", "backbone": {"n": "b"}}
        build_store(folder, **options, compute=lambda a, b: compute(a, b, until)).close()
        return flat(read_store(folder))

    expected = built(tmp_path / "whole", 6)
    with pytest.raises(Stopped):
        built(tmp_path / "begun", 4)
    begun = {path.name: path.read_bytes() for path in (tmp_path / "begun").iterdir()}
    assert name in begun, sorted(begun)
    for case, (what, content) in enumerate(list(damages(begun[name], full=False))[::3]):
        folder = tmp_path / str(case)
        folder.mkdir()
        for other, data in begun.items():
            (folder / other).write_bytes(content if other == name else data)
        assert built(folder, 6) == expected, what


def test_the_seal_is_of_the_content_and_of_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": 1}))
    assert read_sealed(path) == {"a": 1}  # written by hand, or by an older release
    for text in ('{"a": 1, "seal": null}', '{"a": 1, "seal": 3}', '{"seal": ""}', "3"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.json is damaged"):
            read_sealed(path)
    os.truncate(path, 0)
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_sealed(path)
