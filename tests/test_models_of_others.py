"""Commands with models that somebody else trained: tiny ones with random weights, saved."""

import json
import math
import shlex
import shutil
from itertools import pairwise

import pytest
import torch

from ddm.adapters import LLaDA, MaskedLM, TokenIds
from ddm.commands import compared, evaluate, optimize, sample
from ddm.commands.prompt_data import Prompts
from ddm.commands.prompt_file import Piece, infill, prompt, read_prompts
from ddm.schedules import OptimalCounts, OptimalSteps, Optimized

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
PAD, CLS, SEP, UNK, MASK = range(5)
WORDS = ["the", "dog", "barks", "a", "cat", "sleeps", "and", "eats", "all", "day"]
WORDS += ["while", "we", "go", "home"]
V = len(SPECIAL) + len(WORDS)
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


def words(*names):
    """Return the ids of words."""
    return [(SPECIAL + WORDS).index(name) for name in names]


@pytest.fixture(scope="module")
def tokenizer():
    """A fast tokenizer of words, as transformers has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="[SEP]", **names)


@pytest.fixture(scope="module")
def bert(tmp_path_factory, tokenizer):
    """The folder of a BERT."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "little-bert"
    BertForMaskedLM(BertConfig(**SIZES, initializer_range=0.3)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tokenizer):
    """The folder of a Llama, whose conventions are LLaDA's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "llama"
    config = LlamaConfig(**SIZES, initializer_range=0.3, mask_token_id=MASK)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path):
    """A file with all forms of a line."""
    lines = [
        {"prompt": "the dog"},
        {"text": "a cat sleeps and eats all day"},
        {"prompt": "we", "text": "go home"},
        {"infill": ["the", "and a cat", "sleeps"]},
        {"infill": [words("dog"), words("barks")]},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


@pytest.fixture
def coarse(monkeypatch):
    """Commands whose tables have few times."""

    def steps(**arguments):
        return OptimalSteps(**arguments, num_times=6, pilot_times=4)

    def counts(**arguments):
        return OptimalCounts(**arguments, num_times=8, num_tries=2)

    for command in (optimize, compared):
        monkeypatch.setattr(command, "OptimalSteps", steps)
        monkeypatch.setattr(command, "OptimalCounts", counts)


def test_files_of_prompts(prompts, tmp_path):
    """Text files hold a prompt a line, JSON lines prompts, texts and infill; empty lines none."""
    given, gap = Piece("the dog", False), Piece(None, True)
    assert read_prompts(prompts) == [
        (given, gap),
        (Piece("a cat sleeps and eats all day", True),),
        (Piece("we", False), Piece("go home", True)),
        (Piece("the", False), gap, Piece("and a cat", False), gap, Piece("sleeps", False)),
        (Piece(words("dog"), False), gap, Piece(words("barks"), False)),
    ]
    (tmp_path / "prompts.txt").write_text("the dog\n\n the cat\n")
    assert read_prompts(tmp_path / "prompts.txt") == [(given, gap), prompt(" the cat")]


@pytest.mark.parametrize(
    "line",
    [
        "the dog",
        "[1, 2]",
        '{"prompt": null}',
        '{"prompt": 3}',
        '{"prompt": [1.5]}',
        '{"prompt": [true]}',
        '{"infill": ["the"]}',
        '{"infill": ["the", null]}',
        '{"infill": "the"}',
        '{"prompt": "a", "infill": ["a", "b"]}',
        '{"words": "a"}',
    ],
)
def test_bad_lines_are_named(line, tmp_path):
    """A line that says something else is an error with its number."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "the"}\n' + line)
    with pytest.raises(ValueError, match=r"`prompts` must hold [\s\S]*line 2 of"):
        read_prompts(path)


def model(kind, pad=PAD):
    """Return an adapter around no network at all."""
    ids = TokenIds(V, mask=MASK, pad=pad, eos=SEP, special=(PAD, CLS, SEP, UNK, MASK))
    return kind(torch.nn.Identity(), ids)


def test_lines_become_rows(tokenizer):
    """Special tokens stand around a line; gaps are free, texts cut, unknown words given."""
    lines = [prompt("the dog"), infill(["a", "cat"]), (Piece("a zebra eats all day", True),)]
    data = Prompts(lines, tokenizer, model(MaskedLM), 3)
    the, dog, a, cat, eats = words("the", "dog", "a", "cat", "eats")
    assert data.train_tokens.tolist() == [
        [CLS, the, dog, 0, 0, 0, SEP],
        [CLS, a, 0, 0, 0, cat, SEP],
        [CLS, a, UNK, eats, SEP, PAD, PAD],
    ]
    assert [row.nonzero().flatten().tolist() for row in data.free] == [[3, 4, 5], [2, 3, 4], [1, 3]]
    assert data.known.tolist() == [False, False, True]
    assert data.decode(torch.tensor([[CLS, the, MASK, MASK, dog, SEP, PAD]])) == [
        "the\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}dog"
    ]


def test_rows_are_aligned_where_a_model_takes_padding_on_the_left(tokenizer):
    """What is generated begins in one column."""
    data = Prompts([prompt("the dog"), prompt("a")], tokenizer, model(LLaDA), 2)
    the, dog, a = words("the", "dog", "a")
    assert data.train_tokens.tolist() == [
        [CLS, the, dog, 0, 0, SEP],
        [PAD, CLS, a, 0, 0, SEP],
    ]


def test_rows_without_padding(tokenizer):
    """A model that knows no padding generates more where a prompt is shorter."""
    lines = [prompt("the dog barks"), infill(["the", "a"])]
    data = Prompts(lines, tokenizer, model(MaskedLM, pad=None), 2)
    assert data.free.sum(-1).tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"texts of one length .* got 3 and 4 tokens"):
        Prompts([(Piece(t, True),) for t in ("a", "a cat")], tokenizer, model(MaskedLM, None), 4)


def test_optimize_then_sample(bert, prompts, tmp_path, capsys, coarse):
    """Schedules of a model say which it is and serve it, and no other, nor another order."""
    where = [f"--model={bert}", f"--prompts={prompts}", "--num-tokens=4", f"--out={tmp_path}"]
    found = optimize.main([*where, "--num-steps", "2", "3", "--num-samples=16"])
    file = tmp_path / "little-bert.schedules.json"
    assert Optimized.load(file).schedules == found.schedules
    info = found.schedules[2].info
    assert (info["model"], info["data"]) == ("little-bert", "texts and own samples")
    printed = capsys.readouterr().out
    assert "over uniform" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("next: ddm sample"))
    assert set(where[:-1]) < {f"{a}={b}" for a, b in pairwise(shlex.split(line))}
    assert line.endswith(f"--schedule {file} --num-steps 2")

    taken = [f"--schedule={file}", "--num-steps=2"]
    for number, lengths in ((["--num-samples=6"], [6, 4, 3, 13, 6, 6]), ([], [6, 4, 3, 13, 6])):
        paths = sample.main([*where, *taken, *number])  # without a number, one for each line
        text = (tmp_path / "samples.txt").read_text().splitlines()
        assert paths[0] == tmp_path / "samples.txt"
        assert text[0].startswith("the dog ")
        assert [len(line.split()) for line in text] == lengths
    assert "2 steps (" in capsys.readouterr().out

    renamed = shutil.copytree(bert, tmp_path / "other")
    for other, message in (
        ([f"--model={bert}", "--order=entropy"], "`sampler` must be the one that the schedule was"),
        ([f"--model={renamed}"], "`schedule` must be one that was found for '"),
    ):
        with pytest.raises(SystemExit):
            sample.main([*other, *where[1:], *taken])
        assert message in capsys.readouterr().err


def test_orders(llama, tmp_path, capsys, coarse):
    """A schedule for an order names it, and follows no other; samples without a file of prompts."""
    where = [f"--model={llama}", "--adapter=LLaDA", "--order=confidence", "--num-tokens=6"]
    where += [f"--out={tmp_path}"]
    found = optimize.main([*where, "--num-steps", "2", "3", "--num-samples=8"])
    assert found.schedules[3].info["data"] == "the model's own samples"
    assert "nats per sequence" in capsys.readouterr().out
    taken = [f"--schedule={tmp_path / 'llama.schedules.json'}", "--num-samples=2", "--num-steps=3"]
    plain = [word for word in where if word != "--order=confidence"]
    with pytest.raises(SystemExit):
        sample.main([*plain, *taken, "--order=margin"])
    assert "`order` must be the one that the schedule names" in capsys.readouterr().err
    sample.main([*plain, *taken, "--infill", "we go", "home"])
    for text in (tmp_path / "samples.txt").read_text().splitlines():
        assert text.startswith("we go")
        assert text.endswith("home")


def test_evaluate(llama, prompts, tmp_path, capsys, coarse):
    """All schedules are measured on generated tokens; finished cells are not measured again."""
    where = [f"--model={llama}", "--adapter=LLaDA", f"--prompts={prompts}", f"--out={tmp_path}"]
    arguments = [*where, "--num-tokens=4", "--num-steps", "2", "--num-samples=10", "--seeds=1"]
    arguments += ["--num-sequences=16", "--schedules", "uniform", "optimal"]
    cells = evaluate.main(arguments)
    assert set(cells) == {"uniform/2", "optimal/2"}
    assert {"unigram_entropy", "distinct_2"} < set(cells["optimal/2"]["0"])
    assert "sampler_bits_per_token" in cells["optimal/2"]["0"]  # of the texts in the file
    assert evaluate.main(arguments) == cells
    short = ["--num-tokens=4", "--num-steps", "2", "--num-samples=16"]
    found = optimize.main([*where, *short, "--order=random"])
    file = str(tmp_path / "llama.schedules.json")
    where[-1] += "/other"
    cells = evaluate.main([*where, *arguments[4:-2], "uniform", file])
    (bits,) = (c["0"]["sampler_bits_per_token"] for k, c in cells.items() if k.startswith("llama"))
    assert math.isfinite(bits)
    assert found.schedules[2].info["order"]["class_path"].endswith("Random")
    with pytest.raises(SystemExit):
        evaluate.main([*where, *arguments[4:-2], "best"])
    assert "`schedules` must be some of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main([*arguments, "--order=random"])
    assert "results of another evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: checkpoint"),
        (["countdown", "--model=somewhere"], "`checkpoint` must be given, or `model` in its place"),
        (["countdown", "--order=random"], "`order` goes with `model`, got a checkpoint"),
        (["--model=nowhere"], "`source` must be a folder with a model"),
        (["--model=BERT", "--num-tokens=31"], "context of 32 tokens"),
        (["--model=BERT", "--num-tokens=2", "--num-steps", "3"], "at most one step per token"),
        (["--model=BERT", "--prompts=none.txt"], "`prompts` must be a text file"),
        (["--model=BERT", "--tokenizer=./none/at/all"], "`tokenizer` must be a folder or a name"),
        (["--model=LLAMA", "--adapter=MaskedLM", "--num-tokens=4"], "the network is causal"),
    ],
)
def test_bad_input(arguments, message, bert, llama, tmp_path, capsys):
    """What does not fit is one line before long work."""
    where = {"--model=BERT": f"--model={bert}", "--model=LLAMA": f"--model={llama}"}
    arguments = [where.get(a, a) for a in arguments] + [f"--out={tmp_path}"]
    if "--num-tokens=2" in arguments:
        arguments += ["--order=random"]
    with pytest.raises(SystemExit):
        sample.main(arguments)
    assert message in capsys.readouterr().err
