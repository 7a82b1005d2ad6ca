"""`load`: a folder as its authors publish it becomes a denoiser and its tokenizer."""

import json
import logging
import sys

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from ddm.adapters import DiffusionGemma, LLaDA, MaskedLM, ShiftedLM, TokenIds, load

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *"abcdefghijklmnopqrs"]
V, MASK = len(WORDS), 4
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CODE = """
from transformers import Qwen2Config, Qwen2ForCausalLM
class Config(Qwen2Config):
    model_type = "Dream"
class Network(Qwen2ForCausalLM):
    config_class = Config
"""
"""What authors ship whose network transformers does not have."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Nothing is fetched, and no progress is shown."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "disabled", True)


def tokenizer():
    """Return a tokenizer of 19 letters."""
    words = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    letters = Tokenizer(words)
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "CLS", "SEP", "MASK")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, unk_token="[UNK]", eos_token="[SEP]", **special
    )


def network(name, **sizes):
    """Return a network of transformers with random weights."""
    torch.manual_seed(0)
    config = getattr(transformers, name.partition("For")[0] + "Config")
    return getattr(transformers, name)(config(**SIZES, **sizes)).eval()


def saved(model, folder):
    """Save a network and a tokenizer as authors do, and return the folder."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def edit(folder, **entries):
    """Change entries of the configuration in a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


MASKED = {
    "BertForMaskedLM": {},
    "RobertaForMaskedLM": {},
    "ModernBertForMaskedLM": {"cls_token_id": 1, "sep_token_id": 2},
    "EsmForMaskedLM": {"mask_token_id": MASK, "position_embedding_type": "rotary"},
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_language_models(name, tmp_path):
    """A folder of any `...ForMaskedLM` gives its logits, mask, padding and special tokens."""
    model = network(name, **MASKED[name])
    found = load(saved(model, tmp_path))
    assert type(found.denoiser) is MaskedLM
    assert found.denoiser.process.kernel.mask == MASK
    assert found.denoiser.pad == 0
    assert found.denoiser.banned == (0, 1, 2, 3)
    assert not found.denoiser.training
    x = found.tokenizer(["a [MASK] c"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=x, attention_mask=torch.ones_like(x)).logits
        output = found.denoiser(x, 0.5).output
    torch.testing.assert_close(output[..., 5:], expected[..., 5:])


@pytest.mark.parametrize("adapter", [LLaDA, ShiftedLM])
def test_causal_networks_see_all_tokens(adapter, tmp_path):
    """A causal network with the conventions that the user names sees both sides."""
    folder = saved(network("LlamaForCausalLM"), tmp_path)
    found = load(str(folder), adapter=adapter)
    assert type(found.denoiser) is adapter
    x = torch.randint(5, V, (1, 6), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, -1] = MASK
    with torch.no_grad():
        before, after = (found.denoiser(tokens, 0.5).output for tokens in (x, changed))
    assert not torch.allclose(before[:, 1:3, 5:], after[:, 1:3, 5:])


def test_code_of_others_runs_only_if_it_is_trusted(tmp_path, monkeypatch):
    """Networks that are code in the folder are refused, and run where the user allows it."""
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache")
    )
    folder = saved(network("Qwen2ForCausalLM", num_key_value_heads=2), tmp_path / "dream")
    (folder / "theirs.py").write_text(CODE)
    auto = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Network"}
    edit(folder, architectures=["DreamModel"], model_type="Dream", auto_map=auto)
    with pytest.raises(ValueError, match=r"`trust_remote_code` must be true.*theirs\.Network"):
        load(folder)
    assert "cache" not in [path.name for path in tmp_path.iterdir()]
    found = load(folder, trust_remote_code=True)
    assert type(found.denoiser) is ShiftedLM
    assert type(found.denoiser.backbone).__name__ == "Network"


def test_diffusion_gemma(tmp_path):
    """A folder of DiffusionGemma becomes its adapter, with the uniform kernel."""
    text = transformers.DiffusionGemmaTextConfig(
        **{**SIZES, "num_hidden_layers": 2},
        num_key_value_heads=1,
        head_dim=8,
        global_head_dim=8,
        moe_intermediate_size=16,
        num_experts=2,
        top_k_experts=1,
        layer_types=["sliding_attention", "full_attention"],
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    vision = transformers.AutoConfig.for_model(
        "gemma4_vision", **small, num_hidden_layers=1, num_key_value_heads=2
    )
    config = transformers.DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=8
    )
    model = transformers.DiffusionGemmaForBlockDiffusion(config)
    found = load(saved(model, tmp_path))
    assert type(found.denoiser) is DiffusionGemma
    assert found.denoiser.process.kernel.vocab_size == V


def test_type_of_weights_and_ids_by_hand(tmp_path):
    """The weights take a type, and `TokenIds` stand for a tokenizer that is not there."""
    network("BertForMaskedLM").save_pretrained(tmp_path)
    ids = TokenIds(V, mask=MASK, pad=0)
    found = load(tmp_path, tokenizer=ids, dtype=torch.bfloat16)
    assert found.tokenizer is ids
    assert next(found.denoiser.parameters()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"tokenizer of the model.*knows no words"):
        load(tmp_path)


def test_unknown_families(tmp_path):
    """An unknown architecture is refused with all that would mend it."""
    folder = saved(network("LlamaForCausalLM"), tmp_path)
    with pytest.raises(ValueError, match=r"'LlamaForCausalLM'.*`ShiftedLM`.*MDLM, DUO, SEDD"):
        load(folder)
    edit(folder, architectures=["WhateverForMaskedLM"])
    with pytest.raises(ValueError, match="bring its code, got 'WhateverForMaskedLM'"):
        load(folder)
    edit(folder, architectures=None, model_type=None)
    with pytest.raises(ValueError, match="known family"):
        load(folder)


def test_missing_and_wrong_weights(tmp_path):
    """A body without its head, weights of another shape and damaged files: the keys are named."""
    folder = saved(network("BertForMaskedLM"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "cls.predictions.transform.dense.bias"
    save_file({k: w for k, w in weights.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 that are not there, {name}, which would be random"):
        load(folder)
    save_file({**weights, name: torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 of another shape, .*{name}"):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="network that can be loaded"):
        load(folder)


def test_bad_sources(tmp_path, monkeypatch):
    """No folder, no configuration, a name that cannot be fetched, a package that is missing."""
    with pytest.raises(ValueError, match="which is neither"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="which is neither"):
        load("nothing")
    with pytest.raises(ValueError, match=r"must hold a `config\.json`"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must be a mapping, got a list"):
        load(tmp_path)
    with pytest.raises(ValueError, match="or a name that can be fetched, got 'nobody/nothing'"):
        load("nobody/nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs the package huggingface_hub"):
        load("nobody/nothing")
