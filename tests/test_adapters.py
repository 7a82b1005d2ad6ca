"""Adapters: networks with the conventions of others, called as they want to be called."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ddm.adapters import (
    DUO,
    MDLM,
    SEDD,
    Bidirectional,
    DiffusionGemma,
    Guided,
    LLaDA,
    MaskedLM,
    ShiftedLM,
    TokenIds,
    block_masks,
    check_model,
    counts_per_step,
    flow_matching_grid,
    sample_blocks,
)
from ddm.datamodules import countdown_chain, sample_chain
from ddm.denoisers import MarkovChainDenoiser, MeanDenoiser
from ddm.kernels import Absorbing, Uniform
from ddm.losses import CrossEntropy
from ddm.noise import LogLinear
from ddm.orders import Entropy
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, KGillespie, Reveal
from ddm.schedule import SamplingSchedule
from ddm.schedules import OptimalSteps

PAD, CLS, SEP, UNK, MASK, FIRST, V = 0, 1, 2, 3, 4, 5, 24
"""Ids as BERT has them: special ones first, the mask in the middle."""
IDS = TokenIds(V, mask=MASK, pad=PAD, eos=SEP, special=(PAD, CLS, SEP, UNK, MASK))
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": PAD,
    "bos_token_id": CLS,
    "eos_token_id": SEP,
}


@dataclass
class Config:
    """The part of a configuration that adapters read."""

    vocab_size: int = V
    time_conditioning: bool = False
    model_length: int = 32


class Tokenizer:
    """What adapters read of a tokenizer of transformers."""

    mask_token_id = MASK
    pad_token_id = PAD
    eos_token_id = SEP
    all_special_ids = (PAD, CLS, SEP, UNK, MASK)

    def __len__(self):
        return V


class Mixer(nn.Module):
    """A small network of tokens and sigma that sees all positions."""

    def __init__(self):
        super().__init__()
        self.config = Config()
        self.embed = nn.Embedding(V, 16)
        self.mix = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, V)

    def logits(self, x, sigma):
        return self.head(self.mix(self.embed(x) + sigma[:, None, None])[0])


class LooksLikeMDLM(Mixer):
    """`(input_ids, timesteps)`, sigma ignored, an object with logits."""

    def forward(self, input_ids, timesteps):
        config = Config()
        config.logits = self.logits(input_ids, torch.zeros_like(timesteps))
        return config


class LooksLikeDUO(Mixer):
    """`(input_ids, timesteps)`, normalized logs."""

    def forward(self, input_ids, timesteps):
        return self.logits(input_ids, timesteps).log_softmax(-1)


class LooksLikeSEDD(Mixer):
    """`(indices, sigma)`, log ratios with their size, 0 at the token itself."""

    def forward(self, indices, sigma):
        size = torch.log(torch.expm1(sigma))[:, None, None]
        output = self.logits(indices, sigma).log_softmax(-1) - size
        return output.scatter(-1, indices[..., None], 0.0)


def bert():
    """Return a BERT, its ids read from a tokenizer."""
    from transformers import BertConfig, BertForMaskedLM

    return MaskedLM(BertForMaskedLM(BertConfig(**SIZES)), Tokenizer())


def roberta():
    """Return a Roberta, whose positions count from the padding id."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    return MaskedLM(RobertaForMaskedLM(RobertaConfig(**SIZES)), IDS)


def modernbert():
    """Return a ModernBERT, with local attention."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(**SIZES, cls_token_id=CLS, sep_token_id=SEP)
    return MaskedLM(ModernBertForMaskedLM(config), IDS)


def esm():
    """Return an ESM, which scales by the fraction of masks."""
    from transformers import EsmConfig, EsmForMaskedLM

    config = EsmConfig(
        **SIZES, mask_token_id=MASK, position_embedding_type="rotary", token_dropout=True
    )
    return MaskedLM(EsmForMaskedLM(config), IDS)


def llada():
    """Return a bidirectional Llama with the conventions of LLaDA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LLaDA(Bidirectional(LlamaForCausalLM(LlamaConfig(**SIZES))), IDS)


def dream():
    """Return a bidirectional Qwen2 with the conventions of Dream."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**SIZES, num_key_value_heads=2)
    return ShiftedLM(Bidirectional(Qwen2ForCausalLM(config)), IDS)


def gemma(**sizes):
    """Return a DiffusionGemma with two layers and two experts."""
    from transformers import (
        AutoConfig,
        DiffusionGemmaConfig,
        DiffusionGemmaForBlockDiffusion,
        DiffusionGemmaTextConfig,
    )

    text = DiffusionGemmaTextConfig(
        **{**SIZES, "num_hidden_layers": 2, **sizes},
        num_key_value_heads=1,
        head_dim=8,
        global_head_dim=8,
        moe_intermediate_size=16,
        num_experts=2,
        top_k_experts=1,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )
    vision = AutoConfig.for_model(
        "gemma4_vision",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8)
    return DiffusionGemma(DiffusionGemmaForBlockDiffusion(config))


FAMILIES = {
    "bert": bert,
    "roberta": roberta,
    "modernbert": modernbert,
    "esm": esm,
    "llada": llada,
    "dream": dream,
    "mdlm": lambda: MDLM(LooksLikeMDLM()),
    "duo": lambda: DUO(LooksLikeDUO()),
    "sedd": lambda: SEDD(LooksLikeSEDD()),
    "diffusion_gemma": gemma,
}
PADDED = ["bert", "roberta", "modernbert", "esm", "llada", "dream", "diffusion_gemma"]
MASKED = [name for name in FAMILIES if name not in ("duo", "diffusion_gemma")]


@pytest.fixture(params=FAMILIES)
def denoiser(request):
    """The adapter of every family around a tiny network with random weights, float32."""
    return make(request.param)


def make(family):
    """Return the adapter of a family, with logits far enough from uniform to differ."""
    torch.manual_seed(0)
    denoiser = FAMILIES[family]()
    with torch.no_grad():
        for weight in denoiser.parameters():
            if weight.ndim > 1:
                weight *= 3
    return denoiser.eval()


def ragged(num=8, length=12):
    """Return texts with prompts of 2 to 4 tokens and an end, and where they are generated."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(FIRST, V - 1, (num, length), generator=generator)
    x[:, 0], x[:, -1] = CLS, SEP
    free = torch.ones_like(x, dtype=torch.bool)
    for row in range(num):
        free[row, : 2 + row % 3] = False
    free[:, -1] = False
    return x, free


def train(denoiser, x_0, free, num_steps, rate=1e-2, batch_size=64, decay=0.999):
    """Train with the cross-entropy."""
    generator = seeded(3)
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=rate, betas=(0.9, decay))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=num_steps)
    for _ in range(num_steps):
        rows = torch.randint(len(x_0), (min(batch_size, len(x_0)),), generator=generator)
        x, mask = x_0[rows], free[rows]
        t = 1 - torch.rand(len(x), generator=generator).double()
        x_t = denoiser.process.sample(x, t, generator, free=mask)
        optimizer.zero_grad()
        CrossEntropy().value(denoiser(x_t, t, mask), x).mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        cycle.step()


def seeded(seed=0):
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def test_samples_with_ragged_prompts(denoiser):
    """Given tokens stay, free ones are drawn, and never a banned one; calls are counted."""
    x_0, free = ragged()
    x = denoiser.process.sample_prior(x_0, free, seeded())
    samples = Analytic()(denoiser, x, SamplingSchedule.uniform(4), free=free, generator=seeded())
    assert torch.equal(samples.tokens[~free], x_0[~free])
    assert samples.num_calls == 4
    assert not denoiser.is_banned(samples.tokens[free][None]).any()
    if denoiser.process.kernel.absorbing:
        assert not (samples.tokens == denoiser.process.kernel.mask).any()


def test_special_tokens_are_never_drawn():
    """No special id of BERT has a positive probability; LLaDA's may, but for mask and padding."""
    x_0, free = ragged()
    x = torch.where(free, MASK, x_0)
    p = make("bert")(x, torch.ones(8).double(), free).posterior()
    assert (p[free][:, [PAD, CLS, SEP, UNK, MASK]] == 0).all()
    p = make("llada")(x, torch.ones(8).double(), free).posterior()
    assert (p[free][:, [PAD, MASK]] == 0).all()
    assert (p[free][:, [CLS, SEP, UNK]] > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_table_and_schedule(family):
    """A cost table of rows with prompts is finite, and has a schedule for every N.

    The table of a time-free network of the uniform kernel is refused while its weights are random:
    its posteriors at different times belong to no common law.
    """
    denoiser, (x_0, free) = make(family), ragged(16)
    if family == "diffusion_gemma":
        train(denoiser, x_0, free, 60)
    optimizer = OptimalSteps(num_times=8, pilot_times=4)
    found = optimizer(denoiser, Analytic(), x_0, [2, 3], free=free, generator=seeded())
    assert found.schedules[3].num_steps == 3
    assert torch.isfinite(torch.tensor(found.table.excess)).all()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "diffusion_gemma"])
def test_infills(family):
    """Free positions in the middle of a text are filled from both sides."""
    denoiser, (x_0, _) = make(family), ragged()
    free = torch.zeros_like(x_0, dtype=torch.bool)
    free[:, 4:8] = True
    x = denoiser.process.sample_prior(x_0, free, seeded())
    samples = KGillespie() if denoiser.process.kernel.absorbing else Analytic()
    out = samples(denoiser, x, SamplingSchedule.uniform(2), free=free, generator=seeded())
    assert torch.equal(out.tokens[~free], x_0[~free])


SIDES = [(family, side) for family in PADDED for side in ("left", "right")]
SIDES.remove(("bert", "left"))  # it has a vector for every column


@pytest.mark.parametrize(("family", "side"), SIDES)
def test_padding_changes_nothing(family, side):
    """Columns of padding change no logits, on the sides where a family can pad."""
    denoiser, (x_0, free) = make(family), ragged(3)
    wide = 3
    x = denoiser.process.sample_prior(x_0, free, seeded())
    pad = (wide, 0) if side == "left" else (0, wide)
    wider = nn.functional.pad(x, pad, value=PAD)
    wider_free = nn.functional.pad(free, pad, value=False)
    time = torch.full((3,), 0.6).double()
    with torch.no_grad():
        alone = denoiser(x, time, free).output
        padded = denoiser(wider, time, wider_free).output
    columns = slice(wide, None) if side == "left" else slice(None, x.shape[1])
    torch.testing.assert_close(padded[:, columns][free], alone[free], rtol=1e-4, atol=1e-4)


class Oracle(nn.Module):
    """A network of known logits: a function of the tokens, and of sigma where it is told."""

    def __init__(self, answer):
        super().__init__()
        self.config, self.answer = Config(), answer

    def forward(self, x=None, sigma=None, *, input_ids=None, timesteps=None, attention_mask=None):
        return self.answer(
            x if input_ids is None else input_ids, sigma if timesteps is None else timesteps
        )


def exact(kernel):
    """Return the exact denoiser of a chain on all ids, for a kernel."""
    generator = seeded(5)
    law = torch.rand(V + 1, V, generator=generator, dtype=torch.float64) ** 4
    law[:, [PAD, CLS, SEP, UNK, MASK, V - 1]] = 0.0
    law /= law.sum(-1, keepdim=True)
    process = ForwardProcess(kernel, LogLinear())
    size = kernel.vocab_size
    return MarkovChainDenoiser(process, law[0, :size], law[1 : size + 1, :size], slack=0.0)


def told(oracle, form):
    """Return a network that says what an exact denoiser knows, at the time of a noise level."""

    def answer(x, sigma):
        noise = oracle.process.noise
        t = torch.full((len(x),), 0.5).double() if sigma is None else noise.inverse(sigma)
        return form(oracle(x, t))

    return Oracle(answer)


def logits(prediction):
    """Return the log leave-one-out posterior."""
    return prediction.log_leave_one_out()


EXACT = {
    "masked": (Absorbing(V, mask=MASK), lambda o: MaskedLM(told(o, logits), IDS)),
    "llada": (Absorbing(V, mask=MASK), lambda o: LLaDA(told(o, logits), IDS)),
    "shifted": (
        Absorbing(V, mask=MASK),
        lambda o: ShiftedLM(told(o, lambda p: logits(p).roll(-1, 1)), IDS),
    ),
    "mdlm": (Absorbing(V, mask=V - 1), lambda o: MDLM(told(o, logits))),
    "duo": (Uniform(V), lambda o: DUO(told(o, lambda p: p.leave_one_out().log()))),
    "sedd": (Absorbing(V - 1), lambda o: SEDD(told(o, lambda p: p.log_ratio()))),
    "sedd uniform": (
        Uniform(V),
        lambda o: SEDD(told(o, lambda p: p.log_ratio()), kernel=o.process.kernel),
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_reads_exact_logits(case):
    """An adapter around a network that knows the law has the posterior of the exact denoiser.

    In float64, but for rounding in a round trip of the time through sigma. The first position of
    a shifted network keeps its own logits, which belong to the second: it is given here.
    """
    kernel, wrap = EXACT[case]
    oracle = exact(kernel)
    generator = seeded(6)
    x_0 = torch.randint(FIRST, V - 2, (6, 7), generator=generator)
    t = torch.linspace(0.2, 1.0, 6).double()
    free = torch.ones_like(x_0, dtype=torch.bool)
    free[:, 0] = case != "shifted"
    x_t = oracle.process.sample(x_0, t, generator, free=free)
    ours, theirs = wrap(oracle)(x_t, t, None), oracle(x_t, t, None)
    torch.testing.assert_close(
        ours.posterior()[free], theirs.posterior()[free], rtol=1e-8, atol=1e-10
    )


def test_a_shift_moves_the_input_of_the_head():
    """Logits are those of the network, one position to the right; the first keeps its own."""
    denoiser, (x_0, free) = make("dream"), ragged(2)
    with torch.no_grad():
        plain = denoiser.backbone(x_0).logits
        found = denoiser(x_0, torch.ones(2).double(), free).output
    drawn = [i for i in range(V) if i not in (PAD, MASK)]
    torch.testing.assert_close(found[:, 1:, drawn], plain[:, :-1, drawn])
    torch.testing.assert_close(found[:, 0, drawn], plain[:, 0, drawn])


def test_time_free_posterior_is_the_output_from_the_floor_on():
    """DiffusionGemma's logits are full posteriors; below the floor, clean tokens become certain."""
    denoiser, (x_0, free) = make("diffusion_gemma"), ragged(3)
    prediction = denoiser(x_0, torch.tensor([0.05, 0.4, 1.0]).double(), free)
    expected = prediction.output.softmax(-1)
    torch.testing.assert_close(prediction.posterior()[free], expected[free])
    below = denoiser(x_0, torch.tensor(3 * [1e-6]).double(), free).posterior()
    assert (below.gather(-1, x_0[..., None])[..., 0][free] > 0.9).all()


def test_prompt_is_encoded_once_and_logits_are_carried():
    """In one run of a sampler: one call of the encoder, and each call is told the last logits."""
    denoiser, (x_0, free) = make("diffusion_gemma"), ragged(3)
    encoded, told_logits = [], []
    model = denoiser.backbone.model
    model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    model.decoder.register_forward_pre_hook(
        lambda _, __, kwargs: told_logits.append(kwargs["self_conditioning_logits"]),
        with_kwargs=True,
    )
    x = denoiser.process.sample_prior(x_0, free, seeded())
    for run in (1, 2):
        Analytic()(denoiser, x, SamplingSchedule.uniform(4), free=free, generator=seeded())
        assert len(encoded) == run
    assert [logits is None for logits in told_logits] == 2 * [True, False, False, False]
    # Per run, the two columns of all prompts once and the canvas of 10 columns four times.
    assert denoiser.num_tokens == 2 * 3 * (2 + 4 * 10)
    assert denoiser.memory is None


def test_memory_follows_rows():
    """Rows of a run are told their own logits, and what they learn comes back."""
    denoiser, (x_0, free) = make("diffusion_gemma"), ragged(3)
    t, some = torch.full((3,), 0.5).double(), torch.tensor([2, 0])
    with torch.no_grad():
        whole, parted = denoiser.start(), denoiser.start()
        for run in (whole, parted):
            run(x_0, t, free)
        expected = whole(x_0, t, free).output[some]
        found = parted.rows(some)(x_0[some], t[some], free[some]).output
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(parted.memory.logits[some], whole.memory.logits[some])
        assert not torch.equal(parted.memory.logits[1], whole.memory.logits[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance(family):
    """Scale 0 is the conditional model; others move away from the one without a prompt."""
    denoiser, (x_0, free) = make(family), ragged(4)
    x, t = denoiser.process.sample_prior(x_0, free, seeded()), torch.ones(4).double()
    with torch.no_grad():
        plain = denoiser(x, t, free).leave_one_out()[free]
        same = Guided(denoiser, denoiser, 0.0)
        torch.testing.assert_close(same(x, t, free).leave_one_out()[free], plain)
        guided = Guided(denoiser, denoiser, 1.5)
        hidden = denoiser(guided.hide(x, free), t, free).leave_one_out()[free]
        expected = (plain.log() * 2.5 - hidden.log() * 1.5).nan_to_num(-torch.inf).softmax(-1)
        torch.testing.assert_close(
            guided(x, t, free).leave_one_out()[free], expected, rtol=1e-3, atol=1e-5
        )
        samples = Analytic()(guided, x, [1.0, 0.5, 0.0], free=free, generator=seeded())
    assert samples.num_calls == 4
    assert torch.equal(samples.tokens[~free], x_0[~free])
    assert not (guided.hide(x, free) == x)[~free & ~denoiser.is_banned(x)].all()


def test_guidance_hides_the_prompt_alone():
    """Special tokens and padding stay in the unconditional call, the prompt becomes masks."""
    denoiser = make("bert")
    x = torch.tensor([[CLS, 7, 8, MASK, MASK, SEP, PAD]])
    hidden = Guided(denoiser, denoiser, 1.0).hide(x, x == MASK)
    assert hidden.tolist() == [[CLS, MASK, MASK, MASK, MASK, SEP, PAD]]


def test_guidance_follows_rows():
    """Rows that are finished are left out of both calls, which count as two."""
    denoiser, (x_0, free) = make("bert"), ragged(4)
    free[1:, 3:] = False
    x = denoiser.process.sample_prior(x_0, free, seeded())
    guided = Guided(denoiser, denoiser, 1.0)
    samples = KGillespie()(guided, x, SamplingSchedule.uniform(8), free=free, generator=seeded())
    assert samples.num_calls == 16
    assert samples.num_rows < 2 * 4 * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_in_blocks(family):
    """Block after block: given tokens stay, no mask is left, calls add up."""
    denoiser, (x_0, free) = make(family), ragged(4)
    x = denoiser.process.sample_prior(x_0, free, seeded())
    schedules = [SamplingSchedule.uniform(n) for n in (2, 1, 1)]
    out = sample_blocks(Analytic(), denoiser, x, schedules, 4, free=free, generator=seeded())
    assert out.num_calls == 4  # the first free column is 2: columns 2-5, 6-9 and 10
    assert torch.equal(out.tokens[~free], x_0[~free])
    denoiser.process.kernel.check_tokens(out.tokens)


@pytest.mark.parametrize("sampler", [KGillespie(), Reveal(Entropy())], ids=repr)
def test_blocks_are_generated_in_order(sampler):
    """The network sees later blocks as masks, and never a token of a block that is to come."""
    seen = []

    def answer(x, _):
        seen.append(x.clone())
        return torch.zeros(*x.shape, V)

    denoiser = LLaDA(Oracle(answer), IDS)
    x = torch.full((3, 9), MASK)
    x[:, 0] = CLS
    sample_blocks(
        sampler,
        denoiser,
        x,
        SamplingSchedule.uniform(2),
        4,
        free=x == MASK,
        generator=seeded(),
    )
    assert [(s[:, 5:] == MASK).all().item() for s in seen] == [True, True, True, False]
    assert all((s[:, 1:5] != MASK).all() for s in seen[2:])


def test_end_of_text_ends_a_row():
    """A row that has ended is filled and takes part in no further block."""

    def answer(x, _):
        out = torch.full((*x.shape, V), -torch.inf)
        out[..., FIRST] = 0.0
        ends = x[:, 0] == CLS
        out[ends, 2, FIRST], out[ends, 2, SEP] = -torch.inf, 0.0
        return out

    x = torch.full((2, 7), MASK)
    x[:, 0] = torch.tensor([CLS, FIRST])
    out = sample_blocks(
        Analytic(),
        LLaDA(Oracle(answer), IDS),
        x,
        SamplingSchedule.uniform(1),
        3,
        free=x == MASK,
        eos=SEP,
        generator=seeded(),
    )
    assert out.tokens.tolist() == [[CLS, FIRST, *5 * [SEP]], 7 * [FIRST]]
    assert (out.num_calls, out.num_rows) == (2, 3)


def test_block_masks_cover_the_free_positions():
    """Every free position is in one block; blocks begin at the first free column of any row."""
    _, free = ragged(5)
    masks = block_masks(free, 4)
    assert torch.equal(torch.stack(masks).sum(0), free.long())
    assert [mask.any(0).nonzero().squeeze(-1).tolist() for mask in masks] == [
        [2, 3, 4, 5],
        [6, 7, 8, 9],
        [10],
    ]
    assert block_masks(free & False, 4) == []


def test_one_schedule_per_block():
    """Another number of schedules than blocks is refused, with both numbers."""
    denoiser, (x_0, free) = make("bert"), ragged(2)
    x = denoiser.process.sample_prior(x_0, free)
    with pytest.raises(ValueError, match="each of the 3 blocks, got 1"):
        sample_blocks(Analytic(), denoiser, x, [SamplingSchedule.uniform(2)], 4, free=free)


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_models_pass_the_check(family):
    """Networks of random weights have no fault that a few calls could show."""
    denoiser, (x_0, free) = make(family), ragged()
    check_model(denoiser, x_0, None if family in ("bert", "llada") else free)


def test_causal_models_are_found():
    """A causal network is refused, as it is and shifted; full attention mends it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model, (x_0, _) = LlamaForCausalLM(LlamaConfig(**SIZES)).eval(), ragged()
    for family in (LLaDA, ShiftedLM):
        with pytest.raises(ValueError, match=r"network is causal.*`Bidirectional`"):
            check_model(family(model, IDS), x_0)
        check_model(family(Bidirectional(model), IDS), x_0)


@pytest.mark.parametrize(("family", "other"), [(LLaDA, ShiftedLM), (ShiftedLM, LLaDA)])
def test_the_wrong_reading_is_found(family, other):
    """Logits that fit the data better when moved by one name the class that moves them."""
    oracle = exact(Absorbing(V, mask=MASK))
    network = told(oracle, lambda p: logits(p).roll(-other.offset, 1).clamp(min=-20)).eval()
    law, generator = oracle.transition.clone(), seeded(8)
    x_0 = torch.empty(24, 12, dtype=torch.long)
    x_0[:, 0] = torch.multinomial(oracle.initial, 24, True, generator=generator)
    for i in range(1, 12):
        x_0[:, i] = torch.multinomial(law[x_0[:, i - 1]], 1, generator=generator).squeeze(-1)
    with pytest.raises(ValueError, match=f"`.*{other.__name__}"):
        check_model(family(network, IDS), x_0)
    check_model(other(network, IDS), x_0)


def test_check_refuses_training_mode_and_special_tokens():
    """Dropout and tokens that are never drawn are found before anything is sampled."""
    denoiser, (x_0, free) = make("bert"), ragged()
    with pytest.raises(ValueError, match="never drawn, got"):
        check_model(denoiser, x_0, torch.ones_like(free))
    with pytest.raises(ValueError, match="evaluation mode"):
        check_model(denoiser.train(), x_0, free)


def test_bad_vocabularies():
    """No mask, ids beyond the logits and logits beyond the kernel: one clear error each."""
    network = Oracle(lambda x, _: torch.zeros(*x.shape, V - 1))
    with pytest.raises(ValueError, match="must have a mask token, got none"):
        MaskedLM(network, TokenIds(V, pad=PAD))
    with pytest.raises(ValueError, match="than the model has logits, 20, got 24"):
        TokenIds(20, num_tokens=24)
    with pytest.raises(ValueError, match="than the model has logits, 4, got 5"):
        TokenIds(4, mask=MASK)
    with pytest.raises(ValueError, match=r"must return logits of the shape \(2, 12, 24\)"):
        MaskedLM(network, IDS)(ragged(2)[0], torch.ones(2).double())
    with pytest.raises(ValueError, match="`vocab_size` must be given"):
        MDLM(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="vocabulary and the mask of `denoiser`"):
        Guided(make("bert"), make("mdlm"), 1.0)


@pytest.mark.parametrize(("family", "most"), [("bert", 32), ("roberta", 31), ("mdlm", 32)])
def test_long_sequences_are_refused(family, most):
    """The longest context works, one more token is an error with both numbers."""
    denoiser = make(family)
    x, t = torch.full((1, most), FIRST), torch.ones(1).double()
    denoiser(x, t)
    with pytest.raises(ValueError, match=f"context, {most} tokens, got {most + 1}"):
        denoiser(nn.functional.pad(x, (0, 1), value=FIRST), t)


def test_gemma_needs_a_prompt():
    """Without a prompt there is nothing to encode, which is said."""
    x = torch.full((1, 4), FIRST)
    with pytest.raises(ValueError, match="leave the first column given"):
        make("diffusion_gemma")(x, torch.ones(1).double())


def test_ids_without_a_meaning_are_never_drawn():
    """Logits beyond the tokenizer's ids, rows of a table that was rounded up, are banned."""
    ids = TokenIds(V, mask=MASK, pad=PAD, eos=PAD, special=(PAD, MASK), num_tokens=V - 2)
    network = Oracle(lambda x, _: torch.zeros(*x.shape, V))
    assert LLaDA(network, ids).banned == (V - 2, V - 1)
    assert MaskedLM(network, ids).banned == (PAD, V - 2, V - 1)


def test_counts_reveal_every_token():
    """Counts are at least one per step and add up, in the loop of LLaDA and Dream."""
    process = ForwardProcess(Absorbing(V, mask=MASK), LogLinear())
    counts = counts_per_step(process, SamplingSchedule.cosine(6), [6, 32])
    assert [sum(row) for row in counts] == [6, 32]
    assert counts[0] == 6 * [1]
    assert counts[1][0] < counts[1][-1]
    assert counts_per_step(process, [1.0, 0.75, 0.0], 8) == [[2, 6]]


def test_flow_matching_takes_our_steps():
    """Their Euler step on our grid reveals as much as our step, all at the last one."""
    process = ForwardProcess(Absorbing(V, mask=MASK), LogLinear())
    times = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.0]).double()
    u = flow_matching_grid(process, times)
    assert u[0] == 0
    assert u[-1] == 1
    theirs = torch.exp(-(u.diff() / (1 - u[:-1]))[:-1])  # the rate of a jump is 1 / (1 - u)
    torch.testing.assert_close(theirs, times[1:-1] / times[:-2])
    with pytest.raises(ValueError, match="more than 1 / e of the masks"):
        flow_matching_grid(process, [1.0, 0.3, 0.0])


def test_optimal_schedules_beat_uniform_ones_with_a_trained_bert():
    """On a chain, a briefly trained BERT breaks fewer pairs with the schedule of its table.

    Tokens go up by one, and start anew with probability .05, so a token tells those around it:
    the first step should reveal few. Four steps, 4,096 samples of 11 pairs: with three seeds of the
    training, .36, .36 and .41 are broken with uniform times, .29, .28 and .32 with optimal ones.
    The standard error of the difference is at most .011, as if all pairs of a sample broke
    together; less than half of the gain is asked.
    """
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        **{**SIZES, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    denoiser, generator, size = MaskedLM(BertForMaskedLM(config), IDS), seeded(9), 6
    anew = torch.rand(4096, 12, generator=generator) < 0.05
    up = torch.where(anew, torch.randint(size, (4096, 12), generator=generator), 1)
    up[:, 0] = torch.randint(size, (4096,), generator=generator)
    x_0 = nn.functional.pad(up.cumsum(-1) % size + FIRST, (1, 0), value=CLS)
    free = denoiser.free_of(x_0)
    train(denoiser, x_0, free, 350, rate=5e-3)
    denoiser.eval()
    optimizer = OptimalSteps(num_times=24, pilot_times=8)
    found = optimizer(denoiser, Analytic(), x_0[:256], 4, free=free[:256], generator=generator)
    broken = []
    for schedule in (SamplingSchedule.uniform(4), found.schedules[4]):
        x = denoiser.process.sample_prior(x_0, free, generator)
        out = Analytic()(denoiser, x, schedule, free=free, generator=generator).tokens[:, 1:]
        broken.append(float(((out.diff(dim=-1) - 1) % size != 0).double().mean()))
    assert broken[1] < broken[0] - 0.03, broken


@pytest.mark.slow
def test_optimal_schedules_beat_uniform_ones_with_a_trained_diffusion_gemma():
    """On CountDown, a briefly trained DiffusionGemma breaks fewer pairs, at N = 4 and at 8.

    With 200 steps of training and three seeds of the network .356, .382 and .286 of the pairs are
    broken with uniform times at N = 4 and .318, .312 and .248 with optimal ones, at N = 8 .273,
    .291, .200 and .230, .244, .146; with 150 steps, as here, .292 and .251, .211 and .147. 2,048
    samples of 11 pairs: the standard error of a difference is at most .0055, as if all pairs of a
    sample broke together. A third of the smallest gain is asked, a false alarm in 1e-5 of runs.
    """
    size = 6
    torch.manual_seed(0)
    changes = {"vocab_size": size + 2, "hidden_size": 32, "intermediate_size": 64}
    denoiser = gemma(**changes, num_attention_heads=4)
    x_0 = sample_chain(*countdown_chain(size), 4096, 12, seeded()) + 2
    x_0 = nn.functional.pad(x_0, (1, 0), value=CLS)
    free = torch.arange(13).expand_as(x_0) > 0
    train(denoiser, x_0, free, 150, rate=3e-2, batch_size=128, decay=0.98)
    denoiser.eval()
    optimizer = OptimalSteps(num_times=24, pilot_times=8)
    some = x_0[:256], [4, 8]
    found = optimizer(denoiser, Analytic(), *some, free=free[:256], generator=seeded(1))
    x_0, free = x_0[:2048], free[:2048]
    for number, schedule in found.schedules.items():
        broken = []
        for plan in (SamplingSchedule.uniform(number), schedule):
            generator = seeded(5)
            x = denoiser.process.sample_prior(x_0, free, generator)
            out = Analytic()(denoiser, x, plan, free=free, generator=generator).tokens[:, 1:]
            first, second = out[:, :-1], out[:, 1:]
            fits = (first >= 2) & (second >= 2) & ((first - second == 1) | (first == 2))
            broken.append(float((~fits).double().mean()))
        assert broken[1] < broken[0] - 0.013, (number, broken)


class Foreign(nn.Module):
    """A network of tokens by another name, which returns a mapping."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, V)

    def forward(self, idx):
        return {"logits": self.embed(idx)}


def test_networks_of_other_arguments():
    """One that takes others is told what to write; logits in a mapping are found."""
    network, x = Foreign(), torch.full((1, 3), FIRST)
    process = ForwardProcess(Absorbing(V, mask=MASK), LogLinear())
    for denoiser, name in (
        (MaskedLM(network, TokenIds(V, mask=MASK)), "MaskedLM"),
        (MeanDenoiser(network, process), "MeanDenoiser"),
    ):
        with pytest.raises(TypeError, match=f"what `{name}` calls it with.*`time=NoTime"):
            denoiser(x, 0.5)
    network.forward = lambda input_ids: {"logits": network.embed(input_ids)}
    logits = MaskedLM(network, TokenIds(V, mask=MASK))(x, 0.5).output
    torch.testing.assert_close(logits, network.embed(x))
