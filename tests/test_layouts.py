"""Weights in the layouts of MDLM, DUO, UDLM and SEDD, in our own network."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ddm.adapters import DUO, MDLM, SEDD, TokenIds, load
from ddm.kernels import Absorbing, Uniform
from ddm.noise import Geometric, LogLinear
from ddm.samplers import Analytic

V, WIDTH, TOLD, HEADS, DEPTH, CONTEXT = 19, 16, 8, 2, 2, 12
HUB = {
    "vocab_size": V,
    "hidden_dim": WIDTH,
    "cond_dim": TOLD,
    "n_blocks": DEPTH,
    "n_heads": HEADS,
    "model_length": CONTEXT,
    "dropout": 0.1,
}
NESTED = {
    "tokens": V,
    "model": {
        "hidden_size": WIDTH,
        "cond_dim": TOLD,
        "n_blocks": DEPTH,
        "n_heads": HEADS,
        "length": CONTEXT,
        "scale_by_sigma": True,
    },
    "graph": {"type": "absorb"},
    "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
}
LAYOUTS = {
    "mdlm": {**HUB, "model_type": "mdlm", "time_conditioning": False},
    "mdlm told sigma": {**HUB, "model_type": "mdlm", "time_conditioning": True},
    "udlm": {**HUB, "model_type": "udlm", "time_conditioning": True, "cfg": False},
    "duo": {**HUB, "model_type": "DUO", "causal": False, "var_min": False},
    "sedd": NESTED,
    "sedd uniform": {
        **NESTED,
        "graph": {"type": "uniform"},
        "noise": {"type": "geometric", "sigma_min": 1e-4, "sigma_max": 20},
        "model": {**NESTED["model"], "scale_by_sigma": False},
    },
}


def names(states):
    """Return names and shapes of weights as their files have them."""
    shapes = {
        "vocab_embed.embedding": (states, WIDTH),
        "sigma_map.mlp.0.weight": (TOLD, 256),
        "sigma_map.mlp.0.bias": (TOLD,),
        "sigma_map.mlp.2.weight": (TOLD, TOLD),
        "sigma_map.mlp.2.bias": (TOLD,),
        "rotary_emb.inv_freq": (WIDTH // HEADS // 2,),
        "output_layer.norm_final.weight": (WIDTH,),
        "output_layer.linear.weight": (states, WIDTH),
        "output_layer.linear.bias": (states,),
        "output_layer.adaLN_modulation.weight": (2 * WIDTH, TOLD),
        "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
    }
    block = {
        "norm1.weight": (WIDTH,),
        "attn_qkv.weight": (3 * WIDTH, WIDTH),
        "attn_out.weight": (WIDTH, WIDTH),
        "norm2.weight": (WIDTH,),
        "mlp.0.weight": (4 * WIDTH, WIDTH),
        "mlp.0.bias": (4 * WIDTH,),
        "mlp.2.weight": (WIDTH, 4 * WIDTH),
        "mlp.2.bias": (WIDTH,),
        "adaLN_modulation.weight": (6 * WIDTH, TOLD),
        "adaLN_modulation.bias": (6 * WIDTH,),
    }
    return shapes | {f"blocks.{i}.{k}": shape for i in range(DEPTH) for k, shape in block.items()}


def write(folder, layout, change=None):
    """Write a model with random weights as its authors do; return weights without prefixes."""
    config = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(0)
    states = V + (layout == "sedd")
    weights = {
        name: 0.2 * torch.randn(shape, generator=generator) + ("norm" in name)
        for name, shape in names(states).items()
    }
    if change is not None:
        change(weights)
    prefix = "" if "graph" in config else "backbone."
    save_file({prefix + k: w for k, w in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def reference(weights, x, sigma):
    """Return the logits by the formulas of a diffusion transformer, step by step, in float64."""
    w = {name: weight.double() for name, weight in weights.items()}

    def linear(name, h):
        out = h @ w[name + ".weight"].T
        return out + w[name + ".bias"] if name + ".bias" in w else out

    def norm(name, h, shift, scale):
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return h * w[name] * (1 + scale[:, None]) + shift[:, None]

    def turned(h):  # as complex numbers, the first half of the features real
        half = WIDTH // HEADS // 2
        angle = torch.arange(x.shape[1])[:, None] / 10_000 ** (torch.arange(half) / half)
        turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128)[:, None]
        h = torch.complex(h[..., :half], h[..., half:]) * turn
        return torch.cat([h.real, h.imag], -1)

    waves = sigma.double()[:, None] * torch.exp(-math.log(1e4) * torch.arange(128) / 128)
    told = linear("sigma_map.mlp.0", torch.cat([waves.cos(), waves.sin()], -1))
    told = F.silu(linear("sigma_map.mlp.2", F.silu(told)))
    h = w["vocab_embed.embedding"][x]
    for i in range(DEPTH):
        place = f"blocks.{i}."
        a, b, gate, c, d, last = linear(place + "adaLN_modulation", told).chunk(6, -1)
        qkv = linear(place + "attn_qkv", norm(place + "norm1.weight", h, a, b))
        q, k, v = qkv.view(*x.shape, 3, HEADS, -1).unbind(2)
        score = torch.einsum("bihd,bjhd->bhij", turned(q), turned(k)) / (WIDTH / HEADS) ** 0.5
        seen = torch.einsum("bhij,bjhd->bihd", score.softmax(-1), v).flatten(2)
        h = h + gate[:, None] * linear(place + "attn_out", seen)
        inner = linear(place + "mlp.0", norm(place + "norm2.weight", h, c, d))
        h = h + last[:, None] * linear(place + "mlp.2", F.gelu(inner, approximate="tanh"))
    shift, scale = linear("output_layer.adaLN_modulation", told).chunk(2, -1)
    return linear("output_layer.linear", norm("output_layer.norm_final.weight", h, shift, scale))


def batch(states):
    """Return tokens and noise levels."""
    x = torch.randint(states, (3, 10), generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.05, 0.9, 6.0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_is_that_of_their_formulas(layout, tmp_path):
    """Names, shapes, folded norms and constants: the output is that of their network.

    In float32 against float64, logits of up to 4: rounding is below 1e-4.
    """
    weights = write(tmp_path, layout)
    denoiser = load(tmp_path).denoiser
    x, sigma = batch(denoiser.process.kernel.num_states)
    told = torch.zeros(3) if layout == "mdlm" else sigma
    expected = reference(weights, x, told)
    if layout.startswith("sedd"):
        if layout == "sedd":
            expected = expected - (torch.expm1(sigma).log() + math.log(V))[:, None, None]
        expected = expected.scatter(-1, x[..., None], 0.0)
    with torch.no_grad():
        output = denoiser.backbone(x, sigma)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-4)


PROCESSES = {
    "mdlm": (MDLM, Absorbing(V, mask=V - 1), LogLinear),
    "udlm": (DUO, Uniform(V), LogLinear),
    "duo": (DUO, Uniform(V), LogLinear),
    "sedd": (SEDD, Absorbing(V), LogLinear),
    "sedd uniform": (SEDD, Uniform(V), Geometric),
}


@pytest.mark.parametrize("layout", PROCESSES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_kernel_and_noise_come_with_the_weights(layout, dtype, tmp_path):
    """The denoiser has kernel and noise of its family, and samples, in float32 and bfloat16."""
    write(tmp_path, layout)
    denoiser = load(tmp_path, dtype=dtype).denoiser
    family, kernel, noise = PROCESSES[layout]
    assert type(denoiser) is family
    assert repr(denoiser.process.kernel) == repr(kernel)
    assert type(denoiser.process.noise) is noise
    assert next(denoiser.parameters()).dtype == (dtype or torch.float32)
    assert denoiser.time_free == (layout == "mdlm")
    x = denoiser.process.sample_prior(torch.zeros(2, 8, dtype=torch.long))
    samples = Analytic()(denoiser, x, [1.0, 0.5, 0.0])
    kernel.check_tokens(samples.tokens)


def test_mask_of_a_tokenizer_is_used(tmp_path):
    """MDLM on the vocabulary of BERT has its mask in the middle."""

    class Tokenizer:
        mask_token_id = 7

    write(tmp_path, "mdlm")
    loaded = load(tmp_path, tokenizer=Tokenizer())
    assert loaded.denoiser.process.kernel.mask == 7
    assert isinstance(loaded.tokenizer, Tokenizer)
    assert load(tmp_path).tokenizer is None
    assert load(tmp_path, tokenizer=TokenIds(V, mask=5)).denoiser.process.kernel.mask == 5


def test_contexts_are_kept(tmp_path):
    """A sequence longer than those of the training is an error with both numbers."""
    write(tmp_path, "sedd")
    denoiser = load(tmp_path).denoiser
    with pytest.raises(ValueError, match="context, 12 tokens, got 13"):
        denoiser(torch.zeros(1, 13, dtype=torch.long), 0.5)


FAULTS = {
    "missing": (
        lambda w: w.pop("blocks.1.mlp.2.bias"),
        r"1 are missing: blocks\.1\.mlp\.2\.bias \(16,\)",
    ),
    "unknown": (
        lambda w: w.update({"cond_map.weight": torch.zeros(3)}),
        r"1 are unknown: cond_map\.weight;",
    ),
    "shape": (
        lambda w: w.update({"sigma_map.mlp.2.bias": torch.zeros(9)}),
        r"1 have shapes .* sigma_map\.mlp\.2\.bias \(8,\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_weights_are_named(fault, tmp_path):
    """Missing, unknown and misshapen weights: one error that names them."""
    change, message = FAULTS[fault]
    write(tmp_path, "duo", change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_blocks": None}, "whole number `n_blocks`, got None"),
        ({"n_blocks": True}, "whole number `n_blocks`, got True"),
        ({"causal": True}, "without classes, got `causal` True"),
        ({"cfg": True}, "`cfg` True"),
        ({"n_heads": 3}, "must be a multiple of `num_heads`"),
        ({**NESTED, "graph": {"type": "both"}}, r"`graph\.type` of \('absorb', 'uniform'\)"),
        ({**NESTED, "noise": {"type": "both"}}, r"`noise\.type` of .*, got 'both'"),
    ],
)
def test_configurations_that_are_not_ours(change, message, tmp_path):
    """What the network cannot be is said, with the entry of `config.json`."""
    config = LAYOUTS["sedd" if "graph" in change else "duo"]
    write(tmp_path, "sedd" if "graph" in change else "duo")
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_files_without_weights(tmp_path):
    """No safetensors, and damaged ones."""
    write(tmp_path, "mdlm")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged weights"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must hold `\*\.safetensors`, got none"):
        load(tmp_path)
