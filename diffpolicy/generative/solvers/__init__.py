"""Solvers by name. `base` has the contract and the fixed-step ones, the other files one family each."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from diffpolicy.generative.solvers.adaptive import DormandPrince
from diffpolicy.generative.solvers.base import RK4, BoundSolver, Euler, Heun, Solver
from diffpolicy.generative.solvers.diffusion import DDIM, DPMSolverMultistep
from diffpolicy.generative.solvers.stochastic import EulerMaruyama
from diffpolicy.util import names

__all__ = [
    "DDIM",
    "RK4",
    "SOLVERS",
    "BoundSolver",
    "DPMSolverMultistep",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Solver",
    "make_solver",
]

# Name -> (class, options that the name fixes).
SOLVERS: dict[str, tuple[type[Solver], dict[str, Any]]] = {
    "euler": (Euler, {}),
    "heun": (Heun, {}),
    "rk4": (RK4, {}),
    "dopri5": (DormandPrince, {}),
    "ddpm": (DDIM, {"eta": 1.0}),
    "ddpm_large": (DDIM, {"eta": 1.0, "variance": "large"}),
    "ddpm_learned": (DDIM, {"eta": 1.0, "variance": "learned"}),
    "ddim": (DDIM, {}),
    "dpmpp_1s": (DDIM, {"eta": 0.0, "variance": "small"}),
    "dpmpp_2m": (DPMSolverMultistep, {"order": 2}),
    "dpmpp_3m": (DPMSolverMultistep, {"order": 3}),
    "euler_maruyama": (EulerMaruyama, {}),
}


def make_solver(name: str, **options: Any) -> Solver:
    """Return the solver called `name`.

    Args:
        name: a key of `SOLVERS`.
        options: arguments of its class that the name leaves open.

    Raises:
        ValueError: an unknown name or option.
    """
    names.check("solver", name, SOLVERS)
    kind, fixed = SOLVERS[name]
    for option in options:
        names.check(f"option of solver {name}", option, [f.name for f in fields(kind) if f.name not in fixed])
    return kind(**fixed, **options)
