"""The part of torchvision that is needed imports, whichever build of torch is beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ibau_lite.data import torchvision_compat

FRESH = """
import sys
from ibau_lite import data
print([m for m in ("torchvision", "PIL", "sklearn", "matplotlib") if m in sys.modules])
from ibau_lite.data.torchvision_compat import torchvision_module
datasets, models = torchvision_module("datasets"), torchvision_module("models")
print(datasets.CIFAR10.__name__, models.resnet18().fc.out_features)
"""


def test_torchvision_is_imported_when_it_is_needed_and_not_before() -> None:
    run = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[]", "CIFAR10 1000"], run.stderr


def test_a_missing_torchvision_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torchvision_compat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        torchvision_compat.torchvision_module("datasets")
