"""Code planted in a pickle, and what else hostile files are made of."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

DEEP = "[" * 200_000
"""JSON or YAML nested more deeply than a reader's stack."""


class Plant:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path):
    """A file that only planted code makes; a test that ends with it there has failed."""
    path = tmp_path / "planted-code-ran"
    yield path
    assert not path.exists()


@pytest.fixture
def pickled(marker):
    return pickle.dumps(Plant(marker))
