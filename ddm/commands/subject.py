"""What a command works on: a checkpoint of ours, or a model that somebody else trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from ddm import adapters, orders
from ddm.adapters import Adapter
from ddm.batch import free_of, tokens_of
from ddm.checkpoint import load_data, load_model
from ddm.commands.options import find_device
from ddm.commands.prompt_data import Prompts
from ddm.commands.prompt_file import Line, Piece, infill, prompt, read_prompts
from ddm.commands.shipped import folder_beside
from ddm.denoisers import Denoiser
from ddm.functional import seeded
from ddm.module import DiscreteDiffusion
from ddm.orders import RevealOrder, settings_of
from ddm.orders.order import mask_of
from ddm.progress import progress_bar
from ddm.samplers import Analytic, FirstHitting, Reveal, Sampler
from ddm.schedule import SamplingSchedule, times_of

CAREFUL_STEPS = 256
"""Steps of samples that serve as data, for kernels without masks."""
NUM_CHECKED = 64
"""Tokens of a text, and texts, that a model is checked with before long work."""


def load(options: argparse.Namespace) -> tuple[DiscreteDiffusion, LightningDataModule | None]:
    """Return the model, on its device, and its data.

    Raises:
        ValueError: Model, data or device do not fit.
    """
    if (options.model is None) == (options.checkpoint is None):
        raise ValueError(
            "`checkpoint` must be given, or `model` in its place, got "
            f"{'neither' if options.model is None else 'both'}; name one."
        )
    device = find_device(options.device)
    if options.model is not None:
        return _load_network(options, device)
    for name in ("prompts", "order", "adapter", "tokenizer"):
        if getattr(options, name) is not None:
            raise ValueError(f"`{name}` goes with `model`, got a checkpoint; leave it out.")
    module = load_model(options.checkpoint, trust=options.trust)
    return module.to(device), load_data(options.checkpoint, trust=options.trust)


def check_model_of(schedule: SamplingSchedule, options: argparse.Namespace) -> None:
    """Refuse a schedule that was found for another model of others, or that names another order.

    Raises:
        ValueError: It does.
    """
    name = None if options.model is None else name_of(options)
    found = schedule.info.get("model")
    if found not in (None, name):
        raise ValueError(
            f"`schedule` must be one that was found for '{name or options.checkpoint}', got one "
            f"for '{found}'; run `ddm optimize` for this one."
        )
    named, order = schedule.info.get("order"), order_named(options)
    if order is not None and named not in (None, settings_of(order)):
        raise ValueError(
            f"`order` must be the one that the schedule names, {named}, got '{options.order}'; "
            "leave it out."
        )


def order_named(options: argparse.Namespace) -> RevealOrder | None:
    """Return the order that is asked for; None where none is."""
    if options.order is None:
        return None
    order: RevealOrder = getattr(orders, options.order.title().replace("-", ""))()
    return order


def check_steps(
    module: DiscreteDiffusion, data: LightningDataModule | None, num_steps: Sequence[int]
) -> None:
    """Refuse more steps than the sampler can make on prompts.

    Raises:
        ValueError: There are more steps than tokens to reveal.
    """
    if isinstance(data, Prompts):
        for n in num_steps:
            times = times_of(SamplingSchedule.uniform(n))
            module.sampler.steps(module.process, times, data.free, seeded(data.free.device, 0))


def examples(
    module: DiscreteDiffusion, data: LightningDataModule | None, num: int, batch_size: int
) -> tuple[Tensor, Tensor | None, str]:
    """Return sequences to find schedules with, which of their positions are free, and their origin.

    They are the first `num` training sequences, or texts of a file. A prompt is continued by the
    model itself, carefully: a token per call with masks, else in many steps.

    Raises:
        ValueError: There are no data.
    """
    if data is None:
        raise ValueError(
            "`checkpoint` must say what data it was trained on, but it does not, or they cannot be "
            "read (a warning above says why); train it with `ddm train`, or bring its data back."
        )
    if not isinstance(data, Prompts):
        return *_training_tokens(data, num), "training sequences"
    known = data.known.nonzero().squeeze(-1)
    if len(known) == len(data.known):
        return data.train_tokens[:num], data.free[:num], "texts"
    index = torch.arange(num) % len(data.known)
    tokens, free = data.train_tokens[index], data.free[index]
    own = ~data.known[index]
    sampler: Sampler = FirstHitting() if module.process.kernel.absorbing else Analytic()
    schedule = SamplingSchedule.uniform(CAREFUL_STEPS)
    parts = own.nonzero().squeeze(-1).split(batch_size)
    for rows in progress_bar(parts, desc="own samples"):
        generator = seeded(module.device, int(rows[0]))
        x, mask = tokens[rows].to(module.device), free[rows].to(module.device)
        x = module.process.sample_prior(x, mask, generator)
        made = sampler(module.denoiser, x, schedule, free=mask, generator=generator)
        tokens[rows] = made.tokens.cpu()
    return tokens, free, "the model's own samples" if bool(own.all()) else "texts and own samples"


def name_of(options: argparse.Namespace) -> str:
    """Return the name of the model, for files."""
    path = options.checkpoint if options.model is None else Path(options.model).resolve()
    return str(path.stem if options.model is None else path.name)


def folder_of(options: argparse.Namespace) -> Path:
    """Return the folder that files about the model go to, if none is named."""
    return Path("runs") if options.model is not None else folder_beside(options.checkpoint)


def module_of(denoiser: Denoiser, sampler: Sampler, length: int) -> DiscreteDiffusion:
    """Return a module around a denoiser that is there already."""
    return DiscreteDiffusion(
        denoiser.process.kernel,
        lambda num_states: nn.Identity(),
        length=length,
        optimizer=torch.optim.AdamW,
        denoiser=lambda network, process: denoiser,
        sampler=sampler,
    ).eval()


def _load_network(
    options: argparse.Namespace, device: torch.device
) -> tuple[DiscreteDiffusion, Prompts]:
    """Return a model of others, and its prompts as data; a few calls check that they fit."""
    lines = _lines(options)
    found = adapters.load(
        options.model,
        adapter=None if options.adapter is None else getattr(adapters, options.adapter),
        tokenizer=None if options.tokenizer is None else _tokenizer(options.tokenizer),
        trust_remote_code=options.trust_remote_code,
    )
    denoiser = found.denoiser
    sampler: Sampler = Analytic()
    if (order := order_named(options)) is not None:
        mask_of(denoiser.process.kernel)
        sampler = Reveal(order)
    data = Prompts(
        lines,
        found.tokenizer,
        denoiser,
        options.num_tokens,
        language_model=getattr(options, "language_model", None),
    )
    texts = Prompts(_texts(lines, denoiser), found.tokenizer, denoiser, NUM_CHECKED)
    module = module_of(denoiser, sampler, data.length).to(device)
    adapters.check_model(denoiser, texts.train_tokens.to(device), texts.free.to(device))
    return module, data


def _lines(options: argparse.Namespace) -> list[Line]:
    """Return the prompts of a file or of the command line; else one that is empty."""
    if options.prompts is not None:
        return read_prompts(options.prompts)
    if getattr(options, "infill", None) is not None:
        return [infill(options.infill)]
    return [prompt(getattr(options, "prompt", None) or "")]


def _texts(lines: Sequence[Line], denoiser: Adapter) -> list[Line]:
    """Return some texts that are known; random tokens if there are none."""
    known = [tuple(Piece(piece.content, True) for piece in line if piece.content) for line in lines]
    if texts := [line for line in known if line]:
        return texts[: 1 if denoiser.pad is None else NUM_CHECKED]
    kernel = denoiser.process.kernel
    ids = torch.arange(kernel.vocab_size)
    ids = ids[
        denoiser.free_of(ids[None])[0] & (ids != (-1 if kernel.mask is None else kernel.mask))
    ]
    drawn = ids[torch.randint(len(ids), (8,), generator=torch.Generator().manual_seed(0))]
    return [(Piece(drawn.tolist(), True),)]


def _tokenizer(name: str) -> Any:  # noqa: ANN401 (any tokenizer)
    """Return the tokenizer in a folder, or of a name at Hugging Face.

    Raises:
        ValueError: There is none.
    """
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(
            f"`tokenizer` must be a folder or a name at Hugging Face that transformers can read, "
            f"got '{name}' ({str(error).strip().splitlines()[0]}); check the spelling."
        ) from error


def _training_tokens(data: LightningDataModule, num: int) -> tuple[Tensor, Tensor | None]:
    data.prepare_data()
    data.setup("fit")
    batches, masks, count = [], [], 0
    for batch in data.train_dataloader():
        batches.append(tokens_of(batch))
        masks.append(free_of(batch))
        count += len(batches[-1])
        if count >= num:
            break
    free = [mask for mask in masks if mask is not None]
    return torch.cat(batches)[:num], torch.cat(free)[:num] if free else None
