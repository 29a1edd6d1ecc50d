"""T1 without assumption 4: a Hessian that is continuous, but not Lipschitz.

H = −δ²/2 − |δ|^(5/2) + δθ at θ = 0 has its maximum at δ(θ) = 0, and ∇₁²H = −1 − (15/4)|δ|^(1/2).
With F = δ the gradient is 1 / (1 + (15/4)|δ|^(1/2)): at δ(θ) it is 1, and at δ̃ = e it is wrong by
about (15/4) e^(1/2), so that error / |e| grows as e^(−1/2): no constant bounds it.
"""

from ibau_lab.projects.theorem import Problem


def counterexample(k):
    """The error of δ̃ is 4^(−k)."""
    return Problem(
        H=lambda delta, theta: -(delta**2) / 2 - delta.abs() ** 2.5 + delta * theta,
        F=lambda delta, theta: delta,
        theta=0.0,
        delta_tilde=4.0**-k,
        U=(-0.3, 0.3),
        radius=1.0,
        dropped=4,
        constants={"mu_H": 1.0, "L_H": 4.0, "eta_1": 0.0, "eta_2": 0.0, "L_21": 1.0, "M": 1.0},
    )
