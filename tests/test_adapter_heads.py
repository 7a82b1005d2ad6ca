"""Adapters that make logits where they are needed: what they say is what whole logits say."""

import pytest
import torch
from torch import nn

from ddm.adapters import MDLM, Bidirectional, LLaDA, MaskedLM, ShiftedLM, TokenIds
from ddm.backbones import DiT
from ddm.denoisers import network
from ddm.losses import CrossEntropy
from ddm.samplers import Analytic, Reveal
from ddm.schedules import measure_step_costs
from test_adapters import IDS, MASK, SIZES, V, make, ragged, seeded

SEPARATE = ["bert", "roberta", "modernbert", "esm", "llada", "dream", "dit"]
"""Families whose last module makes the logits."""


class Behind(nn.Module):
    """A network whose logits are changed after its head, by a function."""

    def __init__(self, change):
        super().__init__()
        self.embed, self.head = nn.Embedding(V, 8), nn.Linear(8, V)
        self.change = change

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None):
        h = self.embed(input_ids)
        return self.change(self.head(h + h.cumsum(1)))


CHANGES = {
    "scaled": lambda x: 0.5 * x,
    "capped": lambda x: 3 * torch.tanh(x / 3),
    "moved": lambda x: torch.cat([x[:, :1], x[:, :-1]], 1),
    "of all positions": lambda x: x + torch.arange(12.0)[:, None],
    "normalized": lambda x: x.log_softmax(-1),
}


def adapter(family):
    """Return the adapter of a family, or one around our own network of MDLM's kind."""
    if family != "dit":
        return make(family)
    torch.manual_seed(0)
    backbone = DiT(V, dim=16, depth=1, num_heads=2)
    nn.init.normal_(backbone.token_head.weight)
    return MDLM(backbone.eval(), mask=MASK, vocab_size=V)


def counted(denoiser):
    """Return a list to which the head adds the number of positions that it sees."""
    seen = []
    head = getattr(denoiser.backbone, "token_head", None) or denoiser.token_head()
    head.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[:-1].numel())
    )
    return seen


@pytest.fixture
def apart(monkeypatch):
    """Return what lets adapters leave out the head, however small the vocabulary."""
    return lambda: monkeypatch.setattr(network, "SMALL", 0)


@torch.no_grad()
@pytest.mark.parametrize("family", SEPARATE)
def test_everything_is_the_same(family, apart):
    """Logits, samples and tables are those of the whole network; the head sees what is asked."""
    x_0, free = ragged(6)
    settings = {"free": free, "generator": None}
    whole, found = [], []
    for results in (whole, found):
        denoiser = adapter(family)
        x_t = denoiser.process.sample(x_0, 0.5, seeded(2), free=free)
        prediction = denoiser(x_t, 0.5, free)
        assert (prediction.head is None) == (results is whole)
        results.append(prediction.output)
        for sampler in (Analytic(), Reveal()):
            settings["generator"] = seeded(3)
            noise = denoiser.process.sample_prior(x_0, free, seeded(4))
            seen, drawn = (
                counted(denoiser),
                sampler(denoiser, noise, (1.0, 0.6, 0.2, 0.0), **settings),
            )
            results.append(drawn.tokens)
            if results is found:  # two positions of every row in each call, and each token once
                shown = 0 if family == "dit" else 2 * 6 * drawn.num_calls
                assert sum(seen) == shown + int(free.sum())
        settings["generator"] = seeded(5)
        times = torch.linspace(0, 1, 4).double()
        results.append(measure_step_costs(denoiser, x_0, times, **settings).nats)
        apart()
    torch.testing.assert_close(found[0], whole[0])
    assert torch.equal(found[1], whole[1])
    assert torch.equal(found[2], whole[2])
    torch.testing.assert_close(found[3], whole[3], rtol=1e-5, atol=1e-5)
    assert denoiser.num_tokens == 72 * (1 + 3 + 3 + 3)


@pytest.mark.parametrize("family", ["bert", "dream"])
def test_gradients_are_the_same(family, apart):
    """The loss and its gradients are equal, and the head sees masked tokens alone."""
    (x_0, free), found = ragged(6), []
    for _ in range(2):
        denoiser = adapter(family)
        x_t = denoiser.process.sample(x_0, 0.5, seeded(2), free=free)
        nats = CrossEntropy().value(denoiser(x_t, 0.5, free), x_0)
        nats.sum().backward()
        found.append(
            [nats.detach(), *(p.grad for p in denoiser.parameters() if p.grad is not None)]
        )
        apart()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", [MaskedLM, ShiftedLM])
@pytest.mark.parametrize("change", CHANGES)
def test_what_comes_after_the_head(change, kind, apart):
    """Where logits are changed after the head, the network makes all of them, as before."""
    torch.manual_seed(0)
    backbone, (x_0, free) = Behind(CHANGES[change]), ragged(3)
    expected = kind(backbone, IDS)(x_0, 0.5, free).output
    apart()
    denoiser = kind(backbone, IDS)
    for _ in range(2):
        prediction = denoiser(x_0, 0.5, free)
        assert prediction.head is None
        assert torch.equal(prediction.output, expected)
    assert denoiser.num_tokens == 2 * 36


@torch.no_grad()
def test_untrained_heads_show_nothing(apart):
    """A head of zeros is taken neither for the last module nor for another one, until trained."""
    apart()
    backbone, (x_0, free) = Behind(lambda x: 2 * x), ragged(3)
    weights = [weight.clone() for weight in backbone.head.parameters()]
    for weight in backbone.head.parameters():
        weight.zero_()
    denoiser = MaskedLM(backbone, IDS)
    assert denoiser(x_0, 0.5, free).head is None
    backbone.change = lambda x: x
    for weight, before in zip(backbone.head.parameters(), weights, strict=True):
        weight.copy_(before)
    assert denoiser(x_0, 0.5, free).head is not None


@torch.no_grad()
def test_tied_tables_of_tokens_are_no_heads(apart):
    """A network that names its table of tokens as the module that makes logits makes them all."""
    apart()
    backbone, (x_0, free) = Behind(lambda x: x), ragged(3)
    backbone.get_output_embeddings = lambda: backbone.embed
    for kind in (MaskedLM, ShiftedLM):
        assert kind(backbone, IDS)(x_0, 0.5, free).head is None


@torch.no_grad()
def test_runs_with_a_prefix_make_whole_logits(apart):
    """With keys and values of a prefix, logits of the other columns are made by the network."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    backbone = Bidirectional(LlamaForCausalLM(LlamaConfig(**SIZES)).eval(), block_length=4)
    (x_0, _), free = ragged(3), torch.arange(12).expand(3, -1) >= 4
    samples = []
    for _ in range(2):
        denoiser = LLaDA(backbone, TokenIds(V, mask=MASK), cache=True)
        noise = denoiser.process.sample_prior(x_0, free)
        samples.append(
            Analytic()(denoiser, noise, (1.0, 0.5, 0.0), free=free, generator=seeded()).tokens
        )
        apart()
    assert torch.equal(*samples)
