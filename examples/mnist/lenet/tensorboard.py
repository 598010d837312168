"""Writes the metrics for TensorBoard: `tensorboard --logdir runs`."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from .errors import explained

TAGS = {
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "test_accuracy": "accuracy/test",
    "samples_per_second": "speed",
}


class Writer:
    """A writer that appends events to `folder` and voids those of epochs after `done`, which a killed run may have
    left."""

    def __init__(self, folder: pathlib.Path, done: int):
        self._folder, self._done, self._writer = folder, done, None

    def add(self, row: dict) -> None:
        """Write one epoch's metrics.

        Raises:
            UserError: the disk is full or read-only.
        """
        # Imported after the first epoch, so that the import does not delay the start.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        with explained(f"cannot write in {self._folder}"):
            if self._writer is None:
                self._writer = _open(self._folder)
                begins = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(wall_time=time.time(), step=self._done + 1, session_log=begins))
            values = [Summary.Value(tag=tag, simple_value=row[name]) for name, tag in TAGS.items()]
            self._writer.add_event(Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values)))
            self._writer.flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()


def _open(folder: pathlib.Path) -> Any:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    return EventFileWriter(str(folder))
