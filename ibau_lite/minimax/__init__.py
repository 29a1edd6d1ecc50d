"""The minimax problem of the talk, min_θ max_{‖δ‖ ≤ C_δ} H(δ, θ), and its inner half.

H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ) is a `Risk`; {δ : ‖δ‖ ≤ C_δ} is an `L2Ball` of
`ibau_lite.sets`; an `Ascent` goes looking for the maximiser δ(θ). H has several hills: `Scouted`
climbs on parts of the images first, `Aimed` toward each class, `AimedUnion` toward the most
suspicious in several sets, one of which may be no class in particular (`Scattering`). What is done
with the answer is up to `ibau_lite.hypergrad`.
"""

from ibau_lite.minimax.aimed import Aimed
from ibau_lite.minimax.aimed_union import AimedUnion
from ibau_lite.minimax.ascent import Ascent, Maximum
from ibau_lite.minimax.one_pass import OnePass
from ibau_lite.minimax.risk import Risk
from ibau_lite.minimax.scattering import Scattering
from ibau_lite.minimax.scouted import Scouted

__all__ = [
    "Aimed",
    "AimedUnion",
    "Ascent",
    "Maximum",
    "OnePass",
    "Risk",
    "Scattering",
    "Scouted",
    "Search",
]

Search = Ascent | Scouted | Aimed | AimedUnion | OnePass
"""What looks for the worst δ: `search(risk, theta, ball, start=None) -> Maximum`, or several."""
