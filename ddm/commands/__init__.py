"""The commands: `ddm train`, `ddm sample` and the others; a module each, with a function `main`.

Nothing is imported here, so that `ddm --help` need not wait for what a single command uses.
"""

COMMANDS = {
    "train": "train, validate or test a model",
    "sample": "draw samples from a checkpoint, or a model of others",
    "optimize": "find sampling schedules for one",
    "evaluate": "measure one with several schedules",
    "export": "shrink a checkpoint to what sampling needs",
    "data": "write real data to train on",
    "demo": "train a toy model and compare sampling schedules",
}
"""What each command does, by name."""
