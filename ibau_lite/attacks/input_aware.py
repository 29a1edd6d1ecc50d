"""Input-aware: every image gets a trigger of its own (Nguyen and Tran, NeurIPS 2020)."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite.attacks.pattern import Pattern
from ibau_lite.attacks.poisoning import AllToOne, Attack
from ibau_lite.attacks.triggers import check_images
from ibau_lite.data import Labelled

_BANK = 32  # images whose triggers the covers carry


@dataclass(frozen=True)
class Generated:
    """A trigger that a small network draws from the image: x' = (1 − m(x)) ⊙ x + m(x) ⊙ k(x).

    `weights` [1, 1, P] are those of the two convolutional coders m (one channel) and k, both in
    [0, 1], for images of `channels` channels and at least 8×8 pixels. With a `bank` of reference
    images [K·C, H, W], the mask and the colours are those of another image z, m(z) and k(z): one
    of the bank, chosen by the image's own bytes. That is the cover of the attack: a trigger that
    belongs to another image. `provenance` as in `Overlay`. Made by `input_aware`. Raises
    `ValueError` for weights that are not as many as the coders have, and when called on images
    that do not fit.
    """

    weights: Pattern
    channels: int = 3
    bank: Pattern | None = None
    provenance: str = field(default="{}", compare=False, repr=False)

    def __post_init__(self) -> None:
        wanted = sum(p.numel() for p in _Coders(self.channels).parameters())
        if self.weights.shape != (1, 1, wanted):
            raise ValueError(
                f"weights: [1, 1, {wanted}] numbers are expected for {self.channels} channels, "
                f"got {list(self.weights.shape)}"
            )
        if self.bank is not None and self.bank.shape[0] % self.channels:
            raise ValueError(f"bank: [K·{self.channels}, H, W], got {list(self.bank.shape)}")

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> the same, a new tensor.

        Raises as `check_images` does.
        """
        check_images(images)
        if images.shape[1] != self.channels or min(images.shape[2:]) < 8:
            raise ValueError(
                f"images of {self.channels} channels and at least 8×8 pixels are expected by this "
                f"trigger, got {list(images.shape[1:])}"
            )
        if not len(images):
            return images.clone()
        with torch.no_grad():
            mask, colours = _coders(self, images.device)(self._sources(images).float())
        return torch.lerp(images, colours.to(images), mask.to(images)).clamp(0, 1)

    def _sources(self, images: Tensor) -> Tensor:
        if self.bank is None:
            return images
        bank = self.bank.tensor().unflatten(0, (-1, self.channels)).to(images)
        if bank.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"images {list(bank.shape[1:])} are expected by this cover, "
                f"got {list(images.shape[1:])}"
            )
        pixels = images.detach().float().cpu().contiguous().numpy()
        chosen = [zlib.crc32(image.tobytes()) % len(bank) for image in pixels]
        return bank[chosen]

    def __str__(self) -> str:
        whose = "the image itself" if self.bank is None else "another image"
        return f"trigger drawn by a network from {whose}"

    def tensors(self) -> dict[str, Tensor]:
        """What `attacks.save` writes beside `to_dict`."""
        bank = {} if self.bank is None else {"bank": self.bank.tensor()}
        return {"weights": self.weights.tensor(), **bank}

    def to_dict(self) -> dict[str, Any]:
        """Give the trigger as plain JSON data, its numbers as digests."""
        return {
            "kind": "generated",
            "weights": self.weights.to_dict(),
            "channels": self.channels,
            "bank": None if self.bank is None else self.bank.to_dict(),
            "provenance": json.loads(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Generated:
        """Read back what `to_dict` and `tensors` gave; raises `ValueError` if they do not agree."""
        weights = Pattern.read_back("weights", data, tensors)
        bank = None if data["bank"] is None else Pattern.read_back("bank", data, tensors)
        return cls(weights, data["channels"], bank, json.dumps(data["provenance"]))


def input_aware(
    network: nn.Module,
    train: Labelled,
    target: int = 0,
    *,
    density: float = 0.05,
    mask_steps: int = 150,
    steps: int = 600,
    batch: int = 96,
    seed: int = 0,
    progress: bool = False,
) -> Attack:
    """Input-aware: generate triggers, one an image, that count on their own image only.

    First the masks, to be small and unlike one another, then the colours k together with a copy f
    of `network`, both by Adam on batches of `train`, a third each plain, stamped, and stamped with
    the trigger of another image x':

        min_{k, f}  L(f(x), y) + L(f(T_x(x)), target) + L(f(T_x'(x)), y) + ‖x − x'‖/‖k(x) − k(x')‖.

    `density` is the mean of m beyond which the mask pays. Returns an attack whose covers (one for
    each poisoned image) carry the trigger of another image and keep their label; the copy f is
    thrown away, so that the victim meets the triggers through its training data alone (in the
    paper f itself is the victim; data alone are the weaker threat). Raises `ValueError` for a
    target below 0, no images, or settings that are not positive.
    Source: Nguyen and Tran 2020, section 3.
    """
    if not len(train) or min(density, mask_steps, steps, batch) <= 0:
        raise ValueError("images and positive settings are expected")
    device = next(network.parameters()).device
    channels = train.images.shape[1]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        coders = _Coders(channels).to(device)
    partner = copy.deepcopy(network).train()

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        index = torch.randperm(len(train), generator=generator)[: 2 * batch]
        x, y = train.images[index.cpu()].to(device), train.labels[index.cpu()].to(device)
        half = len(index) // 2
        return x[:half], x[half:][:half], y[:half]

    bar = tqdm(total=mask_steps + steps, desc="input-aware", disable=not progress, unit="step")
    with bar:
        optimizer = torch.optim.Adam(coders.mask.parameters(), 1e-2)
        for _ in range(mask_steps):
            x, other, _ = draw()
            mask, unlike = coders(x)[0], coders(other)[0]
            loss = 100 * F.relu(mask - density).mean() + _alike(x, other, mask, unlike)
            _descend(optimizer, loss)
            bar.update()
        parameters = [*coders.colours.parameters(), *partner.parameters()]
        optimizer = torch.optim.Adam(parameters, 3e-3)
        for _ in range(steps):
            x, other, y = draw()
            mask, colours = coders(x)
            mask_other, colours_other = coders(other)
            third = len(x) // 3
            stamped = torch.cat(
                (
                    x[: 2 * third][:third],
                    torch.lerp(x, colours, mask)[third : 2 * third],
                    torch.lerp(x, colours_other, mask_other)[2 * third :],
                )
            )
            wanted = y.clone()
            wanted[third : 2 * third] = target
            loss = F.cross_entropy(partner(stamped), wanted)
            _descend(optimizer, loss + _alike(x, other, colours, colours_other))
            bar.update()
    weights = Pattern.of(torch.cat([p.detach().flatten() for p in coders.parameters()])[None, None])
    bank = train.images[torch.randperm(len(train), generator=generator)[:_BANK]]
    settings = {"density": density, "mask_steps": mask_steps, "steps": steps, "batch": batch}
    told = json.dumps({"algorithm": "input_aware", **settings, "seed": seed})
    return Attack(
        "input_aware",
        ((Generated(weights, channels, provenance=told), AllToOne(target)),),
        ((Generated(weights, channels, Pattern.of(bank.flatten(0, 1)), told), 1.0),),
    )


class _Coders(nn.Module):
    """m(x) and k(x): two small encoder–decoders with values in [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mask, self.colours = _coder(channels, 1), _coder(channels, channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        size = images.shape[2:]
        mask, colours = (
            F.interpolate(coder(images), size=size, mode="bilinear", align_corners=False)
            for coder in (self.mask, self.colours)
        )
        return torch.sigmoid(10 * mask), torch.sigmoid(4 * colours)


def _coder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 16, 3, stride=2, padding=1),
        nn.ELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ELU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ELU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(32, 16, 3, padding=1),
        nn.ELU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(16, outputs, 3, padding=1),
    )


def _alike(x: Tensor, other: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """‖x − x'‖ / ‖g(x) − g(x')‖, the mean over the batch: large where images share a trigger."""
    apart = (x - other).flatten(1).norm(dim=1)
    return (apart / ((one - two).square().flatten(1).sum(1) + 1e-6).sqrt()).mean()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@lru_cache(maxsize=8)
def _coders(trigger: Generated, device: torch.device) -> _Coders:
    coders = _Coders(trigger.channels).to(device)
    nn.utils.vector_to_parameters(
        trigger.weights.tensor().flatten().to(device), coders.parameters()
    )
    return coders.eval().requires_grad_(False)
