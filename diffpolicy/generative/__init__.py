"""Generative machinery for targets of any shape: points (B, D), trajectories (B, T, D), images (B, C, H, W).

Time runs from t = 0 (noise) to t = 1 (data). In reading order:

- `shapes`       broadcasting of times over samples, and noise
- `paths`        x_t = α(t)·data + σ(t)·noise: α, σ, their derivatives, the log-SNR
- `predictions`  what a network outputs, and the one place that turns it into (data, noise); fields
- `weighting`    how training draws t, and weights it
- `variance`     a learned variance of the reverse chain
- `starts`       what a path starts from, and how it is paired with the data
- `objectives`   losses: draw of t × prediction × weighting
- `times`        times drawn where the loss has been large
- `solvers`      field -> flow map: Euler … Dormand–Prince, DDIM, DPM-Solver++, Euler–Maruyama
- `sampling`     time grids and the one sampling loop
- `inversion`    from data back to noise
- `process`      path, prediction, objective and sampler as one object
- `guidance`     field -> field: classifier-free, classifier, clipping, inpainting, other paths
- `flow_maps`    networks that are flow maps themselves: MeanFlow
- `discrete`     tokens in place of numbers: chains that jump, by masks or by any token
- `classifier`   classifiers of noised data, for classifier guidance
- `likelihood`   the discrete variational bound, the density through the flow
- `sde`          processes of any drift as flow maps: Brownian motion, Ornstein–Uhlenbeck; Langevin dynamics
- `mixture`      the Gaussian mixture, whose field and classifier are known in closed form
- `distances`    how far one set of samples is from another
"""

from diffpolicy.generative.guidance import ClassifierFree, ClassifierGuidance, ClipData, Inpaint, OnPath
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import (
    CosinePath,
    DiscretePath,
    LinearPath,
    Path,
    SquareRootPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from diffpolicy.generative.predictions import Estimate, Field, FlowMap, ModelField
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.sampling import generate, sample, time_grid
from diffpolicy.generative.solvers import Solver, make_solver

__all__ = [
    "ClassifierFree",
    "ClassifierGuidance",
    "ClipData",
    "CosinePath",
    "DenoisingObjective",
    "DiscretePath",
    "Estimate",
    "Field",
    "FlowMap",
    "GenerativeProcess",
    "Inpaint",
    "LinearPath",
    "ModelField",
    "OnPath",
    "Path",
    "Solver",
    "SquareRootPath",
    "VarianceExplodingPath",
    "VariancePreservingPath",
    "generate",
    "make_solver",
    "sample",
    "time_grid",
]
