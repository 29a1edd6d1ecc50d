"""TABOR: its terms by hand, and a patch that it finds and unlearns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibau_lite.defenses import Inversion, TaborConfig, tabor
from ibau_lite.defenses._tabor import _penalty, _term, elastic_net, squared_variation
from ibau_lite.defenses.inversion import CandidateTriggers


def candidates(model) -> CandidateTriggers:
    draw = torch.Generator().manual_seed(0)
    masks, patterns, images = (
        torch.rand(*shape, generator=draw, dtype=torch.float64)
        for shape in ((2, 1, 8, 8), (2, 3, 8, 8), (5, 3, 8, 8))
    )
    labels = torch.tensor([0, 1, 2, 3, 1])
    return CandidateTriggers(model.double(), masks, patterns, torch.tensor([1, 3]), images, labels)


def test_elastic_net_and_variation_are_their_formulas():
    values = torch.rand(3, 2, 5, 4, dtype=torch.float64) - 0.5
    arrays = values.numpy()
    flat = arrays.reshape(3, -1)
    np.testing.assert_allclose(elastic_net(values), np.abs(flat).sum(1) + (flat**2).sum(1))
    total = np.zeros(3)
    for k, c, i, j in np.ndindex(3, 2, 5, 4):
        if i + 1 < 5:
            total[k] += (arrays[k, c, i + 1, j] - arrays[k, c, i, j]) ** 2
        if j + 1 < 4:
            total[k] += (arrays[k, c, i, j + 1] - arrays[k, c, i, j]) ** 2
    np.testing.assert_allclose(squared_variation(values), total)


def test_the_penalty_is_that_of_images_from_0_to_255(model):
    here = candidates(model)
    pixels = (1 - here.masks) * (255 * here.patterns)  # the pattern as the paper writes it
    by_hand = (
        1e-6 * (here.masks.abs() + here.masks**2).sum((1, 2, 3))
        + 1e-5 * (pixels.abs() + pixels**2).sum((1, 2, 3))
        + 1e-7 * squared_variation(here.masks)
        + 1e-8 * squared_variation(pixels)
    )
    torch.testing.assert_close(_penalty(TaborConfig.published())(here), by_hand)


def test_the_two_terms_that_ask_the_network(model):
    here = candidates(model)
    term = _term(TaborConfig(weights=(0, 0, 0, 0, 0.3, 0.7)))(here)
    for k, target in enumerate((1, 3)):
        rest = (1 - here.masks[k]) * here.images
        alone = (here.masks[k] * here.patterns[k])[None]
        by_hand = 0.3 * F.cross_entropy(here.model(rest), here.labels)
        by_hand = by_hand + 0.7 * F.cross_entropy(here.model(alone), torch.tensor([target]))
        torch.testing.assert_close(term[k], by_hand)
    assert _term(TaborConfig(weights=(1, 1, 1, 1, 0, 0))) is None  # no forward pass for nothing


def test_the_patch_is_found_and_unlearned(backdoored):
    config = TaborConfig(
        search=Inversion(steps=200, batch_size=12),
        targets=(1,),
        epochs=2,
        batch_size=20,
        shift=1,
    )
    result = tabor(backdoored.model, backdoored.clean, config=config)
    assert result.details["sizes"].argmin() == 1
    mask = result.details["inverted"].masks[1, 0]
    patch = backdoored.attack.pairs[0][0](torch.zeros(1, 3, 16, 16))[0, 0] > 0
    share = patch.float().mean()  # what an even mask would have on the patch: 6 %
    assert mask[patch].sum() > 4 * share * mask.sum()
    before, after = backdoored.report(backdoored.model), backdoored.report(result.model)
    assert after.attack_success_rate < 0.1 and after.accuracy > before.accuracy - 0.03


@pytest.mark.parametrize(
    "setting", [{"weights": (1.0,) * 5}, {"weights": (-1.0,) + (0.0,) * 5}, {"pixel_range": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        TaborConfig(**setting)
