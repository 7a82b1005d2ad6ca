"""Train, validate and test a model: `python scripts/train.py fit --config configs/countdown.yaml`.

Any class goes in by its short name (`--model.kernel Uniform`) or, from a module of your own, by its
path (`--model.kernel mypackage.Ring`); `--model.kernel.help Uniform` explains its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Classes that are imported can be named without their path.
import ddm.backbones
import ddm.callbacks
import ddm.datamodules  # noqa: F401
from ddm.checkpoint import check_checkpoint
from ddm.module import DiscreteDiffusion
from ddm.trust import class_paths

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI


class CommandLine(LightningCLI):
    """LightningCLI in which vocabulary and length come from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the sizes of the data into the model."""
        parser.link_arguments(
            "data.vocab_size", "model.kernel.init_args.vocab_size", apply_on="instantiate"
        )
        parser.link_arguments("data.length", "model.length", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and remember what was asked for.

        A checkpoint may name the classes that the command line names, and those of ddm.
        """
        super().parse_arguments(parser, args)
        self.asked = self.config.clone()
        asked = self.asked.get(self.asked.get("subcommand") or "", self.asked)
        if (checkpoint := asked.get("ckpt_path")) and Path(checkpoint).is_file():
            check_checkpoint(checkpoint, trust=[*map(str, class_paths(asked.as_dict()))])

    def before_instantiate_classes(self) -> None:
        """Build the model that was asked for.

        With `--ckpt_path` Lightning replaces all settings of the model by those of the checkpoint,
        without a word. Here a checkpoint of another kernel is an error instead.
        """
        key = f"{self.subcommand}.model"
        self.config[key] = self.asked[key]


def main(args: Sequence[str] | None = None) -> CommandLine:
    """Run the command line."""
    torch.set_float32_matmul_precision("high")  # TF32, on devices that have it
    return CommandLine(
        DiscreteDiffusion,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        args=None if args is None else list(args),
    )


if __name__ == "__main__":
    main()
