"""Muon for the matrices inside layers, Adam for everything else.

The model computes in a fast type (bfloat16); updates go to a float32 master copy, where small ones
are not rounded away.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MUON_RATE, MUON_MOMENTUM, MUON_DECAY = 0.02, 0.95, 0.05
ADAM_RATE, ADAM_BETAS, ADAM_EPSILON = 3e-3, (0.9, 0.98), 1e-8


def is_inner_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether Muon trains a parameter: a matrix between hidden states."""
    return parameter.ndim == 2 and (".layers." in name or "multi_modal_projector" in name)


class Optimiser:
    """Updates the parameters of some modules from their gradients."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        self.parameters = dict(named)
        self.master = {n: p.detach().float().clone() for n, p in self.parameters.items()}
        self.first = {n: torch.zeros_like(m) for n, m in self.master.items()}
        self.second = {
            n: torch.zeros_like(m) for n, m in self.master.items() if not is_inner_matrix(n, m)
        }
        self.steps = dict.fromkeys(self.second, 0)

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], factor: float) -> None:
        """Update with float32 gradients and all learning rates times `factor`."""
        by_shape: dict[torch.Size, list[str]] = {}
        for name, gradient in gradients.items():
            if name in self.second:
                self._adam(name, gradient, factor)
            else:
                self.first[name].mul_(MUON_MOMENTUM).add_(gradient)
                by_shape.setdefault(gradient.shape, []).append(name)
        for names in by_shape.values():
            self._muon(names, gradients, factor)
        for name in gradients:
            self.parameters[name].copy_(self.master[name])

    def _adam(self, name: str, gradient: Tensor, factor: float) -> None:
        first, second = ADAM_BETAS
        self.steps[name] += 1
        self.first[name].lerp_(gradient, 1 - first)
        self.second[name].lerp_(gradient.square(), 1 - second)
        mean = self.first[name] / (1 - first ** self.steps[name])
        scale = (self.second[name] / (1 - second ** self.steps[name])).sqrt() + ADAM_EPSILON
        self.master[name].addcdiv_(mean, scale, value=-ADAM_RATE * factor)

    def _muon(self, names: list[str], gradients: dict[str, Tensor], factor: float) -> None:
        ahead = [gradients[n] + MUON_MOMENTUM * self.first[n] for n in names]  # Nesterov
        for name, update in zip(names, orthogonal(torch.stack(ahead)), strict=True):
            rows, columns = update.shape
            master = self.master[name]
            master.mul_(1 - MUON_RATE * factor * MUON_DECAY)
            master.add_(update, alpha=-MUON_RATE * factor * max(1.0, rows / columns) ** 0.5)

    def state(self) -> dict[str, object]:
        """Return the state needed to resume: tensors and numbers only."""
        moments = {"first": self.first, "second": self.second}
        return {"master": self.master, **moments, "steps": self.steps}

    @torch.no_grad()
    def load(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore a state and set the parameters to its master copies."""
        for own, saved in ((self.master, "master"), (self.first, "first"), (self.second, "second")):
            for name, value in own.items():
                value.copy_(state[saved][name])
        self.steps = {name: int(steps) for name, steps in state["steps"].items()}
        for name, parameter in self.parameters.items():
            parameter.copy_(self.master[name])


def orthogonal(matrices: Tensor) -> Tensor:
    """Move all singular values of a batch of matrices towards 1 (Newton-Schulz, bfloat16)."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result
