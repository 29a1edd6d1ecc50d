"""Networks whose operations lack a second derivative: done another way, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, ibau
from ibau_lite.hypergrad import (
    ascent_step,
    gauss_newton,
    hypergradient,
    inverse_hvp,
    response_jacobian,
    response_jvp,
    response_vjp,
    spectrum,
    unrolled_hypergradient,
)
from ibau_lite.second_derivatives import refuse_without_one
from ibau_lite.solvers import ConjugateGradient

EXACT = ConjugateGradient(max_iter=60, tol=1e-12)


class Block(nn.Module):
    """Attention of a transformer: PyTorch's own module, or the bare function."""

    def __init__(self, bare: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.bare = bare

    def forward(self, tokens):
        if not self.bare:
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]
        mixed = nn.functional.linear(tokens, self.attention.in_proj_weight).unflatten(2, (3, 2, 2))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(query, key, value).flatten(1)


def problem(network, images):
    """(inner, delta, theta): the loss of a network, strongly concave in δ by a penalty."""
    theta = {name: p.detach() for name, p in network.named_parameters()}

    def inner(delta, theta):
        outputs = functional_call(network, theta, (images + delta,))
        return outputs.pow(4).mean() - 2 * (delta * delta).sum() + 0.1 * delta.sum()

    return inner, 0.1 * torch.rand(images.shape[1:], dtype=images.dtype), theta


def attention(bare):
    torch.manual_seed(0)
    return problem(Block(bare).double().eval(), torch.rand(3, 2, 4).double())


ENTRANCES = {
    "hypergradient": lambda h, d, t: hypergradient(h, h, d, t, solver=EXACT),
    "another outer": lambda h, d, t: hypergradient(
        lambda d, t: h(d, t) ** 2, h, d, t, solver=EXACT
    ),
    "inverse_hvp": lambda h, d, t: inverse_hvp(h, d, t, d, solver=EXACT),
    "response_jacobian": response_jacobian,
    "response_vjp": lambda h, d, t: response_vjp(h, d, t, d, solver=EXACT),
    "response_jvp": lambda h, d, t: response_jvp(h, d, t, t, solver=EXACT),
    "unrolled": lambda h, d, t: unrolled_hypergradient(h, ascent_step(h, 0.1), d, t, steps=3),
    "spectrum": lambda h, d, t: spectrum(h, d, t, steps=3),
}


@pytest.mark.parametrize("bare", [False, True])
def test_fused_attention_is_differentiated_twice(bare):
    """Every entrance, against central differences of first derivatives (which fused kernels have).

    The Hessian A and the mixed derivatives B of the differences give what each should be.
    """
    inner, delta, theta = attention(bare)
    step, d = 1e-5, delta.numel()
    eye = torch.eye(d).double().reshape(d, *delta.shape)

    def slopes(at, which):
        point, leaf = at.clone().requires_grad_(), {n: p.requires_grad_() for n, p in theta.items()}
        wanted = [point] if which == "delta" else list(leaf.values())
        return torch.autograd.grad(inner(point, leaf), wanted, materialize_grads=True)

    def rows(which):
        pairs = [(slopes(delta + step * e, which), slopes(delta - step * e, which)) for e in eye]
        flat = [torch.cat([(a - b).flatten() for a, b in zip(*pair)]) for pair in pairs]
        return torch.stack(flat) / (2 * step)

    hessian, mixed = rows("delta"), rows("theta")  # A [d, d], Bᵀ [d, p]
    g, direct = (torch.cat([s.flatten() for s in slopes(delta, w)]) for w in ("delta", "theta"))
    theta = {name: p.detach() for name, p in theta.items()}
    t = torch.cat([p.flatten() for p in theta.values()])
    jacobian = -torch.linalg.solve(hessian, mixed)

    def near(found, wanted):
        torch.testing.assert_close(found.flatten(), wanted.flatten(), rtol=1e-5, atol=1e-8)

    def flat(named):
        return torch.cat([value.flatten() for value in named.values()])

    found = {name: entrance(inner, delta, theta) for name, entrance in ENTRANCES.items()}
    near(flat(found["hypergradient"].total), direct + jacobian.T @ g)
    scale = 2 * inner(delta, theta)
    near(flat(found["another outer"].total), scale * (direct + jacobian.T @ g))
    near(found["inverse_hvp"].x, torch.linalg.solve(hessian, delta.flatten()))
    dense = torch.cat([j.reshape(d, -1) for j in found["response_jacobian"].values()], 1)
    near(dense, jacobian)
    near(flat(found["response_vjp"][0]), jacobian.T @ delta.flatten())
    near(found["response_jvp"][0], jacobian @ t)
    low = torch.linalg.eigvalsh(hessian)[0]
    near(torch.tensor(spectrum(inner, delta, theta, steps=d).minimum).double(), low)


def test_unrolling_through_attention_is_the_derivative_of_the_steps():
    """Against central differences in a direction of θ."""
    inner, delta, theta = attention(False)

    def last(theta):
        d = delta
        for _ in range(3):
            d = ascent_step(inner, 0.1)(d, theta).detach()
        return inner(d, theta)

    along = {name: torch.randn_like(p) for name, p in theta.items()}
    moved = [{n: p + s * along[n] for n, p in theta.items()} for s in (1e-5, -1e-5)]
    wanted = (last(moved[0]) - last(moved[1])) / 2e-5
    total = ENTRANCES["unrolled"](inner, delta, theta).total
    found = torch.stack([(total[n] * along[n]).sum() for n in theta]).sum()
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_operation_without_a_second_derivative_is_named(entrance):
    inner, delta, theta = problem(
        nn.Sequential(nn.Linear(4, 4), nn.Hardsigmoid()).double(), torch.rand(3, 2, 4).double()
    )
    with pytest.raises(ValueError, match=r"hardsigmoid has no second.*\(x / 6 \+ 0.5\).clamp"):
        ENTRANCES[entrance](inner, delta, theta)


def test_what_is_advised_for_hardsigmoid_is_hardsigmoid():
    x = torch.linspace(-5, 5, 101).double()
    torch.testing.assert_close((x / 6 + 0.5).clamp(0, 1), nn.functional.hardsigmoid(x))


def test_hardswish_has_a_second_derivative():
    """Against central differences of the gradient, away from its kinks at -3 and 3."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Hardswish()).double()
    inner, delta, theta = problem(network, torch.rand(3, 2, 4).double())
    gradient = torch.func.grad(inner)
    v = torch.rand_like(delta)
    wanted = (gradient(delta + 1e-5 * v, theta) - gradient(delta - 1e-5 * v, theta)) / 2e-5
    solved = inverse_hvp(inner, delta, theta, wanted, solver=EXACT)
    torch.testing.assert_close(solved.x, v, rtol=1e-6, atol=1e-8)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_function_that_is_differentiable_once_is_no_zero(entrance):
    """Autograd gives zeros for its second derivative where zeros are asked for what is unused."""

    def inner(delta, theta):
        return (theta["w"] * Once.apply(delta)).sum()

    theta, delta = {"w": torch.rand(3).double()}, torch.rand(3).double()
    with pytest.raises(ValueError, match="Once .*once_differentiable.* has no second"):
        ENTRANCES[entrance](inner, delta, theta)


def test_an_outer_function_may_be_differentiable_once():
    inner, delta, theta = attention(False)
    found = hypergradient(lambda d, t: Once.apply(d).sum(), inner, delta, theta, solver=EXACT)
    wanted = hypergradient(lambda d, t: (d**3).sum(), inner, delta, theta, solver=EXACT)
    torch.testing.assert_close(found.total, wanted.total)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            "torch.compile with aot_autograd does not currently support double backward",
            "torch.compile has no.*_orig_mod",
        ),
        ("double backwards on roi_align not supported", "roi_align has no"),
        ("the derivative for '_cdist_backward' is not implemented.", "cdist has no.*compute_mode"),
        ("the derivative for '_pdist_backward' is not implemented.", "pdist has no.*replace it"),
        ("derivative for aten::_cudnn_rnn_backward is not implemented", "cudnn_rnn has.*enabled=F"),
        (
            "Trying to use forward AD with _scaled_dot_product_flash_attention_for_cpu that does "
            "not support it because it has not been implemented yet.",
            "scaled_dot_product_flash_attention_for_cpu has no",
        ),
    ],
)
def test_errors_of_other_machines_and_versions(words, named):
    """In PyTorch's words: a GPU or a compiler is not everywhere; 2.15 has that of cdist."""
    with pytest.raises(ValueError, match=named):
        refuse_without_one(RuntimeError(words))


def test_other_errors_stay_what_they_are():
    def inner(delta, theta):
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        response_jacobian(inner, torch.zeros(2), {"w": torch.zeros(2)})


def test_gauss_newton_of_attention():
    """J is linear in its vector: G v = Jᵀ J v for half the squared outputs."""
    torch.manual_seed(0)
    network = Block(False).double().eval()
    theta = {name: p.detach() for name, p in network.named_parameters()}
    tokens, delta = torch.rand(3, 2, 4).double(), torch.zeros(2, 4).double()

    def outputs(delta, theta):
        return functional_call(network, theta, (tokens + delta,))

    v = torch.rand_like(delta)
    along = (outputs(1e-5 * v, theta) - outputs(-1e-5 * v, theta)) / 2e-5
    point = delta.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(outputs(point, theta), point, along)
    for trace in (False, True):
        product = gauss_newton(outputs, lambda z: 0.5 * z.pow(2).sum(), delta, theta, trace=trace)
        torch.testing.assert_close(product(v), wanted, rtol=1e-6, atol=1e-9)


class Patches(nn.Module):
    """A tiny vision transformer: 4×4 patches, one block, the mean of its tokens."""

    def __init__(self, gate):
        super().__init__()
        self.embed, self.block = nn.Conv2d(1, 8, 4, 4), Block(False)
        self.block.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head, self.gate = nn.Linear(8, 3), gate

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.head(self.gate(tokens + self.block(tokens)).mean(1))


def test_ibau_takes_a_vision_transformer_and_names_what_it_cannot():
    torch.manual_seed(0)
    clean = LabelledImages(torch.rand(30, 1, 8, 8), torch.arange(30) % 3)
    quick = IBAU(rounds=1)
    ibau(Patches(nn.Identity()), clean, config=quick)
    with pytest.raises(ValueError, match="hardsigmoid has no second"):
        ibau(Patches(nn.Hardsigmoid()), clean, config=quick)
