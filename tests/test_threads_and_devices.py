"""How far results may move with the number of threads, and from the processor to a GPU.

Sums are taken in another order, so the last digits differ, and what follows from them. The
tolerances are those that CONTRIBUTING.md states.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, ibau
from ibau_lite.hypergrad import hypergradient
from ibau_lite.minimax import Ascent, Risk, Targeted
from ibau_lite.solvers import MINRES
from ibau_lite.training import Recipe, fit

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

TOLERANCE = {
    ("logits", torch.float32): 1e-5,
    ("logits", torch.float64): 1e-13,
    ("hypergradient", torch.float32): 1e-4,
    ("hypergradient", torch.float64): 1e-11,
    ("training", torch.float32): 1e-4,
    ("ibau", torch.float32): 1e-4,
}
"""‖a − b‖ / ‖a‖ at most, of logits, of a hypergradient, of all weights after four steps."""


def bands() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = 0.4 * torch.rand(96, 3, 16, 16, generator=generator)
    labels = torch.arange(96) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 3] += 0.5
    return LabelledImages(images, labels)


def network() -> nn.Module:
    """Large enough that PyTorch shares the work out among threads (2¹⁵ numbers and more)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Softplus(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(512, 4),
        )  # fmt: skip


def results(device: str) -> dict[tuple[str, torch.dtype], torch.Tensor]:
    """Everything that is compared, computed on a device and brought to the processor."""
    data, found = bands().to(device), {}
    for dtype in (torch.float32, torch.float64):
        model = network().to(device, dtype).eval()
        images = data.images.to(dtype)
        found["logits", dtype] = model(images).detach()
        risk = Risk(model, images, data.labels)
        delta = torch.linspace(-0.02, 0.02, 768).to(images).reshape(3, 16, 16)
        theta = dict(model.named_parameters())
        total = hypergradient(risk, risk, delta, theta, solver=MINRES(max_iter=3)).total
        found["hypergradient", dtype] = torch.cat([value.flatten() for value in total.values()])
    model = network().to(device)
    fit(model, data, Recipe(epochs=2, batch_size=48, lr=0.02), seed=0)
    found["training", torch.float32] = weights(model)
    quick = IBAU(rounds=1, round_images=100, search=Targeted(Ascent(2)))
    unlearned = ibau(network().to(device), data, config=quick, seed=0).model
    found["ibau", torch.float32] = weights(unlearned)
    return {name: value.cpu() for name, value in found.items()}


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def beyond_tolerance(one, other) -> dict[tuple[str, torch.dtype], float]:
    moved = {name: float((one[name] - other[name]).norm() / one[name].norm()) for name in one}
    return {name: size for name, size in moved.items() if not size <= TOLERANCE[name]}


@pytest.fixture
def threads():
    """Sets the number of threads; afterwards it is what it was."""
    former = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(former)


@pytest.mark.filterwarnings("ignore:the model reads")
def test_one_and_two_threads_agree_to_the_stated_tolerance(threads):
    threads(1)
    one = results("cpu")
    threads(2)
    assert beyond_tolerance(one, results("cpu")) == {}


@on_a_gpu
@pytest.mark.filterwarnings("ignore:the model reads")
def test_processor_and_gpu_agree_to_the_stated_tolerance(monkeypatch):
    """With the ten bits of TensorFloat-32, the default of convolutions, nothing near it holds."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert beyond_tolerance(results("cpu"), results("cuda")) == {}
