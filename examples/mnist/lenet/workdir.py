"""The folder of a run: its lock, its configuration, and the paths of its results.

workdir/config.json     the options that determine the run's result
        checkpoints/    one folder per epoch
        metrics.jsonl   one line of JSON per epoch
        report.png      curves, confusion matrix, filters, mistakes
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

from .errors import UserError, explained
from .files import TEMPORARY, write_atomically

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; there the user must not start two runs in one folder
    fcntl = None

RUNS = pathlib.Path("runs")


@dataclasses.dataclass(frozen=True)
class Config:
    """The values that the parameters after `epochs` epochs depend on, and the folder of the data."""

    data: str
    data_dir: str | None
    api: str
    seed: int
    epochs: int
    batch_size: int
    lr: float
    decay: float
    weight_decay: float
    smoothing: float = 0.0
    average: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    flip: float = 0.0
    hold_out: int = 0


# The options that may change when a run is continued: neither changes a finished epoch.
CHANGEABLE = ("epochs", "data_dir")


def new(data: str) -> pathlib.Path:
    """Create and return `runs/DATA-N` with the first free N."""
    with explained(f"cannot make a folder in {RUNS.resolve()}"):
        RUNS.mkdir(exist_ok=True)
        number = 1
        while True:
            with contextlib.suppress(FileExistsError):
                (folder := RUNS / f"{data}-{number}").mkdir()
                return folder
            number += 1


def newest() -> pathlib.Path:
    """Return the most recently started run under `runs/`."""
    found = sorted(RUNS.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"`--workdir` must name a run's folder: there is none in {RUNS.resolve()}")
    return found[-1].parent


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Lock `folder`, created if necessary, against other runs; the kernel releases the lock however the process ends.

    A new folder that stays empty is removed again.

    Raises:
        UserError: another run uses the folder, or it cannot be made or written.
    """
    with explained(f"cannot write in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (lock := folder / f"{TEMPORARY}lock").open("a")
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another run uses {folder}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if [entry.name for entry in folder.iterdir()] == [lock.name]:
                    lock.unlink()
                    folder.rmdir()


def is_foreign(folder: pathlib.Path) -> bool:
    """Return whether `folder` has content that is not a run."""
    return any(not entry.name.startswith(TEMPORARY) for entry in folder.iterdir()) and not has_run(folder)


def has_run(folder: pathlib.Path) -> bool:
    return (folder / "config.json").exists()


def read_config(folder: pathlib.Path) -> Config:
    """Read the configuration of a run.

    Raises:
    UserError: there is no run, or its configuration is unreadable.
    """
    path = folder / "config.json"
    with explained(f"cannot read the run in {folder}"):
        content = path.read_bytes()
    try:
        return Config(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged or of another version: {error}") from error


def write_config(folder: pathlib.Path, config: Config) -> None:
    with explained(f"cannot write in {folder}"):
        write_atomically(folder / "config.json", (json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode())


def write_metrics(path: pathlib.Path, history: list[dict]) -> None:
    """Write the whole history, so that the file is complete after any interruption."""
    with explained(f"cannot write {path}"):
        write_atomically(path, "".join(json.dumps(epoch) + "\n" for epoch in history).encode())


def check_metrics_file(path: pathlib.Path, resuming: bool) -> None:
    """Check that the run may write its metrics to `path`.

    Raises:
    UserError: a run may not write `path`: it has other content, or its folder is missing.
    """
    if not path.parent.is_dir():
        raise UserError(f"`--metrics-file` must lie in an existing folder, got {path}")
    if not path.exists():
        return
    if not path.is_file():
        raise UserError(f"`--metrics-file` must be an ordinary file, got {path}")
    if not resuming and path.stat().st_size:
        raise UserError(f"`--metrics-file` must be new or empty for a new run, got {path}, which has content")
    with explained(f"cannot read {path}"):
        content = path.read_bytes()
    if not all(_is_metrics(line) for line in content.splitlines()):
        raise UserError(f"`--metrics-file` must hold this run's metrics to resume, got {path}, which does not")


def _is_metrics(line: bytes) -> bool:
    try:
        return "epoch" in json.loads(line)
    except (ValueError, TypeError):
        return False
