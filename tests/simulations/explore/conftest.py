from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)


@pytest.fixture
def fake_world(monkeypatch):
    """The module, which processes started here can import too."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH")))))
    return importlib.import_module("fake_world")
