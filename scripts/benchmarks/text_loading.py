"""How long does a text take until the first batch, and how much memory?

Makes a text of 50 MB in files of 0.1 MB: words of the trigram model of the characters of the
built-in documentation, drawn with Zipf's law. Each measurement is a process of its own, first
without a cache, then with it; memory is the peak of the process above what it had before. Prints
a table and writes docs/results/text_loading.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

from ddm.datamodules import BPE, CharacterVocabulary, Text, Text8Vocabulary, trigram_sample

import numpy as np
import torch
from _report import save

VOCABULARIES = {
    "characters": CharacterVocabulary,
    "text8": Text8Vocabulary,
    "BPE, 4,096": partial(BPE, vocab_size=4096),
}


def write_text(folder: Path, megabytes: int) -> None:
    """Write the text; nearly all of the words of the model are seldom, as in real text."""
    data = Text()
    generator = torch.Generator().manual_seed(0)
    sample = trigram_sample(data.train_stream.long(), 2000, 1000, generator)
    words = sorted(set(" ".join(data.decode(sample)).split()))
    rng = np.random.default_rng(0)
    rng.shuffle(words)
    law = 1 / np.arange(1, len(words) + 1)
    law /= law.sum()
    num = int(1e5 / (law @ np.array([len(word) + 1 for word in words])))
    for i in range(10 * megabytes):
        text = " ".join(words[k] for k in rng.choice(len(words), num, p=law))
        (folder / f"{i:04d}.txt").write_text(text, encoding="utf-8")


def measure(folder: str, name: str) -> dict[str, float]:
    """Return the seconds until the first training batch and the peak of memory in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, processor = time.monotonic(), time.process_time()
    data = Text(folder, vocabulary=VOCABULARIES[name], length=256, batch_size=32)
    next(iter(data.train_dataloader()))
    seconds, processor = time.monotonic() - begin, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_megabytes": (peak - before) / 1024,
        "tokens": float(sum(map(len, (data.train_stream, data.val_stream, data.test_stream)))),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, default=50, help="size of the text (default: 50)")
    options = parser.parse_args()
    results = {}
    context = multiprocessing.get_context("fork")  # what is imported counts for none
    with tempfile.TemporaryDirectory() as folder:
        with context.Pool(1) as pool:
            pool.apply(write_text, (Path(folder), options.megabytes))
        print(f"{'':12s} {'':10s} {'s':>8s} {'CPU s':>8s} {'MB':>8s} {'tokens':>12s}")
        for name in VOCABULARIES:
            for state in ("no cache", "cache"):
                with context.Pool(1) as pool:
                    row = pool.apply(measure, (folder, name))
                results[f"{name}, {state}"] = row
                seconds, processor, peak, tokens = row.values()
                times = f"{seconds:8.2f} {processor:8.2f}"
                print(f"{name:12s} {state:10s} {times} {peak:8.0f} {tokens:12,.0f}")
    save("text_loading", {"megabytes": options.megabytes, "results": results}, seed=0)


if __name__ == "__main__":
    main()
