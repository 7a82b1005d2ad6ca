"""Does the character model write words? Share of its words that real text knows.

Sets samples of the shipped model, or of one that is trained now, beside those of a character
trigram model and beside held-out text. Three sets of known words: those of the held-out text, those
of the whole text, and a dictionary. With a language model also the perplexity under it. Prints a
table and samples, and writes docs/results/text_words.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ddm.checkpoint import load_data, load_model
from ddm.datamodules import Text, trigram_sample
from ddm.metrics import GenerativePerplexity, UnigramEntropy, WordShare, split_words

import numpy as np
import torch
from _report import ROOT, save
from torch import Tensor
from torchmetrics import Metric

sys.path.insert(0, str(ROOT / "scripts"))
from sample import load_schedule
from train import main as train

READ = 32
"""Samples that the language model reads, which is slow."""


def english(dictionary: Path) -> set[str]:
    """Return the words of a list, one per line, without names, abbreviations and single letters."""
    words = dictionary.read_text(encoding="utf-8").split()
    return {word for word in words if word.isalpha() and word.islower() and len(word) > 1} | {
        "a",
        "i",
    }


def scores(
    tokens: Tensor, data: Text, dictionary: set[str], language_model: str | None
) -> dict[str, float]:
    """Return the shares of known words, the entropy of the characters, and the perplexity."""
    held_out = data.held_out_words
    everything = held_out.union(split_words(data.decode(data.train_stream[None])[0]))
    metrics: dict[str, Metric] = {
        "held-out words": WordShare(held_out, data.decode),
        "all words": WordShare(everything, data.decode),
        "all words of 4 letters or more": WordShare(everything, data.decode, min_length=4),
        "entropy": UnigramEntropy(),
    }
    if dictionary:
        metrics["English words"] = WordShare(dictionary, data.decode)
    if language_model is not None:
        metrics["perplexity"] = GenerativePerplexity(data.decode, language_model)
    for name, metric in metrics.items():
        metric.update(tokens[:READ] if name == "perplexity" else tokens)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "pydoc.ckpt")
    parser.add_argument("--train", action="store_true", help="train configs/pydoc.yaml now instead")
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=128, help="samples per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--dictionary",
        type=Path,
        default=Path("/usr/share/dict/american-english"),
        help="list of English words (default: that of Debian's wamerican, if it is installed)",
    )
    parser.add_argument("--language-model", help="folder, GGUF file or name of a causal one")
    options = parser.parse_args()
    dictionary = english(options.dictionary) if options.dictionary.is_file() else set()
    seconds, checkpoint = None, options.checkpoint
    if options.train:
        begin = time.monotonic()
        folder = ROOT / "runs" / "benchmarks" / "pydoc"
        config = ROOT / "configs" / "pydoc.yaml"
        run = train(["fit", f"--config={config}", f"--trainer.logger.init_args.save_dir={folder}"])
        checkpoint = Path(run.trainer.checkpoint_callback.best_model_path)
        seconds = time.monotonic() - begin
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, Text)
    judges = (data, dictionary, options.language_model)
    schedule = load_schedule(checkpoint, options.num_steps)
    text = data.train_stream.long()
    rows: dict[str, list[dict[str, float]]] = {"model": [], "trigram model": []}
    for seed in range(options.seeds):
        generator = torch.Generator().manual_seed(seed)
        samples = module.sample(options.num_samples, schedule, generator=generator, progress=True)
        rows["model"].append(scores(samples.tokens, *judges))
        trigrams = trigram_sample(text, options.num_samples, data.length, generator)
        rows["trigram model"].append(scores(trigrams, *judges))
    rows["held-out text"] = [scores(data.val_tokens.long(), *judges)]
    print(*data.decode(samples.tokens[:4]), sep="\n" + 72 * "-" + "\n")
    results = {
        name: {key: float(np.mean([row[key] for row in values])) for key in values[0]}
        for name, values in rows.items()
    }
    print(f"\n{'':15s}", *(f"{key:>31s}" for key in results["model"]))
    for name, row in results.items():
        print(f"{name:15s}", *(f"{value:31.3f}" for value in row.values()))
    content = {"num_steps": options.num_steps, "schedule": schedule.source, "results": results}
    if options.language_model is not None:
        content["language_model"] = Path(options.language_model).name
    save("text_words", {"training_seconds": seconds, **content}, seed=options.seeds)


if __name__ == "__main__":
    main()
