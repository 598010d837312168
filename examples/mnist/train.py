#!/usr/bin/env python3
"""Trains LeNet-5 on handwritten digits, tests it, and classifies images of your own.

    python train.py train                       the digits inside scikit-learn: offline, well under a minute
    python train.py train --data mnist          real MNIST, downloaded once
    python train.py train --resume              continues the newest run
    python train.py eval                        the newest run's accuracy, class by class
    python train.py predict IMAGE.png           the newest run's prediction for a picture
    python train.py export lenet.stablehlo      the newest run for other programs; also .safetensors and PyTorch's .pt
    python train.py serve                       a page in the browser on which to draw a digit

Exit codes: 0 done, 2 an error that you can fix (one line on stderr describes it), 130 and 143 interrupted but saved.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import pathlib
import sys
import tomllib
from typing import Any, NoReturn

# Set before jax is imported: XLA's log lines would break the rule of one line on stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from lenet import workdir  # noqa: E402
from lenet.data import NAMES  # noqa: E402
from lenet.errors import UserError, explained  # noqa: E402

RECIPES = pathlib.Path(__file__).parent / "recipes"


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See {self.prog} --help")


def number(kind: type, rule: str, accept: Any) -> Any:
    """Return an argparse type: a `kind` for which `accept` holds, described by `rule`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")
        return value

    return parse


POSITIVE = number(int, "a positive integer", lambda value: 0 < value < 2**31)
ANY_RATE = number(float, "a positive number", lambda value: 0 < value < math.inf)
FROM_ZERO = number(float, "a number from 0 up", lambda value: 0 <= value < math.inf)
BELOW_ONE = number(float, "from 0 up and below 1", lambda value: 0 <= value < 1)
SEED = number(int, "an integer from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)

# The values of a recipe, which options override.
NUMBERS = {
    "epochs": (POSITIVE, "passes over the training images"),
    "batch_size": (POSITIVE, "samples in a step"),
    "lr": (ANY_RATE, "learning rate"),
    "decay": (
        number(float, "above 0 and at most 1", lambda value: 0 < value <= 1),
        "the factor of the learning rate for each epoch",
    ),
    "weight_decay": (FROM_ZERO, "AdamW's"),
    "smoothing": (BELOW_ONE, "label smoothing: the part of a label that is spread over all classes"),
    "average": (BELOW_ONE, "weight of the old average of the parameters in a step; 0: no averaging"),
    "shift": (FROM_ZERO, "random shifts of the training images: standard deviation in pixels"),
    "rotate": (FROM_ZERO, "random rotations: standard deviation in degrees"),
    "scale": (FROM_ZERO, "random sizes: standard deviation of the logarithm"),
    "elastic": (FROM_ZERO, "random elastic distortions: standard deviation in pixels"),
    "flip": (number(float, "from 0 to 1", lambda value: 0 <= value <= 1), "probability of a mirror image"),
    "hold_out": (
        number(int, "an integer from 0 up", lambda value: 0 <= value < 2**31),
        "test on that many training images",
    ),
    "seed": (SEED, "of the first parameters, the order of samples and the distortions"),
}


def parser() -> Parser:
    result = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True, metavar="train|eval|predict|export|serve")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument(
            "--workdir", type=pathlib.Path, help="the run's folder (default: a new or the newest in runs/)"
        )
        return one

    train = command("train", "train a LeNet-5")
    train.add_argument("--data", choices=NAMES, help="default: the recipe's, or digits")
    train.add_argument("--data-dir", type=pathlib.Path, help="folder with the four gzip IDX files (default: download)")
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    train.add_argument("--recipe", help=f"{names}, or a TOML file (default: as --data)")
    train.add_argument("--api", choices=("nnx", "linen"), help="which of the two LeNets (default: nnx)")
    numbers = train.add_argument_group("in place of the recipe's")
    for name, (kind, text) in NUMBERS.items():
        numbers.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    train.add_argument("--metrics-file", type=pathlib.Path, help="default: metrics.jsonl in the workdir")
    train.add_argument("--resume", action="store_true", help="continue after the run's last whole epoch, or begin it")
    several = train.add_argument_group("many devices")
    several.add_argument("--devices", type=devices_asked, help="how many, or all (default: 1; all with --coordinator)")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where the first process of several listens")
    several.add_argument("--num-processes", type=POSITIVE, help="how many processes train together")
    several.add_argument(
        "--process-id", type=SEED, help="which of them this is, from 0; the first one writes the results"
    )

    evaluate = command("eval", "test a trained LeNet")
    evaluate.add_argument("--data-dir", type=pathlib.Path, help="the folder of the data, if they were moved")
    predict = command("predict", "classify a picture")
    predict.add_argument("image", type=pathlib.Path, metavar="IMAGE.png")
    predict.add_argument("--model", type=pathlib.Path, metavar="FILE", help="an exported model instead of a run")
    predict.add_argument("--data", choices=NAMES, default="mnist", help="the data set of that model (default: mnist)")
    export = command("export", "write a trained LeNet for other programs")
    export.add_argument("file", type=pathlib.Path, metavar="FILE", help="*.stablehlo, *.safetensors or *.pt (PyTorch)")
    serve = command("serve", "draw a digit in the browser and see the results of the layers")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    port = number(int, "an integer from 0 to 65535", lambda value: 0 <= value < 65536)
    serve.add_argument("--port", type=port, default=8000, help="default: 8000; 0: any that is free")
    for one in (evaluate, predict, export, serve):
        one.add_argument("--epoch", type=POSITIVE, help="which checkpoint (default: the newest)")
    return result


def devices_asked(text: str) -> str:
    """Convert an option's text to a number of devices, or "all"."""
    return (
        text if text == "all" else str(number(int, "all or a positive integer", lambda value: 0 < value < 2**31)(text))
    )


def read_recipe(name: str) -> dict[str, Any]:
    """Read the recipe of that name, or in that file.

    Raises:
        UserError: there is none, or it has a value that a recipe may not have.
    """
    path = pathlib.Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    with explained(f"cannot read the recipe {path}"):
        content = path.read_bytes()
    try:
        found = tomllib.loads(content.decode())
    except ValueError as error:
        raise UserError(f"the recipe {path} is no TOML: {error}") from error
    for key, value in found.items():
        if key not in ("data", *NUMBERS):
            raise UserError(f"the recipe {path} must hold data, {', '.join(NUMBERS)}, got {key}")
        try:
            found[key] = NUMBERS[key][0](str(value)) if key in NUMBERS else value
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{key} in the recipe {path} {error}") from error
    if found.get("data") not in NAMES:
        raise UserError(f"data in the recipe {path} must be one of {', '.join(NAMES)}, got {found.get('data')!r}")
    return found


def configuration(given: argparse.Namespace) -> workdir.Config:
    """Return the configuration: the given options, and the recipe's values for the others."""
    recipe = read_recipe(given.recipe or given.data or "digits")
    if given.data not in (None, recipe["data"]):
        raise UserError(f"`--data` must be {recipe['data']} for the recipe {given.recipe}, got {given.data}")
    asked = {field.name: getattr(given, field.name) for field in dataclasses.fields(workdir.Config)}
    asked["data_dir"] = given.data_dir and str(given.data_dir.resolve())
    chosen = {name: value for name, value in asked.items() if value is not None}
    try:
        return workdir.Config(**{"api": "nnx", "seed": 0, "data_dir": None, **recipe, **chosen})
    except TypeError as error:
        raise UserError(f"the recipe {given.recipe} must say epochs, batch_size, lr, decay and weight_decay") from error


def resumed(stored: workdir.Config, given: argparse.Namespace) -> workdir.Config:
    """Return the stored configuration, updated by the options that may change.

    Raises:
        UserError: an option was given that would change the run's result.
    """
    asked = {field.name: getattr(given, field.name) for field in dataclasses.fields(workdir.Config)}
    if given.recipe:
        asked = read_recipe(given.recipe) | {name: value for name, value in asked.items() if value is not None}
    for name, value in asked.items():
        was = getattr(stored, name)
        if value is not None and value != was and name not in workdir.CHANGEABLE:
            raise UserError(f"`--{name.replace('_', '-')}` must be {was} to resume this run, got {value}")
    changes = {"epochs": asked["epochs"], "data_dir": given.data_dir and str(given.data_dir.resolve())}
    return dataclasses.replace(stored, **{name: value for name, value in changes.items() if value is not None})


def joined(given: argparse.Namespace) -> bool:
    """Return whether this process is one of several, after it has connected to the others.

    Raises:
        UserError: the options for it are incomplete.
    """
    options = given.coordinator, given.num_processes, given.process_id
    if options == (None, None, None):
        return False
    if None in options:
        raise UserError("`--coordinator` must come with --num-processes and --process-id")
    if given.process_id >= given.num_processes:
        raise UserError(f"`--process-id` must be below {given.num_processes}, the processes, got {given.process_id}")
    from lenet import devices

    devices.connect(given.coordinator, given.process_id, given.num_processes)
    return True


def train(given: argparse.Namespace) -> int:
    if not joined(given):
        return lead(given, given.devices or "1")
    from lenet import devices, runner

    if not devices.leads():
        return runner.follow(given.devices or "all")
    with devices.leading():
        return lead(given, given.devices or "all")


def lead(given: argparse.Namespace, devices: str) -> int:
    """Train as the only process or the first of several."""
    data = given.data or (read_recipe(given.recipe)["data"] if given.recipe else "digits")
    folder = given.workdir or (workdir.newest() if given.resume else workdir.new(data))
    with workdir.held(folder):
        if workdir.is_foreign(folder):
            raise UserError(f"`--workdir` must be new, empty or a run's folder, got {folder}, which holds other files")
        resuming = given.resume and workdir.has_run(folder)
        if workdir.has_run(folder) and not resuming:
            raise UserError(f"`--workdir` must be new for a new run, got {folder}. --resume continues the run in it")
        config = resumed(workdir.read_config(folder), given) if resuming else configuration(given)
        metrics = given.metrics_file or folder / "metrics.jsonl"
        workdir.check_metrics_file(metrics, given.resume)

        from lenet import runner

        return runner.train(folder, config, metrics, resuming, devices)


def evaluate(given: argparse.Namespace) -> int:
    from lenet import runner

    return runner.evaluate(given.workdir or workdir.newest(), given.data_dir, given.epoch)


def predict(given: argparse.Namespace) -> int:
    from lenet import runner

    return runner.predict(given.workdir, given.image, given.epoch, given.model, given.data)


def export(given: argparse.Namespace) -> int:
    from lenet import runner

    return runner.export(given.workdir or workdir.newest(), given.file, given.epoch)


def serve(given: argparse.Namespace) -> int:
    from lenet import runner

    return runner.serve(given.workdir or workdir.newest(), given.epoch, given.host, given.port)


COMMANDS = {"train": train, "eval": evaluate, "predict": predict, "export": export, "serve": serve}


def main(arguments: list[str] | None = None) -> int:
    try:
        given = parser().parse_args(arguments)
        return COMMANDS[given.command](given)
    except UserError as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted; --resume continues after the last whole epoch", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
