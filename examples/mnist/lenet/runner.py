"""The three commands: from a configuration to parameters, and from a checkpoint to answers."""

from __future__ import annotations

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

from . import data, engine, image, model, screen, workdir
from .checkpoint import Checkpoints
from .errors import UserError, explained
from .files import write_atomically


def cache_compilations() -> None:
    """Keeps XLA's results in the user's cache, so that a second start compiles nothing."""
    import pooch

    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("convlab") / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that cannot be used costs time, and is no concern of the user's.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")


def class_names(config: workdir.Config) -> tuple[str, ...]:
    return data.FASHION if config.data == "fashion-mnist" else tuple(map(str, range(data.CLASSES)))


def key(config: workdir.Config) -> jax.Array:
    # The rbg generator compiles in a quarter of threefry's time.
    return jax.random.key(config.seed, impl="rbg")


class Interruption:
    """While entered, SIGTERM and the first Ctrl-C ask for an end after this epoch; `code` is then the exit code."""

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


class Training:
    """A configuration, its data on the device, and the functions compiled for both."""

    def __init__(self, config: workdir.Config, samples: data.Data):
        if config.batch_size > len(samples.train_images):
            count = len(samples.train_images)
            raise UserError(f"`--batch-size` must be at most {count:,}, the training images, got {config.batch_size:,}")
        self.config = config
        self.samples = data.Data(*map(jnp.asarray, samples))
        self.steps = len(samples.train_images) // config.batch_size
        self.network = model.NETWORKS[config.api]()
        self.optimizer = engine.optimizer(config.lr, config.decay, config.weight_decay, self.steps)
        self._begin = functools.partial(engine.begin, self.network.init, self.optimizer)
        self._epoch = engine.epoch_function(self.network.apply, self.optimizer, config.batch_size)
        self.logits = engine.logits_function(self.network.apply)

    def compile(self) -> None:
        """Compiles an epoch, so that the first one's time is like the others'."""
        inputs = self.samples.train_images, self.samples.train_labels
        self._epoch = self._epoch.lower(self.like, *inputs, key(self.config)).compile()

    @functools.cached_property
    def like(self) -> engine.State:
        return jax.eval_shape(self._begin, key(self.config))

    def begin(self) -> engine.State:
        return jax.jit(self._begin)(key(self.config))

    def epoch(self, state: engine.State, number: int) -> tuple[engine.State, dict]:
        """Trains for one epoch and returns the state, `state` being used up, and the epoch's metrics.

        Raises:
            UserError: the loss is no longer finite.
        """
        began = time.perf_counter()
        order = jax.random.fold_in(key(self.config), number)
        state, losses = self._epoch(state, self.samples.train_images, self.samples.train_labels, order)
        losses = np.asarray(losses)
        seconds = time.perf_counter() - began
        if not np.isfinite(losses).all():
            step = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
            raise UserError(f"the loss is {losses[step - 1]} at step {step} of {self.steps} in epoch {number}")
        logits = self.logits(state.params, self.samples.test_images)
        test_loss, accuracy = engine.score(logits, self.samples.test_labels)
        return state, {
            "epoch": number,
            "seconds": round(seconds, 4),
            "train_loss": float(losses.mean()),
            "test_loss": test_loss,
            "test_accuracy": accuracy,
            "samples_per_second": round(self.steps * self.config.batch_size / seconds, 1),
        }


def warn(line: str) -> None:
    print(f"train.py: {line}", file=sys.stderr)


def train(folder: pathlib.Path, config: workdir.Config, metrics: pathlib.Path, resuming: bool) -> int:
    """Trains, or goes on training, in `folder`, and returns the exit code."""
    cache_compilations()
    training = Training(config, _load(config))
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
    with Interruption() as interruption, show.shown():
        state = training.begin() if state is None else state
        if done < config.epochs:
            training.compile()
        for number in range(done + 1, config.epochs + 1):
            if interruption.code:
                break
            show.epoch_begins(number)
            state, row = _guarded(training, state, number)
            history = [*history, row]
            checkpoints.save(number, state, history)
            workdir.write_metrics(metrics, history)
            show.epoch_ends(history)
    if interruption.code:
        screen.print_line(console, f"interrupted; saved after epoch {len(history)}, --resume goes on")
        return interruption.code
    _report(folder, training, state, history, console)
    return 0


def _guarded(training: Training, state: engine.State, number: int) -> tuple[engine.State, dict]:
    try:
        return training.epoch(state, number)
    except UserError as error:
        good = f"the last good checkpoint is epoch {number - 1}'s" if number > 1 else "there is no good checkpoint"
        raise UserError(f"{error}; {good}. A smaller --lr may help") from error


def _introduce(show: screen.Screen, folder: pathlib.Path, training: Training, done: int, resuming: bool) -> None:
    config = training.config
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(training.like.params))
    counts = f"{len(training.samples.train_images):,} to train on, {len(training.samples.test_images):,} to test on"
    show.say(f"LeNet-5 ({config.api}, {size:,} parameters) on {config.data}: {counts}")
    options = f"batch {config.batch_size}, lr {config.lr:g} times {config.decay:g} per epoch, seed {config.seed}"
    show.say(f"{options}, on {jax.devices()[0].device_kind}; workdir {folder}")
    if resuming:
        show.say(f"going on after epoch {done}" if done else "nothing to go on with yet: beginning")


def _report(folder: pathlib.Path, training: Training, state: engine.State, history: list[dict], console: Console) -> None:
    from . import picture

    config = training.config
    logits = np.asarray(training.logits(state.params, training.samples.test_images))
    images, labels = np.asarray(training.samples.test_images), np.asarray(training.samples.test_labels)
    title = f"LeNet-5 on {config.data}: {100 * history[-1]['test_accuracy']:.2f} % after {len(history)} epochs"
    matrix = picture.confusion(labels, logits.argmax(-1), data.CLASSES)
    filters = np.asarray(state.params["conv1"]["kernel"])[:, :, 0]
    content = picture.png(title, history, matrix, filters, images, labels, logits, class_names(config))
    place = folder / "report.png"
    with explained(f"cannot write {place}"):
        write_atomically(place, content)
    if not console.is_terminal:
        console.print(screen.table(history))
    screen.summary(console, history, folder, place)


def _load(config: workdir.Config) -> data.Data:
    return data.load(config.data, config.data_dir and pathlib.Path(config.data_dir))


def _restored(folder: pathlib.Path, epoch: int | None) -> tuple[workdir.Config, Any, model.Network, int]:
    """The configuration, the parameters, the network and the epoch of a run's checkpoint."""
    config = workdir.read_config(folder)
    network = model.NETWORKS[config.api]()
    checkpoints = Checkpoints(folder / "checkpoints")
    optimizer = engine.optimizer(config.lr, config.decay, config.weight_decay, steps=1)
    like = jax.eval_shape(functools.partial(engine.begin, network.init, optimizer), key(config))
    if epoch is not None:
        state, _ = checkpoints.restore(epoch, like)
    elif found := checkpoints.newest(like, warn):
        epoch, state, _ = found
    else:
        raise UserError(f"there is no checkpoint in {checkpoints.folder} yet")
    return config, state.params, network, epoch


def evaluate(folder: pathlib.Path, data_dir: pathlib.Path | None, epoch: int | None) -> int:
    """Prints the accuracy of a checkpoint on its test set."""
    from .picture import confusion

    cache_compilations()
    config, params, network, epoch = _restored(folder, epoch)
    samples = data.load(config.data, data_dir or (config.data_dir and pathlib.Path(config.data_dir)))
    logits = engine.logits_function(network.apply)(params, jnp.asarray(samples.test_images))
    loss, accuracy = engine.score(logits, jnp.asarray(samples.test_labels))
    console = Console()
    matrix = confusion(samples.test_labels, np.asarray(logits).argmax(-1), data.CLASSES)
    console.print(screen.classes(class_names(config), matrix))
    line = f"test accuracy  {100 * accuracy:.2f} %, loss {loss:.4f}, of {folder} after epoch {epoch}"
    screen.print_line(console, line)
    return 0


def predict(folder: pathlib.Path, path: pathlib.Path, epoch: int | None) -> int:
    """Prints what a checkpoint sees in a picture."""
    config = workdir.read_config(folder)
    pixels = image.read(path, written=config.data != "fashion-mnist")
    cache_compilations()
    config, params, network, _ = _restored(folder, epoch)
    chances = jax.nn.softmax(engine.logits_function(network.apply)(params, jnp.asarray(pixels)[None])[0])
    console = Console()
    screen.print_line(console, screen.drawing(pixels))
    console.print(screen.probabilities(class_names(config), np.asarray(chances)))
    best = int(chances.argmax())
    screen.print_line(console, f"{path}: {class_names(config)[best]} ({100 * float(chances[best]):.2f} %)")
    return 0
