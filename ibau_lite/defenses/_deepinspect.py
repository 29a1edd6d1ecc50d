r"""DeepInspect: a conditional generator learns the triggers of all classes at once.

A generator :math:`G(z, t)` draws additive perturbations for class t from noise z. It minimises

.. math:: L(f(\mathrm{clip}(x + G(z, t))), t) + \gamma_1 L_{\mathrm{GAN}}
          + \gamma_2 \max(0, \|G(z, t)\|_1 - c),

where :math:`L_{\mathrm{GAN}} = (D(x + G(z, t)) - 1)^2`. The discriminator D is trained against G to
tell a stamped image from a clean one. A class whose triggers are too small is flagged, by the left
tail of a double MAD, and unlearned with triggers that are drawn anew.
Source: Chen, Fu, Zhao, Koushanfar, *DeepInspect*, IJCAI 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.detection import ClassTriggers, DetectionConfig, detect_and_unlearn
from ibau_lite.defenses.outliers import left_anomaly_index
from ibau_lite.protocol import Outcome, Run, defense
from ibau_lite.speed import frozen
from ibau_lite.streams import derived_seed

__all__ = ["DeepInspectConfig", "TriggerGenerator", "deepinspect"]


@dataclass(frozen=True)
class DeepInspectConfig(DetectionConfig):
    """Settings of `deepinspect`; the rest is as in `DetectionConfig`.

    The search takes `steps` batches of `search_batch` clean images, with Adam of step `search_lr`
    for G and D. `noise` and `width` are the sizes of z and of G's hidden layer. `gan` and `size`
    are γ₁ and γ₂. `free` is the size c that costs nothing, in units of pixel values summed over
    channels. A trigger counts as found if at least `success` of the first `checked` images follow
    it. `chunk` bounds the number of stamped images in one forward pass, and changes nothing else.

    The original replaces the data by model inversion. Here it gets the clean set that every defence
    gets. Our choices where the paper leaves them open: G is `TriggerGenerator`, D is a two-layer
    convolutional network, there is one z for each class and batch, and the GAN losses are those of
    LSGAN.
    """

    steps: int = 400
    search_batch: int = 32
    search_lr: float = 1e-2
    noise: int = 16
    width: int = 64
    gan: float = 0.1
    size: float = 0.02
    free: float = 5.0
    success: float = 0.8
    checked: int = 1000
    chunk: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("steps", "search_batch", "noise", "width", "checked", "chunk")
        check_ranges(
            self, **dict.fromkeys(counts, "[1, ∞)"), search_lr="(0, ∞)", gan="[0, ∞)",
            size="[0, ∞)", free="[0, ∞)", success="(0, 1]",
        )  # fmt: skip


@defense(DeepInspectConfig, name="DeepInspect")
def deepinspect(
    model: nn.Module, clean: LabelledImages, config: DeepInspectConfig, run: Run
) -> Outcome:
    """Train the generator, flag classes with too small triggers, unlearn triggers drawn from it.

    If no class is flagged, the result is a copy of the model (`details["found"]` is false).
    `details` holds flagged (classes), index and sizes [K] (mean ‖G(z, t)‖₁), success [K], and
    `triggers` [K, C, H, W], one draw for each class. The history has one row an epoch of the
    removal. Raises and warns as `neural_cleanse` does.
    """
    return detect_and_unlearn(
        model, clean, partial(_search, config, run.seed, run.progress), config, run
    )


class TriggerGenerator(nn.Module):
    """G(z, t): noise [B, noise] and classes [B] to perturbations [B, C, H, W] in [−1, 1].

    G has one hidden layer on (z, one-hot t), and a tanh at the end. The last layer starts small, so
    that triggers grow from nothing.

    >>> generator = TriggerGenerator(noise=16, classes=4, shape=(3, 8, 8), width=32)
    >>> generator(torch.randn(2, 16), torch.tensor([0, 3])).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, noise: int, classes: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.classes, self.shape = classes, shape
        self.hidden = nn.Linear(noise + classes, width)
        self.out = nn.Linear(width, int(torch.Size(shape).numel()))
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        inputs = torch.cat([noise, F.one_hot(classes, self.classes).to(noise)], 1)
        return self.out(torch.relu(self.hidden(inputs))).tanh().unflatten(1, self.shape)


def _search(
    config: DeepInspectConfig,
    seed: int,
    progress: bool,
    model: nn.Module,
    clean: LabelledImages,
    generator: torch.Generator,
) -> ClassTriggers:
    network = frozen(model)
    first = next(network.parameters())
    images = clean.images.to(first.dtype)
    with torch.no_grad():
        count = network(images[:1]).shape[1]
    classes = torch.arange(count, device=images.device)
    triggers, discriminator = _networks(config, count, images, seed)
    adam_g = torch.optim.Adam(triggers.parameters(), lr=config.search_lr)
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=config.search_lr)
    draw = partial(_noise, config.noise, generator, images)
    size = min(config.search_batch, len(clean))
    for _ in tqdm(range(config.steps), disable=not progress, unit="step", desc="DeepInspect"):
        index = torch.randperm(len(clean), generator=generator)[:size].to(images.device)
        batch, labels = images[index], clean.labels[index]
        # The perturbations first, then their gradients in chunks of classes.
        perturbations = triggers(draw(count), classes)
        gradients, fake = _trigger_gradients(
            network, discriminator, batch, labels, perturbations.detach(), config
        )
        adam_g.zero_grad(set_to_none=True)
        perturbations.backward(gradients)
        adam_g.step()
        real_loss = (discriminator(batch) - 1).square().mean()
        adam_d.zero_grad(set_to_none=True)
        (real_loss + discriminator(fake).square().mean()).backward()
        adam_d.step()
    return _suspects(config, network, triggers.requires_grad_(False), clean, generator)


def _networks(
    config: DeepInspectConfig, classes: int, images: Tensor, seed: int
) -> tuple[TriggerGenerator, nn.Module]:
    """G and D with weights drawn from the seed, the global random state untouched."""
    channels = images.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "weights", "deepinspect"))
        triggers = TriggerGenerator(config.noise, classes, tuple(images.shape[1:]), config.width)
        discriminator = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 1),
        )
    return triggers.to(images), discriminator.to(images)


def _noise(width: int, generator: torch.Generator, images: Tensor, count: int) -> Tensor:
    return torch.randn(count, width, generator=generator, dtype=torch.float64).to(images)


def _trigger_gradients(
    model: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    labels: Tensor,
    perturbations: Tensor,
    config: DeepInspectConfig,
) -> tuple[Tensor, Tensor]:
    """Gradient of the generator's loss in the K perturbations, and one stamped image of each."""
    gradients, fakes = [], []
    numbers = torch.arange(len(perturbations), device=images.device)
    for group in numbers.split(max(1, config.chunk // len(images))):
        delta = perturbations[group].requires_grad_(True)
        stamped = (images + delta[:, None]).clamp(0, 1)
        logits = model(stamped.flatten(0, 1))
        targets = group[:, None].expand(-1, len(images))
        counts = (labels != targets).to(logits.dtype)
        entropy = F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(counts)
        fooled = (entropy * counts).sum(1) / counts.sum(1).clamp_min(1)
        one = stamped[torch.arange(len(group)), group % len(images)]
        plausible = (discriminator(one) - 1).square().flatten()
        excess = (delta.flatten(1).abs().sum(1) - config.free).clamp_min(0)
        loss = fooled + config.gan * plausible + config.size * excess
        gradients.append(torch.autograd.grad(loss.sum(), delta)[0])
        fakes.append(one.detach())
    return torch.cat(gradients), torch.cat(fakes)


def _suspects(
    config: DeepInspectConfig,
    model: nn.Module,
    triggers: TriggerGenerator,
    clean: LabelledImages,
    generator: torch.Generator,
) -> ClassTriggers:
    """Sizes and successes over fresh noise, and the stamp that draws a new trigger an image."""
    clean = clean[: config.checked]
    images = clean.images.to(next(model.parameters()).dtype)
    classes = torch.arange(triggers.classes, device=images.device)
    draw = partial(_noise, config.noise, generator, images)
    draws = torch.stack([triggers(draw(len(classes)), classes) for _ in range(8)])
    sizes = draws.flatten(2).abs().sum(2).mean(0)
    samples, success = draws[0], []
    for t in range(len(classes)):
        others = images[clean.labels != t]
        hits = [
            model((part + samples[t]).clamp(0, 1)).argmax(1) == t
            for part in others.split(config.chunk)
            if len(part)
        ]
        success.append(torch.cat(hits).to(images.dtype).mean() if hits else sizes.new_zeros(()))
    rate = torch.stack(success)
    found = rate >= config.success
    sizes = torch.where(found, sizes, float(images[0].numel()))  # none worked: no small one did

    def stamp(batch: Tensor, which: Tensor) -> Tensor:
        return (batch + triggers(draw(len(batch)), which)).clamp(0, 1)

    return ClassTriggers(
        sizes,
        left_anomaly_index(sizes),
        found,
        stamp,
        {"success": rate, "triggers": samples},
    )
