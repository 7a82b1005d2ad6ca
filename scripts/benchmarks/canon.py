"""Does a measured order find what the geometry hides? A canon in two voices, exact denoiser.

The leader is a CountDown chain; the follower repeats it some sixteenths later, with few errors.
Notes that sound together are neighbors in (time, voices) and nearly independent, and a note and its
repetition are far apart and nearly equal. Prints the nats of held-out sequences along optimal
counts, by order, and writes docs/results/canon.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ddm import Absorbing
from ddm.datamodules.countdown import countdown_chain
from ddm.denoisers import Denoiser
from ddm.denoisers.prediction import LogLeaveOneOut
from ddm.functional import one_hot
from ddm.likelihood import sampler_nats
from ddm.noise import LogLinear
from ddm.orders import Measured, Random, RevealOrder, Spaced, measure_dependence
from ddm.process import ForwardProcess
from ddm.samplers import Reveal
from ddm.schedules import OptimalCounts, SamplingSchedule

import torch
from _report import finish, over_seeds, parse, resume, show
from torch import Tensor

DELAY, ERRORS = 7, 0.02
VOCAB_SIZE, LENGTH, SMOOTHING = 12, 24, 0.002
NUM_STEPS = (2, 4, 8, 16)


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


def compare(seed: int, num_data: int) -> dict[str, dict[str, float]]:
    """Return mean nats of held-out sequences by order and N, and of one token per call."""
    law = countdown_chain(VOCAB_SIZE, SMOOTHING)
    denoiser = Canon(ForwardProcess(Absorbing(VOCAB_SIZE), LogLinear()), *law)
    generator = torch.Generator().manual_seed(seed)
    x_0, held_out = denoiser.draw(2 * num_data, LENGTH, generator).chunk(2)
    dependence = measure_dependence(denoiser, x_0, 8, generator=generator)
    orders: dict[str, RevealOrder] = {
        "random": Random(),
        "spaced in time": Spaced(),
        "spaced in time and voices": Spaced((LENGTH, 2)),
        "measured": Measured(dependence),
        "measured, no jitter": Measured(dependence, jitter=0.0),
    }

    def nats(order: RevealOrder, schedule: SamplingSchedule) -> float:
        noise = torch.Generator().manual_seed(seed)
        cost = sampler_nats(denoiser, Reveal(order), held_out, schedule, generator=noise)
        return float(cost.mean())

    most, found = 2 * LENGTH, {}
    for name, order in orders.items():
        counts = OptimalCounts()(denoiser, Reveal(order), x_0, NUM_STEPS, generator=generator)
        found[name] = {str(n): nats(order, one) for n, one in counts.schedules.items()}
    found["one per call"] = {str(most): nats(Random(), SamplingSchedule.uniform(most))}
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        seeds=(3, "seeds"),
        num_data=(128, "sequences that orders and counts are found on, and as many to judge"),
    )
    cells = {str(seed): partial(compare, seed, options.num_data) for seed in range(options.seeds)}
    measured = resume("canon", {"num_data": options.num_data}, cells)
    table = over_seeds(list(measured.values()))
    show("canon in two voices, nats", table)
    finish("canon", {"settings": vars(options), "nats": table})


if __name__ == "__main__":
    main()
