"""Wrong: F = |δ| has no Lipschitz gradient, but it is not even differentiable.

Assumption 3 is dropped here, and assumption 1 is violated as well.
"""

from ibau_lab.projects.theorem import Problem


def counterexample(k):
    """The gradient of F jumps at δ(θ) = 0."""
    return Problem(
        H=lambda delta, theta: -(delta**2) / 2 + delta * theta,
        F=lambda delta, theta: delta.abs(),
        theta=0.0,
        delta_tilde=4.0**-k,
        U=(-0.5, 0.5),
        radius=1.0,
        dropped=3,
        constants={"mu_H": 1.0, "L_H": 1.0, "rho_1": 0.0, "rho_2": 0.0, "L_21": 1.0, "M": 0.0},
    )
