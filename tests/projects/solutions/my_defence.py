"""Fine-tuning on clean images that carry random stickers, random stripes or a second image.

The defender does not know the trigger. She shows the network many things that are not part of a
sign, each with the true label of the sign beneath it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

import ibau_lite as ib


@dataclass(frozen=True)
class Stickers:
    """How long, how fast, and how strong."""

    epochs: int = 25
    batch_size: int = 50
    lr: float = 3e-3
    strength: float = 0.4


@ib.defenses.defense(Stickers)
def defend(model, clean, config, run):
    """Train all weights on disturbed clean images; BatchNorm keeps its statistics."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=config.lr)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, config.epochs)
    history = []
    for epoch in tqdm(range(1, config.epochs + 1), disable=not run.progress):
        order = torch.randperm(len(clean), generator=run.generator)
        for index in order.split(config.batch_size):
            images = disturbed(clean.images[index], config.strength, run.generator)
            images = images.to(weights[0].dtype)
            loss = F.cross_entropy(model(images), clean.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        decay.step()
        history.append({"round": epoch, "loss": loss.item(), **run.evaluate(model)})
    optimizer.zero_grad()
    return model, history, {}


def disturbed(images, strength, generator):
    """One disturbance for a whole batch; a trigger is the same on all images, too."""
    kind = int(torch.randint(4, (), generator=generator))
    if kind == 0:
        return sticker(images, generator)
    if kind == 1:
        return stripes(images, strength, generator)
    if kind == 2:  # another image of the batch shines through
        other = images[torch.randint(len(images), (), generator=generator)]
        share = strength * torch.rand((), generator=generator)
        return (1 - share) * images + share * other
    return confetti(images, generator)


def sticker(images, generator):
    """A rectangle of random colour and place, at most a third of the image wide."""
    height, width = images.shape[2:]
    tall, wide = torch.randint(2, max(3, width // 3), (2,), generator=generator).tolist()
    top = int(torch.randint(height - tall + 1, (), generator=generator))
    left = int(torch.randint(width - wide + 1, (), generator=generator))
    colour = torch.rand(1, images.shape[1], 1, 1, generator=generator).to(images)
    result = images.clone()
    result[:, :, top : top + tall, left : left + wide] = colour
    return result


def stripes(images, strength, generator):
    """A plane wave of random direction and length."""
    height, width = images.shape[2:]
    down, across, phase = (torch.rand(3, generator=generator) * 10).tolist()
    row = torch.arange(height)[:, None] / height
    column = torch.arange(width)[None] / width
    wave = torch.sin(2 * math.pi * (down * row + across * column) + phase)
    size = strength * torch.rand((), generator=generator)
    return (images + (size * wave).to(images)).clamp(0, 1)


def confetti(images, generator):
    """One pixel in thirty gets another colour."""
    chosen = torch.rand(images.shape[2:], generator=generator) < 1 / 30
    colours = torch.rand(images.shape[1:], generator=generator).round()
    return torch.where(chosen.to(images.device), colours.to(images), images)
