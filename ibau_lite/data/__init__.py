"""Datasets as tensors, float32 [N, C, H, W] in [0, 1], in four disjoint parts.

`load(name)` knows some datasets by name. `load_npz`, `load_image_folder` and `from_torchvision`
read any other. All of them return a `Dataset`; `load_labelled_folder` reads one set as it is.
"""

from __future__ import annotations

from ibau_lite.data.folder import load_image_folder, load_labelled_folder
from ibau_lite.data.labelled import Dataset, LabelledImages
from ibau_lite.data.named import NAMES, load
from ibau_lite.data.npz import load_npz
from ibau_lite.data.torchvision_style import from_torchvision

__all__ = [
    "NAMES",
    "Dataset",
    "LabelledImages",
    "from_torchvision",
    "load",
    "load_image_folder",
    "load_labelled_folder",
    "load_npz",
]
