"""All figures of the gallery, in the order of the notes."""

from diffpolicy.gallery import digits, films, guided, learned, paths, processes, samplers, spectra, starts, theorems
from diffpolicy.gallery.style import Exhibit

_ALL = {
    exhibit.name: exhibit
    for module in (processes, paths, learned, samplers, guided, digits, films, spectra, theorems, starts)
    for exhibit in module.EXHIBITS
}

EXHIBITS: tuple[Exhibit, ...] = tuple(
    _ALL[name]
    for name in (
        "linear_ode",
        "deformed_grid",
        "divergence",
        "brownian_motion",
        "ornstein_uhlenbeck",
        "euler_maruyama_orders",
        "probability_paths",
        "velocity_fields",
        "posterior_weights",
        "equal_losses",
        "flow_matching",
        "samples_through_training",
        "circles_to_checkerboard",
        "score_and_langevin",
        "fokker_planck",
        "same_marginals",
        "schedules",
        "forward_chain",
        "spectra_and_skips",
        "one_network",
        "guidance_on_points",
        "guided_law",
        "guidance_on_digits",
        "films_by_words",
        "inversion",
        "weightings",
        "bound_terms",
        "flow_against_diffusion",
    )
)
