"""Theorem 3: its constants against independent ones, its laws and symmetries, what breaks it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ibau_lite.theory import covering, spectral_norms
from ibau_lite.theory import generalisation_networks as networks
from ibau_lite.theory.chain import chain, lipschitz
from ibau_lite.theory.margins import margin_error, margins
from ibau_lite.theory.rank_correlation import kendall
from torch import nn

from ibau_lite import models, speed

F64 = torch.float64
quick = settings(deadline=None, max_examples=25)
SEEDS = st.integers(0, 10_000)
SIZES = st.floats(1e-2, 1e2)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def two_layers(seed: int = 0, inputs: int = 6, hidden: int = 5, classes: int = 3) -> nn.Module:
    return models.mlp(inputs, (hidden,), classes, smooth=False, seed=seed).double().eval()


def small_convolutional(seed: int = 0) -> nn.Module:
    """Convolution, norm, ELU, both pools, linear: with statistics that are not 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ELU(), nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.double().eval()


SHAPE = (2, 8, 8)


# --- spectral norms -----------------------------------------------------------------------------


def dense(weight: torch.Tensor, size: tuple[int, int], **settings) -> torch.Tensor:
    """The matrix of a convolution, column by column, padding and all."""
    inputs = weight.shape[1] * size[0] * size[1]
    units = torch.eye(inputs, dtype=F64).view(inputs, weight.shape[1], *size)
    return F.conv2d(units, weight, **settings).flatten(1).T


@quick
@given(
    SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),
    st.integers(0, 2), st.integers(1, 2), st.sampled_from([(5, 5), (6, 9)]),
)  # fmt: skip
def test_the_bracket_holds_the_norm_of_the_matrix(
    seed, outputs, inputs, kernel, stride, padding, dilation, size
):
    weight = draw(outputs, inputs, kernel, kernel, seed=seed)
    both = {"stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (dilation,) * 2}
    exact = float(torch.linalg.matrix_norm(dense(weight, size, **both), ord=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectral_norms, "_DENSE", 0)  # else it would be written out here, too
        found = spectral_norms.of_convolution(weight, size, **both)
    assert found.lower <= exact <= found.upper
    assert found.lower >= 0.95 * exact
    written = spectral_norms.of_convolution(weight, size, **both)
    assert written.lower <= exact <= written.upper == pytest.approx(exact, rel=1e-8)


def test_the_certificate_is_close_on_a_layer_of_usual_size():
    found = spectral_norms.of_convolution(draw(16, 8, 3, 3), (16, 16), padding=(1, 1))
    assert found.lower <= found.upper < 1.1 * found.lower


def test_a_torus_that_is_too_small_would_be_no_certificate():
    """What the padding is for: the norm of the layer on a torus of its own size can be too low."""
    weight = torch.tensor([1.0, 1.0], dtype=F64).view(1, 1, 1, 2)
    too_small = spectral_norms._circular(weight * torch.tensor([1.0, -1.0]), (1, 3), (1, 1))
    exact = float(torch.linalg.matrix_norm(dense(weight * torch.tensor([1.0, -1.0]), (1, 3),
                                                 padding=(0, 1)), ord=2))  # fmt: skip
    assert too_small < exact
    assert exact <= spectral_norms._circular(weight * torch.tensor([1.0, -1.0]), (1, 4), (1, 1))


def test_norms_refuse_what_is_no_layer():
    with pytest.raises(ValueError, match=r"\[O, C, h, w\]"):
        spectral_norms.of_convolution(draw(3, 3), (4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        spectral_norms.of_convolution(draw(1, 1, 5, 5), (4, 4))
    with pytest.raises(ValueError, match="a matrix"):
        spectral_norms.of_matrix(draw(3))


# --- the chain ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (small_convolutional(), SHAPE),
        (models.small_cnn(5, width=4).eval(), (3, 16, 16)),
        (models.small_vgg(4, size=16).eval(), (3, 16, 16)),
        (models.mlp(12, (7, 6), 3).eval(), (3, 2, 2)),
    ],
)
def test_the_stages_compute_what_the_network_computes(model, shape):
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    wanted = speed.fold_batchnorm(model.double())(images)
    z = images
    for stage in chain(model, shape):
        z = stage(z.flatten(1) if stage.affine.weight.ndim == 2 else z)
    torch.testing.assert_close(z, wanted, rtol=1e-9, atol=1e-9)


def test_what_is_no_chain_is_refused_by_name():
    with pytest.raises(TypeError, match="shortcuts"):
        chain(models.resnet18().eval(), (3, 32, 32))
    with pytest.raises(TypeError, match="GroupNorm"):
        chain(nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4)).eval(), SHAPE)
    with pytest.raises(TypeError, match="right after a convolution"):
        chain(nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval(), SHAPE)
    with pytest.raises(TypeError, match="one group"):
        chain(nn.Sequential(nn.Conv2d(2, 4, 1, groups=2)).eval(), SHAPE)
    with pytest.raises(ValueError, match="evaluation mode"):
        chain(small_convolutional().train(), SHAPE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(), nn.ELU(alpha=1.7), nn.LeakyReLU(-1.5), nn.Softplus(beta=3), nn.Tanh(),
        nn.Sigmoid(), nn.MaxPool2d(2), nn.MaxPool2d(3, 1, padding=1), nn.MaxPool2d(3, 2),
        nn.AvgPool2d(2), nn.AvgPool2d(3, 1, padding=1), nn.AdaptiveAvgPool2d(3),
    ],
)  # fmt: skip
def test_lipschitz_constants_hold_and_are_nearly_attained(layer):
    """A pool attains its constant where windows share a pixel; ascent finds such a pair."""
    layer = layer.double().eval()
    constant = lipschitz(layer, (1, 7, 7))
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(200, 1, 7, 7, generator=generator, dtype=F64)
    point[0, 0, 3, 3] = 50.0  # one pixel above all others: every window that sees it answers
    step = 1e-4 * torch.randn(200, 1, 7, 7, generator=generator, dtype=F64)
    step[0] = 0
    step[0, 0, 3, 3] = 1e-4
    for _ in range(60):  # power iteration on the Jacobian at these points
        _, pull = torch.func.vjp(layer, point)
        tangent = torch.func.jvp(layer, (point,), (step,))[1]
        step = pull(tangent)[0]
        step = step / step.flatten(1).norm(dim=1).clamp_min(1e-300)[:, None, None, None]
    gains = torch.func.jvp(layer, (point,), (step,))[1].flatten(1).norm(dim=1)
    assert float(gains.max()) <= constant * (1 + 1e-9)
    assert float(gains.max()) >= 0.9 * constant
    finite = (layer(point) - layer(point.flip(0))).flatten(1).norm(dim=1)
    assert bool((finite <= constant * (point - point.flip(0)).flatten(1).norm(dim=1) + 1e-9).all())


def test_an_unknown_layer_is_refused():
    with pytest.raises(TypeError, match="no Lipschitz constant is known for Softmax"):
        lipschitz(nn.Softmax(1), (3,))


# --- what the proof says of activations ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_activations_and_differences_stay_under_their_bounds(seed):
    model = small_convolutional(seed)
    found = networks.constants(model, SHAPE)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(50, *SHAPE, generator=generator, dtype=F64)
    delta = torch.randn(1, *SHAPE, generator=generator, dtype=F64)
    delta = 0.7 * delta / delta.norm()
    chi = float((images - 0.5).flatten(1).norm(dim=1).max())
    growth, z = 1.0, images + delta
    for stage, layer in zip(chain(model, SHAPE), found.layers):
        growth *= layer.gain
        z = stage(z.flatten(1) if stage.affine.weight.ndim == 2 else z)
        bound = growth * (chi + 0.7) + layer.anchor
        assert float(z.flatten(1).norm(dim=1).max()) <= bound
    with torch.no_grad():
        moved = (model(images + delta) - model(images)).norm(dim=1)
    assert float(moved.max()) <= found.product * 0.7 * (1 + 1e-9)


def test_a_spectral_norm_that_is_too_small_is_caught_by_that_check():
    model = small_convolutional()
    found = networks.constants(model, SHAPE)
    broken = [replace(layer, norm=spectral_norms.SpectralNorm(0, layer.norm.upper / 10))
              for layer in found.layers]  # fmt: skip
    product = replace(found, layers=tuple(broken)).product
    x = torch.full((1, *SHAPE), 0.5, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(3, -1)
    steepest = float(torch.linalg.matrix_norm(jacobian, ord=2))
    assert product < steepest <= found.product


def test_distances_are_those_of_the_folded_kernels():
    one, other = small_convolutional(0), small_convolutional(1)
    found = networks.constants(one, SHAPE, reference=other)
    first, second = (chain(model, SHAPE) for model in (one, other))
    kernels = first[0].affine.weight - second[0].affine.weight
    wanted = 3 * sum(float(kernel.norm()) for kernel in kernels)  # 3×3, stride 1: κ = 9
    assert found.layers[0].distance == pytest.approx(wanted)
    strided = first[1].affine.weight - second[1].affine.weight
    wanted = 2 * sum(float(kernel.norm()) for kernel in strided)  # stride 2: ⌈3/2⌉² = 4
    assert found.layers[1].distance == pytest.approx(wanted)
    biases = (first[0].affine.bias - second[0].affine.bias).abs().sum()
    assert found.layers[0].bias_distance == pytest.approx(8 * float(biases))  # √64 positions
    last = (one[-1].weight - other[-1].weight).norm(dim=1).sum()
    assert found.layers[2].distance == pytest.approx(float(last))


def test_patches_hold_no_more_than_the_reuse_says():
    """Σ_τ ‖Y_τ‖² ≤ κ‖Z‖²: the step of the proof that shares the weights."""
    for stage in chain(small_convolutional(), SHAPE)[:2]:
        a = stage.affine
        z = draw(4, a.weight.shape[1], *a.size)
        patches = F.unfold(z, a.weight.shape[2:], a.dilation, a.padding, a.stride)
        assert float(patches.square().sum()) <= a.reuse * float(z.square().sum())
        assert patches.shape[2] == a.positions


# --- covering numbers and chaining --------------------------------------------------------------


@pytest.mark.parametrize(("count", "samples"), [(3, 1), (3, 2), (4, 3), (2, 4)])
def test_shrunken_averages_of_k_vertices_cover_within_a_over_one_plus_root_k(count, samples):
    """The lemma of the page, exhaustively: all (2p)^k averages, and many points of the hull."""
    generator = torch.Generator().manual_seed(1)
    vertices = torch.randn(count, 5, generator=generator, dtype=F64)
    vertices = vertices / vertices.norm(dim=1, keepdim=True)
    signed = torch.cat([vertices, -vertices])
    shrink = math.sqrt(samples) / (1 + math.sqrt(samples))
    averages = torch.stack(
        [
            signed[list(chosen)].mean(0)
            for chosen in itertools.product(range(2 * count), repeat=samples)
        ]
    )
    weights = torch.rand(400, 2 * count, generator=generator, dtype=F64) ** 4
    points = torch.cat([weights / weights.sum(1, keepdim=True) @ signed, signed, 0 * signed[:1]])
    distances = torch.cdist(points, shrink * averages).amin(1)
    assert float(distances.max()) <= 1 / (1 + math.sqrt(samples)) + 1e-12
    # k samples give (2p)^k balls, and the entropy that the library claims allows for no fewer.
    radius = 1 / (1 + math.sqrt(samples))
    assert samples * math.log(2 * count) <= covering.maurey_entropy(1.0, radius, count) + 1e-12


@quick
@given(st.lists(SIZES, min_size=1, max_size=5), SIZES)
def test_the_radii_are_shared_in_the_best_way(alphas, tau):
    """A²/τ² is the value at the optimal split, and no random split does better."""
    value = covering.combined(alphas) ** 2 / tau**2
    share = torch.tensor(alphas, dtype=F64) ** (2 / 3)
    best = tau * share / share.sum()
    split = (torch.tensor(alphas, dtype=F64) / best).square().sum()
    assert float(split) == pytest.approx(value, rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    others = torch.rand(200, len(alphas), generator=generator, dtype=F64) + 1e-3
    others = tau * others / others.sum(1, keepdim=True)
    assert float((torch.tensor(alphas, dtype=F64) / others).square().sum(1).min()) >= value * (
        1 - 1e-9
    )


def test_chaining_is_above_the_complexity_of_a_set_that_is_known():
    """G = {clip(½ + w·x, 0, 1)} in three dimensions: its Rademacher complexity by brute force."""
    n, radius = 4000, 0.4
    x = draw(n, 3)
    x = x / x.norm(dim=1, keepdim=True)
    signs = draw(20, n, seed=1).sign()
    exact = radius * float((signs @ x).norm(dim=1).mean()) / n  # no clipping: |w·x| ≤ 0.4

    def entropy(u: float) -> float:
        return covering.volume_entropy(radius, u, 3)

    found = covering.chaining(entropy, n)
    assert exact <= found < 0.5
    by_maurey = covering.chaining(lambda u: covering.maurey_entropy(3**0.5 * radius, u, 3), n)
    assert exact <= by_maurey < 0.5


def test_chaining_shrinks_with_n_and_knows_when_it_says_nothing():
    values = [covering.chaining(lambda u: (0.3 / u) ** 2, n) for n in (10, 10**3, 10**5, 10**7)]
    assert values[0] == 0.5
    assert all(later < before for before, later in itertools.pairwise(values))
    # Up to the logarithm, 1/√n: a hundred times the images, a tenth of the complexity.
    assert 0.1 < values[3] / values[2] < 0.2
    assert covering.chaining(lambda u: 0.0, 5) < 1e-9


# --- the bound ----------------------------------------------------------------------------------


@quick
@given(SEEDS, SIZES, st.floats(0, 10), SIZES)
def test_the_bound_moves_in_the_right_direction(seed, chi, c_delta, gamma):
    found = networks.constants(two_layers(seed), (6,))
    a = networks.capacity(found, chi, c_delta)
    assert networks.capacity(found, 1.5 * chi, c_delta).total > a.total
    assert networks.capacity(found, chi, c_delta + 0.1).total > a.total
    for number, field in itertools.product((0, 1), ("distance", "bias_distance", "lipschitz")):
        layers = list(found.layers)
        layers[number] = replace(
            layers[number], **{field: 1.1 * getattr(layers[number], field) + 1e-3}
        )
        assert networks.capacity(replace(found, layers=tuple(layers)), chi, c_delta).total > a.total
    for n, better in ((10**4, 10**5), (10**8, 10**9)):
        assert networks.complexity(a, gamma, better) <= networks.complexity(a, gamma, n)
        assert networks.complexity(a, 2 * gamma, n) <= networks.complexity(a, gamma, n)
    assert networks.complexity(a, gamma, 1) == 1.0


@quick
@given(SEEDS, SIZES)
def test_the_complexity_depends_on_a_over_gamma_root_n_alone(seed, gamma):
    a = networks.capacity(networks.constants(two_layers(seed), (6,)), 1.0, 1.0)
    big = replace(
        a,
        delta=4 * a.delta,
        weights=tuple(4 * term for term in a.weights),
        biases=tuple(4 * term for term in a.biases),
        product=4 * a.product,
    )
    n = int((100 * a.total / gamma) ** 2) + 1
    value = networks.complexity(a, gamma, n)
    assert networks.complexity(big, 4 * gamma, n) == pytest.approx(value, rel=1e-9)
    # H(u) = 2A²/(γu)² stands under the root with 1/n.
    layer_only = 2 * covering.chaining(lambda u: 2 * (a.total / (gamma * u)) ** 2, n)
    more = 2 * covering.chaining(lambda u: 2 * (2 * a.total / (gamma * u)) ** 2, 4 * n)
    assert more == pytest.approx(layer_only, rel=1e-9)
    # The closed form of the page.
    e = a.total / (gamma * math.sqrt(n))
    assert value <= e * (19.4 + 14.4 * math.log(1 / e))


@quick
@given(SEEDS, st.floats(0.05, 20))
def test_rescaling_two_layers_against_each_other_changes_nothing(seed, c):
    """f = W₂ relu(W₁x + b₁) is positively homogeneous in its hidden units: so is the bound."""
    model, scaled = two_layers(seed), two_layers(seed)
    with torch.no_grad():
        scaled[1].weight.mul_(c)
        scaled[1].bias.mul_(c)
        scaled[3].weight.div_(c)
    a, b = (networks.capacity(networks.constants(m, (6,)), 1.0, 0.5) for m in (model, scaled))
    assert b.total == pytest.approx(a.total, rel=1e-6)
    assert b.weights == pytest.approx(a.weights, rel=1e-6)


def test_a_reference_that_is_not_rescaled_with_the_network_breaks_the_symmetry():
    measured = []
    for c in (0.2, 1.0, 5.0):
        scaled = two_layers()
        with torch.no_grad():
            scaled[1].weight.mul_(c)
            scaled[1].bias.mul_(c)
            scaled[3].weight.div_(c)
        found = networks.constants(scaled, (6,), reference=two_layers(1))
        measured.append(networks.capacity(found, 1.0, 0.5).total)
    assert min(measured[0], measured[2]) > 1.1 * measured[1]


def test_the_order_of_hidden_units_and_of_channels_does_not_matter():
    model, permuted = small_convolutional(), small_convolutional()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for tensor in (permuted[0].weight, permuted[0].bias, permuted[1].weight, permuted[1].bias,
                       permuted[1].running_mean, permuted[1].running_var):  # fmt: skip
            tensor.copy_(tensor[order])
        permuted[4].weight.copy_(permuted[4].weight[:, order])
    a, b = (networks.capacity(networks.constants(m, SHAPE), 1.0, 0.5) for m in (model, permuted))
    assert b.total == pytest.approx(a.total, rel=1e-6)


def test_a_network_that_did_not_move_pays_for_delta_only():
    model = two_layers()
    a = networks.capacity(networks.constants(model, (6,), reference=model), 1.0, 0.5)
    assert a.network == 0
    assert a.total == pytest.approx(a.delta)
    still = networks.capacity(networks.constants(model, (6,), reference=model), 1.0, 0.0)
    assert networks.complexity(still, 1.0, 10) < 1e-9  # one function: nothing was chosen
    by_volume = networks.complexity(a, 1.0, 10**4)
    as_layer = 2 * covering.chaining(lambda u: 2 * (a.total / u) ** 2, 10**4)
    assert by_volume < as_layer


def test_a_reference_that_has_seen_the_sample_breaks_the_bound():
    """Broken on purpose: labels learnt by heart, and distances measured from what was learnt."""
    shape, n = (1, 20, 20), 300
    x = draw(2 * n, *shape) / 20  # more pixels than images: any labels can be fitted
    y = torch.randint(10, (2 * n,), generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 10, bias=False)).double().eval()
    with torch.no_grad():
        wanted = F.one_hot(y[:n], 10).to(F64)
        model[1].weight.copy_((torch.linalg.pinv(x[:n].flatten(1)) @ wanted).T)
        margin = margins(model(x), y)
    assert float(margin[:n].min()) > 0.99  # by heart
    truth = float(margin_error(margin[n:]))

    def bound(reference: nn.Module | None) -> float:
        found = networks.constants(model, shape, reference=reference, anchor=0.0)
        return networks.choose_margin(
            found, margin[:n], chi=2.0, c_delta=0.0, gammas=[0.9]
        ).bound.total

    assert bound(model) < 0.5 < 0.8 < truth  # the reference depends on the sample: no theorem
    assert bound(None) > truth  # from zero: true, and empty


def test_rounding_goes_up_and_its_price_is_that_of_the_weights():
    found = networks.constants(two_layers(), (6,))
    safe, price = networks.rounded(found, ratio=1.5)
    expected = 0.0
    for layer, up in zip(found.layers, safe.layers):
        pairs = [(layer.norm.upper, up.norm.upper), (layer.distance, up.distance)]
        pairs.append((layer.bias_distance, up.bias_distance))
        if layer is not found.layers[-1]:
            pairs.append((layer.anchor, up.anchor))
        for value, above in pairs:
            assert value <= above <= 1.5 * value * (1 + 1e-9)
            m = round(math.log(above, 1.5))
            expected += math.log(3 * (1 + abs(m)) * (2 + abs(m)) / 2)
    assert price == pytest.approx(expected)
    weights = sum(networks._weight(m) for m in range(-(10**5), 10**5 + 1))
    assert weights == pytest.approx(1, abs=1e-4)
    assert networks.rounded(networks.rounded(found, 1.5)[0], 1.5)[0] == safe


def test_the_chosen_bound_is_one_of_the_grid_and_honest_about_being_empty():
    found = networks.constants(two_layers(), (6,))
    margin = draw(50).abs() + 1
    choice = networks.choose_margin(found, margin, chi=1.3, c_delta=0.5, gammas=[0.7])
    assert choice.bound.vacuous
    assert choice.bound.complexity == 1.0
    m = math.floor(math.log2(0.7) * 8)
    _, price = networks.rounded(found)
    weight = math.log(3 * (1 + abs(m)) * (2 + abs(m)) / 2)
    assert choice.bound.confidence == pytest.approx(
        math.sqrt((math.log(20) + price + weight) / 100)
    )
    many = margin.repeat(10**4)
    better = networks.choose_margin(found, many, chi=1.3, c_delta=0.5)
    assert better.bound.complexity < 1.0


# --- rank correlation ---------------------------------------------------------------------------


@quick
@given(SEEDS, st.integers(2, 9))
def test_kendall_counts_pairs(seed, n):
    x, y = draw(n, seed=seed), draw(n, seed=seed + 1)
    agree = sum(
        1 if (x[i] - x[j]) * (y[i] - y[j]) > 0 else -1
        for i, j in itertools.combinations(range(n), 2)
    )
    assert kendall(x, y) == pytest.approx(agree / math.comb(n, 2))
    assert kendall(x, x.exp()) == 1
    assert kendall(x, -x) == -1
    assert kendall(x, y) == pytest.approx(kendall(y, x))
