"""All figures of the gallery, in the order of the notes."""

from diffpolicy.gallery import digits, guided, learned, paths, processes, samplers
from diffpolicy.gallery.style import Exhibit

_ALL = {
    exhibit.name: exhibit
    for module in (processes, paths, learned, samplers, guided, digits)
    for exhibit in module.EXHIBITS
}

EXHIBITS: tuple[Exhibit, ...] = tuple(
    _ALL[name]
    for name in (
        "linear_ode",
        "brownian_motion",
        "ornstein_uhlenbeck",
        "probability_paths",
        "velocity_fields",
        "flow_matching",
        "score_and_langevin",
        "same_marginals",
        "schedules",
        "one_network",
        "guidance_on_points",
        "guidance_on_digits",
        "weightings",
        "flow_against_diffusion",
    )
)
