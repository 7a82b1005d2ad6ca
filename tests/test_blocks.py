"""Blocks: schedules for each of them, and a prefix whose keys and values are kept."""

import pytest
import torch

from ddm.adapters import Bidirectional, LLaDA, ShiftedLM, TokenIds, optimize_blocks, sample_blocks
from ddm.denoisers import Denoiser, LogLeaveOneOut
from ddm.kernels import Absorbing, Uniform
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, KGillespie
from ddm.schedule import SamplingSchedule
from ddm.schedules import OptimalSteps

PAD, EOS, MASK, FIRST, V, BLOCK = 0, 1, 2, 3, 16, 4
IDS = TokenIds(V, mask=MASK, pad=PAD, eos=EOS)
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def llama(**settings):
    """Return a Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3, **settings)).eval()


def prompts():
    """Return prompts of 4 and 2 tokens, padded to a block, and two blocks to generate."""
    x = torch.randint(FIRST, V, (2, 3 * BLOCK), generator=torch.Generator().manual_seed(0))
    x[1, :2] = PAD
    return x, torch.arange(3 * BLOCK).expand(2, -1) >= BLOCK


@pytest.mark.parametrize("family", [LLaDA, ShiftedLM])
def test_a_cache_is_exact_with_block_causal_attention(family):
    """Samples are those without a cache; fewer tokens are evaluated.

    A shifted network reads the last column of the block before, which is evaluated anew.
    """
    network = Bidirectional(llama(), block_length=BLOCK)
    plain, cached = family(network, IDS), family(network, IDS, cache=True)
    tokens, free = prompts()
    x = plain.process.sample_prior(tokens, free)
    schedule = SamplingSchedule.uniform(4)
    made = [
        sample_blocks(
            KGillespie(),
            denoiser,
            x,
            schedule,
            BLOCK,
            free=free,
            generator=torch.Generator().manual_seed(1),
        )
        for denoiser in (plain, cached)
    ]
    assert made[0].num_calls == made[1].num_calls == 8
    assert torch.equal(made[0].tokens, made[1].tokens)
    assert plain.num_tokens == 2 * 8 * 12
    first, offset = 2 * 12, family.offset
    assert cached.num_tokens == 2 * first + 2 * 3 * (8 + offset) + 2 * 3 * (4 + offset)


def test_cached_logits_are_those_without_a_cache():
    """At every position that is generated, in every call; rows of a run follow.

    Float32, two layers: equal to 1e-5 of logits of the size 1.
    """
    network = Bidirectional(llama(), block_length=BLOCK)
    plain, cached = LLaDA(network, IDS), LLaDA(network, IDS, cache=True).start()
    tokens, free = prompts()
    t = torch.ones(2).double()
    x = plain.process.sample_prior(tokens, free)
    with torch.no_grad():
        for _ in range(3):
            expected, found = plain(x, t, free).output, cached(x, t, free).output
            torch.testing.assert_close(found[free], expected[free], rtol=0, atol=1e-5)
            x = torch.where(torch.rand(x.shape) < 0.3, tokens, x)
        one = torch.tensor([1])
        found = cached.rows(one)(x[one], t[one], free[one]).output
        torch.testing.assert_close(found[0, 4:], plain(x, t, free).output[1, 4:], rtol=0, atol=1e-5)


def test_a_token_sees_its_block_and_those_before():
    """Exchanging a token changes logits of its block and of later ones, none before."""
    network = Bidirectional(llama(), block_length=BLOCK)
    x, _ = prompts()
    other = x.clone()
    other[:, 5] = torch.where(x[:, 5] == FIRST, FIRST + 1, FIRST)
    with torch.no_grad():
        change = (network(x).logits - network(other).logits).abs().amax(-1)
    assert (change[:, :BLOCK] == 0).all()
    assert (change[:, BLOCK:] > 0).all()


def test_with_full_attention_a_cache_freezes_what_is_given():
    """The first call of a block is exact; later ones differ from those without a cache."""
    network = Bidirectional(llama())
    plain, cached = LLaDA(network, IDS), LLaDA(network, IDS, cache=True).start()
    tokens, free = prompts()
    t = torch.ones(2).double()
    x = plain.process.sample_prior(tokens, free)
    with torch.no_grad():
        expected, found = plain(x, t, free).output, cached(x, t, free).output
        torch.testing.assert_close(found[free], expected[free], rtol=0, atol=1e-5)
        x[:, 6] = tokens[:, 6]
        difference = (plain(x, t, free).output - cached(x, t, free).output)[free][:, FIRST:].abs()
    assert 1e-4 < difference.max() < 3


def test_a_cache_needs_keys_and_values():
    """A network that hands out none is refused when it is wrapped."""
    with pytest.raises(ValueError, match=r"`cache` needs keys and values.*got a Linear"):
        LLaDA(torch.nn.Linear(2, 2), IDS, cache=True)


class Spy(Denoiser):
    """Knows nothing and remembers what it was shown."""

    time_free = True

    def __init__(self, kernel):
        super().__init__(ForwardProcess(kernel, LogLinear()))
        self.seen, self.pad = [], PAD

    def forward(self, x_t, t, free=None):
        self.seen.append((x_t.clone(), free))
        return LogLeaveOneOut(self.process, torch.zeros(*x_t.shape, V), x_t, t, free)


@pytest.mark.parametrize("kernel", [Absorbing(V, mask=MASK), Uniform(V)], ids=repr)
def test_schedules_of_blocks(kernel):
    """One for each block, given data before it; later blocks are masked, or cut off; pads stay."""
    denoiser = Spy(kernel)
    x_0 = torch.randint(FIRST, V, (16, 10), generator=torch.Generator().manual_seed(0))
    x_0[:3, 6:] = PAD  # nothing of these is in the last block
    free = (torch.arange(10) >= 2) & (x_0 != PAD)
    found = optimize_blocks(
        OptimalSteps(num_times=6, pilot_times=4), denoiser, Analytic(), x_0, 2, BLOCK, free=free
    )
    assert [f.schedules[2].num_steps for f in found] == [2, 2]
    first, second = denoiser.seen[:10], denoiser.seen[10:]
    for x_t, mask in first:
        assert torch.equal(x_t[:, :2], x_0[:, :2])
        assert mask.any(0).nonzero().flatten().tolist() == [2, 3, 4, 5]
        if kernel.absorbing:
            assert torch.equal(x_t[:, 6:], torch.where(x_0[:, 6:] == PAD, PAD, MASK))
        else:
            assert x_t.shape[1] == 6
    for x_t, _ in second:
        assert torch.equal(x_t[:, :6], x_0[3:, :6])
