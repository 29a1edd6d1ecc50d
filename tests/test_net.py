"""The numbers of before the move of the pure rooms. This file goes when the move is done."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from ibau_lite import hypergrad as hg
from ibau_lite import minimax as mm
from ibau_lite import sets as st
from ibau_lite import solvers as sv
from ibau_lite.data import Labelled
from ibau_lite.defenses import IBAUConfig, ibau, naive
from ibau_lite.models import small_cnn

STORE = Path(__file__).with_name("net.json")
BALLS = {"l2": st.L2Ball(0.5), "linf": st.LinfBall(0.1), "l1": st.L1Ball(2.0)}
BALLS |= {
    "window": st.Within(st.L2Ball(0.5), st.Window(1, 1, 3)),
    "blocks": st.Within(st.L2Ball(0.5), st.Blocks(2)),
}
TANGENTS = {"none": None, "sphere": st.Sphere(), **BALLS}
SOLVERS = {
    "fixed": sv.FixedPoint(step=0.1, max_iter=5),
    "fixed_bare": sv.FixedPoint(step=0.1, max_iter=5, certify=False),
    "cg": sv.ConjugateGradient(max_iter=4),
    "cg_tol": sv.ConjugateGradient(max_iter=40, tol=1e-5, damping=0.1),
    "minres": sv.MINRES(max_iter=5),
    "minres_tol": sv.MINRES(max_iter=50, tol=1e-4),
}
SEARCHES = {
    "ascent": mm.Ascent(4), "momentum": mm.Ascent(4, momentum=0.5, starts=2),
    "scouted": mm.Scouted(mm.Ascent(3)), "aimed": mm.Aimed(mm.Ascent(3), images=4),
    "union": mm.AimedUnion(mm.Ascent(3), images=4, scouts=st.L1Ball(2.0), patch=1.0),
    "one_pass": mm.OnePass(1.0, batch_size=4),
}  # fmt: skip


def told(*tensors):
    out = []
    for t in tensors:
        for part in t.values() if isinstance(t, dict) else [t]:
            flat = torch.as_tensor(part).detach().double().reshape(-1)
            out += [*flat[:4].tolist(), float(flat.norm())]
    return out


def world(dtype):
    gen = torch.Generator().manual_seed(3)
    torch.manual_seed(5)
    model = small_cnn(4, in_channels=1, width=4).to(dtype).eval()
    images = torch.rand(12, 1, 8, 8, generator=gen).to(dtype)
    labels = torch.arange(12) % 4
    theta = dict(model.named_parameters())
    delta = 0.2 * torch.randn(1, 8, 8, generator=gen, dtype=torch.float64).to(dtype)
    return model, images, labels, theta, delta


def numbers(dtype):
    warnings.simplefilter("ignore")
    model, images, labels, theta, delta = world(dtype)
    risk, part = mm.Risk(model, images, labels), mm.Risk(model, images[:5], labels[:5], 0.5)
    out = {}
    gen = torch.Generator().manual_seed(0)
    root = torch.randn(9, 9, generator=gen, dtype=torch.float64).to(dtype)
    matrix, b = root @ root.T / 9 + torch.eye(9, dtype=dtype), root[0]
    for name, solver in SOLVERS.items():
        s = solver(lambda v: matrix @ v, b)
        out[f"solver {name}"] = told(s.x, s.residuals, s.iterations, s.converged)
    out["nystrom"] = told(sv.nystrom(lambda v: matrix @ v, 9, 4, dtype=dtype).values)
    out["lanczos"] = told(sv.lanczos(lambda v: matrix @ v, 9, 4, dtype=dtype).values)
    for name, ball in BALLS.items():
        out[f"set {name}"] = told(
            ball.project(delta), ball.lmo(delta), ball.norm(delta), ball.dual_norm(delta)
        )
        at = ball.project(3 * delta)
        for kind in ("cg", "minres", "fixed_bare"):
            for key in (name, "none"):
                h = hg.hypergradient(
                    risk, part, at, theta, solver=SOLVERS[kind], constraint=TANGENTS[key]
                )
                out[f"hyper {name} {kind} {key}"] = told(h.direct, h.indirect, h.total, h.residual)
    at = BALLS["l2"].project(3 * delta)
    for options in ({"sense": "min"}, {"certify": False}, {"constraint": st.Sphere()}):
        for inner in (risk, part):
            h = hg.hypergradient(risk, inner, at, theta, solver=SOLVERS["minres"], **options)
            out[f"hyper {sorted(options)} {inner is risk}"] = told(h.total, h.indirect)
    h = hg.hypergradient(risk, part, at, theta, solver=None)
    out["naive term"] = told(h.total, h.value)
    step = hg.ascent_step(part, 0.1)
    h = hg.unrolled_hypergradient(risk, step, at, theta, steps=4, truncate=3)
    out["unrolled"] = told(h.total, h.delta)
    out["ihvp"] = told(hg.inverse_hvp(part, at, theta, delta, solver=SOLVERS["minres"]).x)
    out["vjp"] = told(hg.response_vjp(part, at, theta, delta, solver=SOLVERS["cg"])[0])
    tangent = {n: p.detach() for n, p in theta.items()}
    out["jvp"] = told(hg.response_jvp(part, at, theta, tangent, solver=SOLVERS["cg"])[0])
    out["spectrum"] = told(hg.spectrum(part, at, theta, steps=5).values)
    for key in ("none", "l2", "linf"):
        where = BALLS.get(key, BALLS["l2"]).project(3 * delta)
        out[f"jacobian {key}"] = told(
            hg.response_jacobian(part, where, theta, constraint=TANGENTS[key])
        )
    for name, search in SEARCHES.items():
        found = search(risk, theta, BALLS["l2"])
        for j, one in enumerate(found if isinstance(found, tuple) else (found,)):
            out[f"search {name} {j}"] = told(one.delta, one.value, one.values)
    for name, ball in BALLS.items():
        out[f"climb {name}"] = told(mm.Ascent(4)(risk, theta, ball).delta)
    clean = Labelled(images.float(), labels)
    small = {"rounds": 1, "batch_size": 6, "shift": 0}
    recipes = {
        "ibau": IBAUConfig(**small), "anchored": IBAUConfig.anchored(
            **(small | {"outer_images": 24, "inner": SEARCHES["union"]})
        ),
        "released": IBAUConfig.released(**small),
        "exact": IBAUConfig.exact(**small),
    }  # fmt: skip
    for name, config in recipes.items():
        for defence in (ibau, naive):
            done = defence(model, clean, config=config)
            out[f"{defence.__name__} {name}"] = told(dict(done.model.named_parameters()))
    return out


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.filterwarnings("ignore")
def test_the_numbers_are_those_of_before(dtype):
    stored = json.loads(STORE.read_text())[dtype]
    found = numbers(getattr(torch, dtype))
    assert found.keys() == stored.keys()
    # In float32 Adam turns the rounding of a gradient near zero into a step of size lr.
    wrong = []
    for name, want in stored.items():
        got, want = torch.tensor(found[name]), torch.tensor(want)
        loose = 1e-8 if dtype == "float64" else 2e-3
        size = want.abs().max().clamp_min(1e-30)
        if not torch.equal(got.isnan(), want.isnan()) or not bool(
            ((got - want).nan_to_num().abs() <= loose * size).all()
        ):
            wrong.append((name, float((got - want).nan_to_num().abs().max() / size)))
    assert not wrong, wrong


if __name__ == "__main__":
    STORE.write_text(json.dumps({d: numbers(getattr(torch, d)) for d in ("float64", "float32")}))
