"""The optimizer that joins Muon and AdamW."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LinearLR

from ddm.optim import MuonAdamW


def network():
    """Return a network with a matrix and a vector, the same every time."""
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def train(model, optimizers, steps, schedule=None):
    """Take some steps on a fixed quadratic loss."""
    x = torch.linspace(-1, 1, 12).view(4, 3)
    for _ in range(steps):
        loss = (model(x) - 1).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if schedule is not None:
            schedule.step()
    return [p.detach().clone() for p in model.parameters()]


def test_is_muon_and_adamw():
    """Matrices move as under Muon, vectors as under AdamW, to the last bit."""
    ours, theirs = network(), network()
    muon = Muon([theirs.weight], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW([theirs.bias], 0.01, (0.9, 0.95), weight_decay=0.1)
    left = train(ours, [MuonAdamW(ours.parameters(), 0.01, weight_decay=0.1)], 5)
    right = train(theirs, [muon, adamw], 5)
    assert all(map(torch.equal, left, right))


def test_schedule_of_the_learning_rate_reaches_both():
    """At a learning rate of 0 nothing moves; schedules change the groups of the parts."""
    model = network()
    optimizer = MuonAdamW(model.parameters(), 0.01)
    schedule = LinearLR(optimizer, 1.0, 0.0, total_iters=2)
    train(model, [optimizer], 2, schedule)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.0, 0.0]
    before = [p.detach().clone() for p in model.parameters()]
    assert all(map(torch.equal, before, train(model, [optimizer], 2)))


def test_resumes_exactly():
    """Training goes on from a saved state as if it had not stopped, learning rate included."""
    model = network()
    optimizer = MuonAdamW(model.parameters(), 0.01)
    train(model, [optimizer], 3)
    optimizer.param_groups[0]["lr"] = 0.02
    again, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    resumed = MuonAdamW(again.parameters(), 0.5)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in resumed.param_groups] == [0.02, 0.01]
    assert all(map(torch.equal, train(model, [optimizer], 3), train(again, [resumed], 3)))


@pytest.mark.parametrize("shape", [(4,), (4, 2)], ids=["vector", "matrix"])
def test_one_part_is_enough(shape):
    """A model without matrices, or with nothing else, trains as well; the closure is called."""
    p = nn.Parameter(torch.ones(shape))

    def closure():
        p.sum().backward()
        return "loss"

    assert MuonAdamW([p], 0.1).step(closure) == "loss"
    assert (p < 1).any()
