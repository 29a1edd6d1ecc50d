"""Importing torchvision beside a torch that it was not built for."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a schema lives as long as its Library object


def torchvision_module(name: str) -> ModuleType:
    """Import `torchvision.<name>`, even where torchvision's compiled operators cannot be loaded.

    The torchvision of the package index is compiled against the CUDA build of torch. Beside a CPU
    build its extension does not load, and `import torchvision` stops at "operator torchvision::nms
    does not exist", although datasets, transforms and models need no such operator. Declaring the
    two missing schemas first is enough; calling them would still fail, and nothing here does.
    Raises ImportError if torchvision is not installed.
    """
    try:
        if not _operators_load():
            _declare_missing_schemas()
        return importlib.import_module(f"torchvision.{name}")
    except ModuleNotFoundError as error:
        raise ImportError("this needs torchvision: pip install torchvision") from error


def _operators_load() -> bool:
    """Whether torchvision's compiled operators, looked for where torchvision does, can be used."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'torchvision'")
    places = importlib.machinery.FileFinder(
        spec.submodule_search_locations[0],
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    # From 0.29 on it is _C_stable. To declare what it declares itself ends the process.
    extension = places.find_spec("_C_stable") or places.find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True


def _declare_missing_schemas() -> None:
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(schema)
            _libraries.append(library)
