"""The JSON files of schedules beside the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from ddm.schedules.beside import save_beside
from ddm.schedules.optimizer import Optimized, schedules_beside


class ScheduleFiles:
    """Keeps one JSON file beside every checkpoint for as long as the checkpoint exists.

    Lightning says before a checkpoint is written that it will be, and nothing afterwards: so files
    are looked at before the next step of training, when weights and schedules are still those of
    the checkpoint.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, int] = {}

    @rank_zero_only
    def start(self, trainer: Trainer) -> None:
        """Take the checkpoints that are there as done: a resumed run has other weights by now."""
        self._seen = {path: written for path in _checkpoints(trainer) if (written := _time(path))}

    @rank_zero_only
    def refresh(self, trainer: Trainer, optimized: Optimized) -> None:
        """Write what checkpoints have been written since, delete what has lost its checkpoint."""
        fresh = {path: _time(path) for path in _checkpoints(trainer)}
        fresh = {path: time for path, time in fresh.items() if time != self._seen.get(path, 0)}
        if not fresh:
            return
        try:
            for path, time in fresh.items():
                self._seen[path] = time
                if time and optimized.schedules:
                    save_beside(optimized, path, trainer.global_step)
            for path in [path for path in self._seen if not _time(path)]:
                schedules_beside(path).unlink(missing_ok=True)
                del self._seen[path]
        except OSError as error:
            rank_zero_warn(
                f"Schedules beside checkpoints cannot be written, training goes on: {error}"
            )


def _checkpoints(trainer: Trainer) -> set[Path]:
    """Return the paths of the checkpoints that callbacks know of."""
    paths: set[str] = set()
    for callback in trainer.checkpoint_callbacks:
        paths |= {getattr(callback, f"{name}_model_path", "") for name in ("best", "last")}
        paths |= set(getattr(callback, "best_k_models", {}))
    return {Path(path) for path in paths if path}


def _time(path: Path) -> int:
    """Return when a file was written, 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
