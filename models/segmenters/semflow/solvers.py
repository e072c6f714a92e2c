"""Solvers of the flow's differential equation dz/dt = v(z, t)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

__all__ = ["Velocity", "euler", "rk45"]

Velocity = Callable[[Tensor, Tensor], Tensor]  # latents (N, C, h, w), times (N,) → (N, C, h, w)
_TOLERANCE = 1e-3  # relative and absolute; latents have unit variance


def euler(velocity: Velocity, latents: Tensor, steps: int, *, backwards: bool = False) -> Tensor:
    """Integrate from t = 0 to 1 in equal steps, or from 1 to 0 with `backwards`.

    Takes and returns latents (N, C, h, w).
    """
    sign = -1 if backwards else 1
    for step in range(steps):
        share = step / steps
        time = latents.new_full((len(latents),), 1 - share if backwards else share)
        latents = latents + sign * velocity(latents, time) / steps
    return latents


def rk45(velocity: Velocity, latents: Tensor, *, backwards: bool = False) -> Tensor:
    """Integrate with SciPy's adaptive Runge-Kutta method of order 5(4), as `euler` does.

    All images take the steps that the hardest of them needs.
    """

    def tensor(flat: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(flat).to(latents).view_as(latents)

    def slope(time: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        found = velocity(tensor(flat), latents.new_full((len(latents),), time))
        return found.double().cpu().numpy().ravel()

    span = (1.0, 0.0) if backwards else (0.0, 1.0)
    start = latents.double().cpu().numpy().ravel()
    found = solve_ivp(slope, span, start, method="RK45", rtol=_TOLERANCE, atol=_TOLERANCE)
    return tensor(np.ascontiguousarray(found.y[:, -1]))
