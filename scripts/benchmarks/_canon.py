"""A canon in two voices, whose exact posteriors are known and whose geometry misleads.

The leader is a Markov chain; the follower repeats it some sixteenths later, with few errors. Notes
that sound together are neighbors in (time, voices) and nearly independent, and a note and its
repetition are far apart and nearly equal.
"""

from __future__ import annotations

from ddm.denoisers import Denoiser
from ddm.denoisers.prediction import LogLeaveOneOut
from ddm.functional import one_hot
from ddm.process import ForwardProcess

import torch
from torch import Tensor

DELAY, ERRORS = 7, 0.02


class Canon(Denoiser):
    """Exact posterior of the canon with masks: a forward-backward recursion over the leader.

    The follower wraps around: its first notes repeat the last ones of the leader.
    """

    def __init__(self, process: ForwardProcess, initial: Tensor, transition: Tensor) -> None:
        super().__init__(process)
        size = len(initial)
        self.initial, self.transition = initial.double(), transition.double()
        self.copy = (1 - ERRORS) * torch.eye(size).double() + ERRORS / size

    def forward(self, x_t: Tensor, t: Tensor, free: Tensor | None = None) -> LogLeaveOneOut:
        """Return p(x_0^i | all others) of both voices; masks say nothing."""
        size, (leader, follower) = len(self.initial), x_t.unflatten(1, (-1, 2)).unbind(2)
        own = evidence(leader, torch.eye(size).double())
        repeated = evidence(follower.roll(-DELAY, 1), self.copy)
        both, length = own * repeated, leader.shape[1]
        forward, backward = [self.initial.expand(len(x_t), -1)], [torch.ones_like(both[:, 0])]
        for i in range(length - 1):
            forward.append(scaled((forward[-1] * both[:, i]) @ self.transition))
            backward.append(scaled((backward[-1] * both[:, -1 - i]) @ self.transition.T))
        around = torch.stack(forward, 1) * torch.stack(backward[::-1], 1)
        of_leader, of_follower = around * repeated, scaled(around * own) @ self.copy
        found = torch.stack([scaled(of_leader), of_follower.roll(DELAY, 1)], 2).flatten(1, 2)
        return LogLeaveOneOut(self.process, found.log(), x_t, t, free)

    def draw(self, num: int, length: int, generator: torch.Generator) -> Tensor:
        """Return sequences of the canon, (num, 2 length)."""
        notes = [torch.multinomial(self.initial, num, True, generator=generator)]
        for _ in range(length - 1):
            law = self.transition[notes[-1]]
            notes.append(torch.multinomial(law, 1, generator=generator)[:, 0])
        leader = torch.stack(notes, 1)
        law = self.copy[leader].flatten(0, 1)
        repeated = torch.multinomial(law, 1, generator=generator).view(num, length)
        return torch.stack([leader, repeated.roll(DELAY, 1)], 2).flatten(1)


def evidence(x: Tensor, law: Tensor) -> Tensor:
    """Return what tokens, (B, L), say of their causes, (B, L, V): p(token | cause), 1 for masks."""
    size = len(law)
    said = one_hot(x, size + 1, torch.float64)[..., :size] @ law.T
    return said.where((x < size)[..., None], 1.0)


def scaled(p: Tensor) -> Tensor:
    """Return p with sums 1, which changes no posterior and keeps numbers in range."""
    return p / p.sum(-1, keepdim=True).clamp(min=1e-300)
