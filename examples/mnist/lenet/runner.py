"""The commands of the program: training from a configuration, and evaluation of a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import signal
import sys
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from . import BEGAN, data, devices, engine, exchange, image, model, page, screen, tensorboard, workdir
from .checkpoint import Checkpoints
from .errors import UserError, explained
from .files import write_atomically
from .training import Training, like


def cache_compilations() -> None:
    """Store compiled programs in the user's cache, so that a second start compiles only those that cannot be stored."""
    import pooch

    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("convlab") / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # An unusable cache only costs time, so its warnings are not shown.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    warnings.filterwarnings("ignore", message="Programs with jaxlib's own engine are not kept")


def class_names(name: str) -> tuple[str, ...]:
    return data.FASHION if name == "fashion-mnist" else tuple(map(str, range(data.CLASSES)))


class Interruption:
    """A context in which SIGTERM and the first Ctrl-C request an end after this epoch; `code` is then the exit code."""

    code = 0

    def __enter__(self) -> Interruption:
        self._former = {one: signal.signal(one, self._note) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._former.items():
            signal.signal(one, handler)

    def _note(self, number: int, _: object) -> None:
        if self.code and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.code = 128 + number


def warn(line: str) -> None:
    print(f"train.py: {line}", file=sys.stderr)


def train(folder: pathlib.Path, config: workdir.Config, metrics: pathlib.Path, resuming: bool, asked: str) -> int:
    """Train, or continue training, in `folder` on the devices `asked` for, and return the exit code.

    Other processes `follow`: each receives the messages of this one in the same order.
    """
    cache_compilations()
    mesh = devices.mesh(asked)
    devices.tell(dataclasses.asdict(config))
    training = Training(config, _load(config), mesh)
    checkpoints = Checkpoints(folder / "checkpoints")
    done, state, history = checkpoints.newest(training.like, warn) or (0, None, [])
    if done > config.epochs:
        raise UserError(f"`--epochs` must be at least {done}, which are trained already, got {config.epochs}")
    checkpoints.clean()
    checkpoints.set_aside_after(done)
    workdir.write_config(folder, config)
    console = Console()
    show = screen.Screen(config.epochs, history, console)
    _introduce(show, folder, training, done, resuming)
    workdir.write_metrics(metrics, history)
    devices.tell(done)
    with Interruption() as interruption, show.shown(), tensorboard.Writer(folder / "tensorboard", done) as board:
        state = training.begin() if state is None else training.place(devices.tell_arrays(state))
        if done < config.epochs:
            training.compile(state)
            show.say(f"first step {time.perf_counter() - BEGAN:.1f} s after the start")
        for number in range(done + 1, config.epochs + 1):
            if devices.tell(interruption.code):
                break
            show.epoch_begins(number)
            state, row = _guarded(training, state, number)
            history = [*history, row]
            checkpoints.save(number, devices.fetch(state), history)
            workdir.write_metrics(metrics, history)
            board.add(row)
            show.epoch_ends(history)
    if interruption.code:
        screen.print_line(console, f"interrupted; saved after epoch {len(history)}, --resume continues")
        return interruption.code
    _report(folder, training, devices.fetch(state.average), history, console)
    return 0


def follow(asked: str) -> int:
    """Train as a process other than the first; the first one decides on the run and writes the results."""
    cache_compilations()
    mesh = devices.mesh(asked)
    config = workdir.Config(**devices.tell())
    training = Training(config, _load(config), mesh)
    done = devices.tell()
    # The first process alone decides when to stop.
    with Interruption():
        state = training.begin()
        if done:
            state = training.place(devices.tell_arrays(devices.fetch(state)))
        if done < config.epochs:
            training.compile(state)
        for number in range(done + 1, config.epochs + 1):
            if code := devices.tell():
                return code
            state, _ = _guarded(training, state, number)
    return 0


def _guarded(training: Training, state: engine.State, number: int) -> tuple[engine.State, dict]:
    try:
        return training.epoch(state, number)
    except devices.EveryProcessKnows as error:
        good = f"the last good checkpoint is epoch {number - 1}'s" if number > 1 else "there is no good checkpoint"
        raise devices.EveryProcessKnows(f"{error}; {good}. A smaller --lr may help") from error


def _introduce(show: screen.Screen, folder: pathlib.Path, training: Training, done: int, resuming: bool) -> None:
    config = training.config
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(training.like.params))
    counts = f"{len(training.samples.train_images):,} to train on, {len(training.samples.test_images):,} to test on"
    show.say(f"LeNet-5 ({config.api}, {size:,} parameters) on {config.data}: {counts}")
    options = f"batch {config.batch_size}, lr {config.lr:g} times {config.decay:g} per epoch, seed {config.seed}"
    count = training.mesh.size if training.mesh else 1
    where = jax.devices()[0].device_kind if count == 1 else f"{count} devices ({jax.devices()[0].device_kind})"
    show.say(f"{options}, on {where}; workdir {folder}")
    if resuming:
        show.say(f"continuing after epoch {done}" if done else "nothing to continue yet: beginning")


def _report(folder: pathlib.Path, training: Training, params: Any, history: list[dict], console: Console) -> None:
    from . import picture

    config, samples = training.config, training.samples
    images, labels = samples.test_images, samples.test_labels
    logits = np.asarray(engine.logits_function(training.network.apply)(params, jnp.asarray(images)))
    title = f"LeNet-5 on {config.data}: {100 * history[-1]['test_accuracy']:.2f} % after {len(history)} epochs"
    matrix = picture.confusion(labels, logits.argmax(-1), data.CLASSES)
    filters = np.asarray(params["conv1"]["kernel"])[:, :, 0]
    content = picture.png(title, history, matrix, filters, images, labels, logits, class_names(config.data))
    place = folder / "report.png"
    with explained(f"cannot write {place}"):
        write_atomically(place, content)
    if not console.is_terminal:
        console.print(screen.table(history))
    screen.summary(console, history, folder, place)


def _load(config: workdir.Config) -> data.Data:
    return data.hold_out(data.load(config.data, config.data_dir and pathlib.Path(config.data_dir)), config.hold_out)


def _restored(folder: pathlib.Path, epoch: int | None) -> tuple[workdir.Config, Any, model.Network, int]:
    """Return the configuration, the averaged parameters, the network and the epoch of a run's checkpoint."""
    config = workdir.read_config(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    if epoch is not None:
        state, _ = checkpoints.restore(epoch, like(config))
    elif found := checkpoints.newest(like(config), warn):
        epoch, state, _ = found
    else:
        raise UserError(f"there is no checkpoint in {checkpoints.folder} yet")
    return config, state.average, model.NETWORKS[config.api](), epoch


def evaluate(folder: pathlib.Path, data_dir: pathlib.Path | None, epoch: int | None) -> int:
    """Print the accuracy of a checkpoint on its test set."""
    from .picture import confusion

    cache_compilations()
    config, params, network, epoch = _restored(folder, epoch)
    samples = _load(dataclasses.replace(config, data_dir=data_dir or config.data_dir))
    inputs = jnp.asarray(samples.test_images), jnp.asarray(samples.test_labels)
    loss, accuracy = map(float, engine.score_function(network.apply)(params, *inputs))
    logits = engine.logits_function(network.apply)(params, inputs[0])
    console = Console()
    matrix = confusion(samples.test_labels, np.asarray(logits).argmax(-1), data.CLASSES)
    console.print(screen.classes(class_names(config.data), matrix))
    line = f"test accuracy  {100 * accuracy:.2f} %, loss {loss:.4f}, of {folder} after epoch {epoch}"
    screen.print_line(console, line)
    return 0


def predict(
    folder: pathlib.Path | None, path: pathlib.Path, epoch: int | None, file: pathlib.Path | None, name: str
) -> int:
    """Print the prediction of a checkpoint, or of the exported model in `file`, for a picture; `name` is the data set
    of the latter."""
    config = None if file else workdir.read_config(folder or workdir.newest())
    name = name if file else config.data
    pixels = image.read(path, written=name != "fashion-mnist")
    cache_compilations()
    if file:
        logits = exchange.read(file)
    else:
        _, params, network, _ = _restored(folder or workdir.newest(), epoch)
        logits = functools.partial(engine.logits_function(network.apply), params)
    chances = np.asarray(jax.nn.softmax(logits(jnp.asarray(pixels)[None])[0]))
    console, names = Console(), class_names(name)
    screen.print_line(console, screen.drawing(pixels))
    console.print(screen.probabilities(names, chances))
    best = int(chances.argmax())
    screen.print_line(console, f"{path}: {names[best]} ({100 * float(chances[best]):.2f} %)")
    return 0


def export(folder: pathlib.Path, file: pathlib.Path, epoch: int | None) -> int:
    """Write a checkpoint's averaged parameters for other programs."""
    _, params, _, epoch = _restored(folder, epoch)
    exchange.write(file, params)
    screen.print_line(Console(), f"{file}: {folder} after epoch {epoch}, {file.stat().st_size:,} bytes")
    return 0


def serve(folder: pathlib.Path, epoch: int | None, host: str, port: int) -> int:
    """Serve the page on which a person draws a digit, until interrupted."""
    config, params, network, epoch = _restored(folder, epoch)
    cache_compilations()
    page.serve(
        params, class_names(config.data), config.data != "fashion-mnist", host, port, f"{folder} after epoch {epoch}"
    )
    return 0
