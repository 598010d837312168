"""Saves an orbax checkpoint per epoch, each with the run's history and a checksum over both.

Orbax writes to a temporary folder and renames it, so that a kill leaves a whole checkpoint or none; the checksum
detects later damage of the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .errors import UserError, explained

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs each save there, and a failed one twice


def _ignore_late_writers(hook: Callable) -> Callable:
    """Filter unraisable exceptions: drop those that tensorstore's threads report after a failed save was reported."""

    def quiet(found: Any) -> None:
        if str(found.exc_value) != "Event loop is closed":
            hook(found)

    return quiet


sys.unraisablehook = _ignore_late_writers(sys.unraisablehook)


def checksum(state: Any, history: list[dict]) -> str:
    """Return the SHA-256 of every leaf's bytes, in the tree's order, and of the history."""
    digest = hashlib.sha256(json.dumps(history).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints in one folder, by epoch."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.resolve()

    def epochs(self) -> list[int]:
        """Return the epochs that have a checkpoint, readable or not, oldest first."""
        if not self.folder.is_dir():
            return []
        with explained(f"cannot read {self.folder}"):
            return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal())

    def save(self, epoch: int, state: Any, history: list[dict]) -> None:
        """Save the state and the history after an epoch.

        Raises:
            UserError: the disk is full, read-only or gone; earlier checkpoints are unchanged.
        """
        ocp = _orbax()
        record = {"epoch": epoch, "history": history, "sha256": checksum(state, history)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(self.folder / str(epoch), args)
        except Exception as error:  # orbax and tensorstore share no base class
            self.clean()
            raise UserError(f"cannot write checkpoint {self.folder / str(epoch)}: {_reason(error)}") from error

    def restore(self, epoch: int, like: Any) -> tuple[Any, list[dict]]:
        """Return the state, in the form of `like`, and the history that were saved after `epoch`.

        Raises:
            UserError: the checkpoint is missing, cut off, altered, or of another network.
        """
        place, ocp = self.folder / str(epoch), _orbax()
        shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), record=ocp.args.JsonRestore())
        try:
            with _checkpointer() as checkpointer:
                found = checkpointer.restore(place, args)
            state, record = found["state"], found["record"]
            intact = record["sha256"] == checksum(state, record["history"]) and record["epoch"] == epoch
        except Exception as error:
            raise UserError(f"cannot read checkpoint {place}: {_reason(error)}") from error
        if not intact:
            raise UserError(f"checkpoint {place} is damaged: its checksum differs")
        return state, record["history"]

    def newest(self, like: Any, say: Callable[[str], None]) -> tuple[int, Any, list[dict]] | None:
        """Return the newest readable checkpoint as `(epoch, state, history)`, or None if there is none.

        `say` is called with a message for each unreadable one.

        Raises:
            UserError: there are checkpoints, and none is readable.
        """
        epochs = self.epochs()
        for epoch in reversed(epochs):
            try:
                return epoch, *self.restore(epoch, like)
            except UserError as error:
                say(f"{error}; falling back to the one before")
        if epochs:
            raise UserError(f"none of the {len(epochs)} checkpoints in {self.folder} is readable")
        return None

    def clean(self) -> None:
        """Remove the remains of interrupted saves."""
        for remains in self.folder.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(remains, ignore_errors=True)

    def set_aside_after(self, epoch: int) -> None:
        """Rename checkpoints after `epoch`, which are unreadable, so that later epochs can use their names."""
        for later in (later for later in self.epochs() if later > epoch):
            with explained(f"cannot move {self.folder / str(later)} aside"):
                shelter = pathlib.Path(tempfile.mkdtemp(prefix=f"unreadable-{later}-", dir=self.folder))
                (self.folder / str(later)).rename(shelter / str(later))


def _orbax() -> Any:
    """Import orbax on first use, since it takes longer than everything else before a run's first step."""
    import orbax.checkpoint as ocp

    return ocp


def _checkpointer() -> Any:
    """Return a checkpointer of the first process only: it has the whole state, and the others do not wait for it."""
    ocp = _orbax()
    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="lenet")
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        record=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _reason(error: Exception) -> str:
    """Return the cause of a failure in a few words: tensorstore's errors are paragraphs that end in the system's error
    number."""
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(number[1]))
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
