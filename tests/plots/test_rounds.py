from __future__ import annotations

import pytest
import torch

from ibau_lite.metrics import Report
from ibau_lite.plots import delta_and_trigger, per_round, terms

BEFORE = {"accuracy": 0.9, "attack_success_rate": 1.0}


def run(*asr: float) -> list[dict[str, float]]:
    return [
        {"round": t, "accuracy": 0.8, "attack_success_rate": value}
        for t, value in enumerate(asr, 1)
    ]


def test_a_line_is_the_mean_over_seeds_from_the_poisoned_network_on() -> None:
    figure = per_round({"naive": [run(0.4, 0.1), run(0.6, 0.1)]}, BEFORE)
    line = figure.axes[1].lines[0]
    assert list(line.get_ydata()) == pytest.approx([100, 50, 10])
    assert line.get_label() == "naive"


def test_the_band_is_one_sample_deviation_and_nothing_for_one_seed() -> None:
    def heights(runs: list[list[dict[str, float]]]) -> tuple[float, float]:
        band = per_round({"naive": runs}, BEFORE).axes[1].collections[0]
        at_one = band.get_paths()[0].vertices
        at_one = at_one[at_one[:, 0] == 1][:, 1]
        return at_one.min(), at_one.max()

    assert heights([run(0.4), run(0.6)]) == pytest.approx((50 - 200**0.5, 50 + 200**0.5))
    assert heights([run(0.4)]) == pytest.approx((40, 40))


def test_axes_are_named_with_their_units() -> None:
    labels = [axes.get_ylabel() for axes in per_round({"naive": [run(0.4)]}, BEFORE).axes]
    assert labels == ["clean accuracy (%)", "attack success (%)"]


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        per_round({"naive": []}, BEFORE)


def test_terms_draws_both_norms_and_the_residual() -> None:
    history = [{"round": 1, "direct": 2.0, "indirect": 0.5, "residual": 1.5}]
    norms, residuals = terms({"I-BAU": history}).axes
    assert [list(line.get_ydata()) for line in norms.lines] == [[2.0], [0.5]]
    assert list(residuals.lines[0].get_ydata()) == [1.5]
    assert list(residuals.lines[1].get_ydata()) == [1, 1], "the line where v = 0 is as good"


def test_terms_refuses_histories_without_an_indirect_term() -> None:
    with pytest.raises(ValueError, match="indirect term"):
        terms({"naive": [{"round": 1, "direct": 2.0}]})


def test_delta_is_stretched_by_the_factor_in_its_title_and_the_image_is_not() -> None:
    delta, image = torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5)
    delta[0, 1, 2] = -0.25
    figure = delta_and_trigger({"δ": delta}, torch.zeros(3, 4, 4), image)
    above, _, below, _ = figure.axes
    assert above.get_title() == "δ (× 4)"
    assert above.images[0].get_array()[1, 2].tolist() == [0.0, 0.5, 0.5]
    assert below.images[0].get_array()[1, 2].tolist() == [0.25, 0.5, 0.5]


def test_a_zero_delta_and_one_channel_can_be_drawn() -> None:
    figure = delta_and_trigger({"δ": torch.zeros(1, 4, 4)}, torch.ones(1, 4, 4))
    assert figure.axes[0].images[0].get_array().shape == (4, 4, 3)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        delta_and_trigger({"δ": torch.zeros(3, 4, 4)}, torch.zeros(3, 5, 5))


def test_a_report_stands_for_round_0_and_rows_without_rates_are_named() -> None:
    from_report = per_round({"naive": [run(0.4)]}, Report(0.9, 1.0, 1, 1))
    assert list(from_report.axes[1].lines[0].get_ydata()) == pytest.approx([100, 40])
    with pytest.raises(ValueError, match="give the defence an evaluator"):
        per_round({"naive": [[{"round": 1, "loss": 0.1}]]}, BEFORE)
