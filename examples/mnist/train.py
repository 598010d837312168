#!/usr/bin/env python3
"""LeNet-5 on handwritten digits: train it, see it learn, ask it about a picture of your own.

    python train.py train                       the digits inside scikit-learn: offline, well under a minute
    python train.py train --data mnist          real MNIST, downloaded once
    python train.py train --resume              goes on with the newest run
    python train.py eval                        the newest run's accuracy, class by class
    python train.py predict IMAGE.png           what the newest run sees in a picture

Exit codes: 0 done, 2 something that you can mend (one line on stderr says what), 130 and 143 interrupted but saved.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import pathlib
import sys
from typing import Any, NoReturn

# Set before jax is loaded: XLA's own log lines would break the rule of one line on stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from lenet import workdir  # noqa: E402
from lenet.data import NAMES  # noqa: E402
from lenet.errors import UserError  # noqa: E402

# What reached the accuracy in the README, by data set.
DEFAULTS = {
    "digits": {"epochs": 20, "batch_size": 32, "lr": 3e-3, "decay": 0.9, "weight_decay": 0.3},
    "mnist": {"epochs": 10, "batch_size": 256, "lr": 5e-3, "decay": 0.7, "weight_decay": 0.3},
    "fashion-mnist": {"epochs": 20, "batch_size": 256, "lr": 4e-3, "decay": 0.85, "weight_decay": 0.1},
    "idx": {"epochs": 10, "batch_size": 64, "lr": 3e-3, "decay": 0.7, "weight_decay": 0.0},
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See {self.prog} --help")


def number(kind: type, rule: str, accept: Any) -> Any:
    """An argparse type: a `kind` that `accept` finds to be what `rule` says."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")
        return value

    return parse


def parser() -> Parser:
    positive = number(int, "a positive integer", lambda value: 0 < value < 2**31)
    result = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True, metavar="train|eval|predict")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("--workdir", type=pathlib.Path, help="the run's folder (default: a new or the newest in runs/)")
        return one

    train = command("train", "train a LeNet-5")
    train.add_argument("--data", choices=NAMES, help="default: digits")
    train.add_argument("--data-dir", type=pathlib.Path, help="folder with the four gzip IDX files (default: download)")
    train.add_argument("--api", choices=("nnx", "linen"), help="which of the two LeNets (default: nnx)")
    train.add_argument("--epochs", type=positive, help="passes over the training images")
    train.add_argument("--batch-size", type=positive, help="samples in a step")
    rate = number(float, "a positive number", lambda value: 0 < value < math.inf)
    train.add_argument("--lr", type=rate, help="learning rate")
    share = number(float, "above 0 and at most 1", lambda value: 0 < value <= 1)
    train.add_argument("--decay", type=share, help="what an epoch multiplies the learning rate by")
    weight = number(float, "a number from 0 up", lambda value: 0 <= value < math.inf)
    train.add_argument("--weight-decay", type=weight, help="AdamW's")
    seed = number(int, "an integer from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
    train.add_argument("--seed", type=seed, help="of the first parameters and of the order of samples (default: 0)")
    train.add_argument("--metrics-file", type=pathlib.Path, help="default: metrics.jsonl in the workdir")
    train.add_argument("--resume", action="store_true", help="go on after the run's last whole epoch, or begin it")

    evaluate = command("eval", "test a trained LeNet")
    evaluate.add_argument("--data-dir", type=pathlib.Path, help="where the data lie now, if they were moved")
    predict = command("predict", "classify a picture")
    predict.add_argument("image", type=pathlib.Path, metavar="IMAGE.png")
    for one in (evaluate, predict):
        one.add_argument("--epoch", type=positive, help="which checkpoint (default: the newest)")
    return result


def configuration(given: argparse.Namespace) -> workdir.Config:
    """The options as given, the rest by data set."""
    data = given.data or "digits"
    asked = {field.name: getattr(given, field.name) for field in dataclasses.fields(workdir.Config)}
    asked["data_dir"] = given.data_dir and str(given.data_dir.resolve())
    fallback = {"data": data, "api": "nnx", "seed": 0, **DEFAULTS[data]}
    return workdir.Config(**{name: fallback.get(name) if value is None else value for name, value in asked.items()})


def resumed(stored: workdir.Config, given: argparse.Namespace) -> workdir.Config:
    """The stored configuration with what may change as given.

    Raises:
        UserError: an option was given that would make it another run.
    """
    for field in dataclasses.fields(workdir.Config):
        asked, was = getattr(given, field.name), getattr(stored, field.name)
        if asked is not None and asked != was and field.name not in workdir.CHANGEABLE:
            option = field.name.replace("_", "-")
            raise UserError(f"`--{option}` must be {was} to resume this run, got {asked}")
    changes = {"epochs": given.epochs, "data_dir": given.data_dir and str(given.data_dir.resolve())}
    return dataclasses.replace(stored, **{name: value for name, value in changes.items() if value is not None})


def train(given: argparse.Namespace) -> int:
    folder = given.workdir or (workdir.newest() if given.resume else workdir.new(given.data or "digits"))
    with workdir.held(folder):
        if workdir.is_foreign(folder):
            raise UserError(f"`--workdir` must be new, empty or a run's folder, got {folder}, which holds other files")
        resuming = given.resume and workdir.has_run(folder)
        if workdir.has_run(folder) and not resuming:
            raise UserError(f"`--workdir` must be new for a new run, got {folder}. --resume goes on with the run in it")
        config = resumed(workdir.read_config(folder), given) if resuming else configuration(given)
        metrics = given.metrics_file or folder / "metrics.jsonl"
        workdir.check_metrics_file(metrics, given.resume)

        from lenet import runner

        return runner.train(folder, config, metrics, resuming)


def evaluate(given: argparse.Namespace) -> int:
    from lenet import runner

    return runner.evaluate(given.workdir or workdir.newest(), given.data_dir, given.epoch)


def predict(given: argparse.Namespace) -> int:
    from lenet import runner

    return runner.predict(given.workdir or workdir.newest(), given.image, given.epoch)


def main(arguments: list[str] | None = None) -> int:
    try:
        given = parser().parse_args(arguments)
        return {"train": train, "eval": evaluate, "predict": predict}[given.command](given)
    except UserError as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted; --resume goes on after the last whole epoch", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
