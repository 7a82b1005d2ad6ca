"""Logits where they are needed only: laws, losses and gradients are those of all logits."""

import math

import pytest
import torch
from torch import nn

from cases import each_legal_pair, each_loss
from ddm.backbones import Transformer
from ddm.denoisers import MeanDenoiser, PosteriorDenoiser, network
from ddm.functional import times_like
from ddm.kernels import Absorbing, Uniform, sparse
from ddm.losses import NELBO
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Reveal, Step

LENGTH = 5


class Apart(nn.Module):
    """A random network in float64 whose head is a layer of its own; it counts the head's tokens."""

    def __init__(self, num_states: int, dim: int = 4) -> None:
        super().__init__()
        self.body = nn.Embedding(num_states, dim, dtype=torch.float64)
        self.mix = nn.Linear(dim, dim, dtype=torch.float64)
        self.token_head = nn.Linear(dim, num_states, dtype=torch.float64)
        self.num_tokens = 0
        self.token_head.register_forward_hook(self._count)

    def forward(self, x_t, t, *, with_head=True):
        h = self.body(x_t) + self.mix(self.body(x_t).mean(1, keepdim=True)) + t[:, None, None]
        return self.token_head(h) if with_head else h

    def _count(self, head, inputs, output):
        self.num_tokens += output.shape[:-1].numel()


def denoiser_of(kernel, kind=MeanDenoiser):
    """Return a denoiser of a random network, the same for each kernel."""
    torch.manual_seed(1)
    return kind(Apart(kernel.num_states), ForwardProcess(kernel, LogLinear()))


@pytest.fixture(params=[2**22, 16], ids=["whole", "pieces"])
def apart(request, monkeypatch):
    """Return what switches to logits where they are needed, whole and in pieces of few tokens."""

    def switch(small=0):
        monkeypatch.setattr(network, "SMALL", small)
        monkeypatch.setattr(sparse, "CHUNK", request.param)

    return switch


@each_legal_pair
def test_samples_are_the_same(kernel, sampler, apart):
    """Every sampler draws the same tokens from the same random numbers, for every kernel."""
    denoiser, times = denoiser_of(kernel), (1.0, 0.7, 0.3, 0.0)
    x = kernel.sample_prior((16, LENGTH), torch.Generator().manual_seed(0))
    samples = []
    for small in (10**9, 0):
        apart(small)
        samples.append(sampler(denoiser, x, times, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(samples[0].tokens, samples[1].tokens)
    assert samples[0].num_calls == samples[1].num_calls


@each_loss
@pytest.mark.parametrize("kind", [MeanDenoiser, PosteriorDenoiser])
@pytest.mark.parametrize("kernel", [Absorbing(5), Absorbing(5, mask=2), Uniform(5)], ids=repr)
def test_losses_are_the_same(kernel, kind, loss, apart):
    """Losses and their gradients are equal to rounding, for masks in random places, free or not."""
    denoiser, generator = denoiser_of(kernel, kind), torch.Generator().manual_seed(3)
    x_0 = torch.tensor([0, 1, 3, 4])[torch.randint(4, (6, LENGTH), generator=generator)]
    free = torch.rand(6, LENGTH, generator=generator) < 0.8
    found = []
    for switch in (lambda: None, apart):
        switch()
        for mask in (None, free):
            denoiser.zero_grad()
            nats = loss(denoiser, x_0, 0.6, torch.Generator().manual_seed(4), free=mask)
            nats.sum().backward()
            gradients = [parameter.grad.clone() for parameter in denoiser.parameters()]
            found.append([nats.detach(), *gradients])
    for before, after in zip(found[:2], found[2:], strict=True):
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sampler", [Analytic(), Reveal()], ids=repr)
def test_every_token_is_computed_once(sampler, apart):
    """With masks the head sees each token once on the way to a sample, whatever the steps."""
    apart()
    kernel = Absorbing(5)
    denoiser = denoiser_of(kernel)
    for num_steps in (1, 2, 5):
        denoiser.backbone.num_tokens = 0
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        sampler(denoiser, kernel.sample_prior((7, LENGTH)), times)
        assert denoiser.backbone.num_tokens == 7 * LENGTH


@torch.no_grad()
def test_no_token_is_computed_that_stays(apart):
    """With the uniform kernel a step looks at no token twice, a short one at few."""
    apart()
    denoiser, shares = denoiser_of(Uniform(5)), []
    x = torch.randint(5, (40, LENGTH), generator=torch.Generator().manual_seed(0))
    for s in (0.0, 0.3, 0.49):
        denoiser.backbone.num_tokens = 0
        step = Step(times_like(0.5, x), times_like(s, x))
        Analytic().step(denoiser, x, step, torch.Generator().manual_seed(2))
        shares.append(denoiser.backbone.num_tokens / x.numel())
    assert 1 >= shares[0] > shares[1] > 0.2 > shares[2]
    denoiser.backbone.num_tokens, free = 0, torch.zeros_like(x, dtype=torch.bool)
    free[:, 2] = True
    step = Step(times_like(0.5, x), times_like(0.0, x))
    generator = torch.Generator().manual_seed(2)
    moved = Analytic().step(denoiser, x, step, generator, free=free) != x
    assert 0 < denoiser.backbone.num_tokens <= 40
    assert moved[free].any()
    assert not moved[~free].any()


@torch.no_grad()
def test_nan_that_a_token_would_stay_with_is_refused():
    """A network that returns NaN for tokens that are likely to stay does not pass unseen."""
    denoiser = denoiser_of(Uniform(5))
    x = torch.zeros(10, LENGTH, dtype=torch.long)
    step = Step(times_like(0.5, x), times_like(0.49, x))
    nn.init.constant_(denoiser.backbone.token_head.weight, math.nan)
    with pytest.raises(ValueError, match="NaN"):  # no token of this seed goes whatever its logits
        Analytic().step(denoiser, x, step, torch.Generator().manual_seed(0))


def test_training_computes_masked_tokens(apart):
    """The loss of masks computes the masked tokens alone, and their logits anew in its gradient."""
    apart()
    denoiser = denoiser_of(Absorbing(5))
    x_0 = torch.zeros(8, LENGTH, dtype=torch.long)
    x_t = denoiser.process.sample(x_0, 0.5, torch.Generator().manual_seed(0))
    nats = NELBO().value(denoiser(x_t, 0.5), x_0)
    num_masked = int((x_t == 5).sum())
    assert denoiser.backbone.num_tokens == num_masked
    nats.sum().backward()
    assert denoiser.backbone.num_tokens == 2 * num_masked


def test_output_is_whole(apart):
    """A prediction still has its whole output, as a network without a head of its own gives it."""
    network = Transformer(6, dim=8, depth=1, num_heads=2)
    nn.init.normal_(network.out.weight)
    denoiser = MeanDenoiser(network, ForwardProcess(Uniform(6), LogLinear()))
    x = torch.randint(6, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    expected = denoiser(x, 0.4)
    apart()
    prediction = denoiser(x, 0.4)
    assert prediction.features.shape == (3, LENGTH, 8)
    torch.testing.assert_close(prediction.output, expected.output)
    some = torch.tensor([0, 2]), torch.tensor([4, 1])
    torch.testing.assert_close(prediction.at(*some).output[:, 0], expected.output[some])
    torch.testing.assert_close(denoiser(x, 0.4).at(*some).output[:, 0], expected.output[some])


def test_wrong_heads(apart):
    """A head that does not give a logit for each state is refused when it is used."""
    apart()
    denoiser = MeanDenoiser(Apart(4), ForwardProcess(Uniform(2), LogLinear()))
    prediction = denoiser(torch.zeros(2, 3, dtype=torch.long), 0.5)
    with pytest.raises(ValueError, match=r"must return logits of the shape .2, 3, 2., one"):
        _ = prediction.output
