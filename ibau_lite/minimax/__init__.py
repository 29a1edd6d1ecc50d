"""The minimax problem of the talk, min_θ max_{‖δ‖ ≤ C_δ} H(δ, θ), and its inner half.

H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ) is a `Risk`; {δ : ‖δ‖ ≤ C_δ} is a `Ball`; an `Ascent` goes
looking for the maximiser δ(θ). H has several hills: `Scouted` climbs on parts of the images first,
`Aimed` toward each class, `AimedUnion` toward the most suspicious in several sets, one of which may
be no class in particular (`Scattering`). What is done
with the answer is up to `ibau_lite.hypergrad`.
"""

from ibau_lite.minimax.aimed import Aimed
from ibau_lite.minimax.aimed_union import AimedUnion
from ibau_lite.minimax.ascent import Ascent, Maximum, Region
from ibau_lite.minimax.ball import Ball
from ibau_lite.minimax.one_pass import OnePass
from ibau_lite.minimax.risk import Risk
from ibau_lite.minimax.scattering import Scattering
from ibau_lite.minimax.scouted import Scouted
from ibau_lite.minimax.sparse import SparseBall
from ibau_lite.minimax.subspaces import Blocks, Subspace, Window, Within

__all__ = [
    "Aimed",
    "AimedUnion",
    "Ascent",
    "Ball",
    "Blocks",
    "Maximum",
    "OnePass",
    "Region",
    "Risk",
    "Scattering",
    "Scouted",
    "Search",
    "SparseBall",
    "Subspace",
    "Window",
    "Within",
]

Search = Ascent | Scouted | Aimed | AimedUnion | OnePass
"""What looks for the worst δ: `search(risk, theta, ball, start=None) -> Maximum`, or several."""
