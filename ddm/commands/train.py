"""Train, validate and test a model; `ddm train --help` says more."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

# Classes that are imported can be named without their path.
import ddm.backbones
import ddm.datamodules  # noqa: F401
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.checkpoint import check_checkpoint
from ddm.commands import parsers
from ddm.commands.closing import closing_lines
from ddm.commands.door import command
from ddm.commands.going_on import GoingOn
from ddm.commands.shipped import find_config
from ddm.commands.unwrap import unwrap
from ddm.module import DiscreteDiffusion
from ddm.trust import class_paths

CALLBACKS: Mapping[str, tuple[type[Callback], dict[str, Any] | None]] = {
    # Averaged buffers would be constants that are rounded, integers among them.
    "ema": (EMAWeightAveraging, {"decay": 0.99, "use_buffers": False}),
    "checkpoint": (ModelCheckpoint, {"monitor": "val/bits_per_token", "save_last": True}),
    "schedule": (JYSScheduleCallback, None),
    "samples": (SampleLogger, None),
}
"""Callbacks with a key of their own: class, and arguments where it is on by default."""

LINKS = {"vocab_size": "model.kernel.init_args.vocab_size", "length": "model.length"}
"""What the data say of the model."""

TRAINER = {
    "default_root_dir": "runs",
    "gradient_clip_val": 1.0,
    "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}},
}


class CommandLine(LightningCLI):
    """LightningCLI in which vocabulary and length come from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the sizes of the data into the model, and give callbacks their keys."""
        for name, target in LINKS.items():
            parser.link_arguments(f"data.{name}", target, apply_on="instantiate")
        parser.link_arguments("data", "model.shape", _shape, apply_on="instantiate")
        for name, (kind, arguments) in CALLBACKS.items():
            path = f"{kind.__module__}.{kind.__qualname__}"
            parser.add_argument(
                f"--{name}",
                type=kind | None,
                default=arguments and {"class_path": path, "init_args": arguments},
                help=f"Callback {kind.__name__}, or null; one of this class in the list of "
                "`trainer.callbacks` takes its place.",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and check the checkpoint that is named.

        It may name the classes that the command line names, and those of ddm.
        """
        assert isinstance(args, list)  # the method of LightningCLI warns of all but None
        self.config = parser.parse_args(args)
        asked = self.config.get(self.config.get("subcommand") or "", self.config)
        if (checkpoint := asked.get("ckpt_path")) and Path(checkpoint).is_file():
            check_checkpoint(
                checkpoint,
                trust=[*map(str, class_paths(asked.as_dict()))],
                resume=self.config.get("subcommand") == "fit",
            )

    def _parse_ckpt_path(self) -> None:
        """Build the model that was asked for.

        With `--ckpt_path` Lightning replaces all settings of the model by those of the checkpoint,
        without a word, and imports what their strings name to see whether it is a class. Here no
        setting of the file is read, and a checkpoint of another kernel is an error.
        """

    def after_instantiate_classes(self) -> None:
        """Refuse what was asked for, and the data say otherwise: a link overrides it in silence.

        Raises:
            ValueError: They differ.
        """
        asked = self.config[self.subcommand]
        for name, target in (*LINKS.items(), ("shape", "model.backbone.init_args.shape")):
            given, theirs = asked.get(target), getattr(self.datamodule, name, None)
            if None not in (given, theirs) and _plain(given) != _plain(theirs):
                argument = target.replace(".init_args", "")
                value = str(theirs).translate(str.maketrans("()", "[]", " "))
                raise ValueError(
                    f"`{argument}` must be {theirs}, the `{name}` of the data, got {given}; write "
                    f'`--{argument} "{value}"`, or change the data.'
                )

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Add the callbacks that have keys of their own to those that are listed."""
        listed = self._get(self.config_init, "trainer")["callbacks"] or []
        listed = listed if isinstance(listed, list) else [listed]
        ours = [self._get(self.config_init, name) for name in CALLBACKS]
        kinds = {type(callback) for callback in [None, *listed]}
        ours = [callback for callback in ours if type(callback) not in kinds]
        callbacks = [GoingOn(), *ours, *listed]
        if not any(isinstance(callback, Checkpoint) for callback in callbacks):
            kwargs["enable_checkpointing"] = False  # or the trainer makes one by itself
        try:
            return super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (TypeError, MisconfigurationException) as error:
            raise ValueError(f"`trainer` cannot be made: {error}") from error

    def after_fit(self) -> None:
        """Say what was found, where it is and what comes next."""
        if self.trainer.is_global_zero:
            print(*closing_lines(self.trainer), sep="\n")


def _shape(data: LightningDataModule) -> tuple[int, ...]:
    """Return the sizes of the axes of the data; there is one axis if they do not say."""
    return tuple(getattr(data, "shape", ()))


@command
def main(args: list[str]) -> CommandLine:
    """Run the command line."""
    torch.set_float32_matmul_precision("high")  # TF32, on devices that have it
    # Without `exit_on_error` an error comes back as an exception, whose text can be made short.
    own: dict[str, Any] = {"exit_on_error": False}
    kwargs: dict[str, Any] = {name: dict(own) for name in CommandLine.subcommands()}
    try:
        return CommandLine(
            DiscreteDiffusion,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults=TRAINER,
            parser_kwargs={
                **own,
                "prog": "ddm train",
                "description": parsers.train.__doc__,
                **kwargs,
            },
            args=with_shipped(args),
        )
    except (ArgumentError, MisconfigurationException) as error:
        raise ValueError(unwrap(str(error))) from error
    except ValueError as error:
        if (text := unwrap(str(error))) != str(error):
            raise ValueError(text) from error
        raise


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def with_shipped(args: list[str]) -> list[str]:
    """Return the arguments with the paths of configurations that are given by name."""
    found = []
    for before, argument in zip(["", *args], args, strict=False):
        key, equals, name = argument.partition("=")
        if before in ("--config", "-c"):
            key, equals, name = "", "", argument
        elif not (key == "--config" and equals):
            found.append(argument)
            continue
        path = find_config(name)
        if not Path(name).is_file():
            print(f"configuration: {path}", file=sys.stderr)
        found.append(f"{key}{equals}{path}")
    return found
