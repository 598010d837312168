"""Prints the estimates of the TPU's compiler for a training step of whole networks, of convlab and of Flax with plain
JAX: `python benchmarks/tpu/steps.py`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiler
import estimates
import jax
import jax.numpy as jnp
import training_jax
from flax import nnx
from inference_networks import NETWORKS

from convlab import models

CHOSEN = ("resnet50", "mobilenet_v2", "unet", "convnext_tiny")
Row = dict[str, Any]


def estimate(name: str, batch: int, dtype: str) -> compiler.Estimate:
    """Return the estimate of a step: statistics of the batch, all gradients, descent; operands in `dtype`."""
    model = training_jax.in_training(models.get_model(name, rngs=nnx.Rngs(0)))
    if dtype != "float32":
        for _, part in nnx.iter_graph(model):
            if isinstance(part, nnx.Module) and hasattr(part, "dtype"):
                part.dtype = jnp.dtype(dtype)
    x = jax.ShapeDtypeStruct((batch, *NETWORKS[name]), jnp.float32)
    step, state, shape = training_jax.program(model, x)
    classes = jax.ShapeDtypeStruct(shape[:-1], jnp.int32)
    return compiler.estimate(step, *jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state), x, classes)


def rows(names: list[str], batch: int, dtype: str, kept: pathlib.Path | None) -> list[Row]:
    """Return the rows; those in `kept` are taken from there, and new ones are added to it."""
    found: dict[str, Row] = {name: {"layer": name, "mode": f"batch {batch}", "dtype": dtype} for name in names}
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    for contestant in estimates.CONTESTANTS:
        if contestant == "flax":  # after convlab's of all networks, because it cannot be undone
            training_jax.as_flax()
        for name, row in found.items():
            facts = {key: row[key] for key in ("layer", "mode", "dtype")} | {"contestant": contestant}
            line = next((old for old in lines if old.items() >= facts.items()), None)
            if line is None:
                line = facts | {"estimate": dataclasses.asdict(estimate(name, batch, dtype))}
                if kept:
                    with kept.open("a") as file:
                        file.write(json.dumps(line) + "\n")
            row[contestant] = line["estimate"]
            print(name, contestant, *(f"{row[contestant][f] / s:.4g} {t}" for f, t, s in estimates.COLUMNS), flush=True)
    return list(found.values())


def main(argv: list[str] | None = None) -> int:
    options = estimates.parser(__doc__)
    options.add_argument("--networks", default=",".join(CHOSEN), help="of convlab.models, default %(default)s")
    options.add_argument("--batch", type=int, default=8)
    args = options.parse_args(argv)
    if estimates.no_compiler("steps.py"):
        return 2
    unknown = [name for name in args.networks.split(",") if name not in NETWORKS]
    if unknown:
        print(f"steps.py: there is no network {unknown[0]!r}; there are {', '.join(NETWORKS)}", file=sys.stderr)
        return 2
    found = rows(args.networks.split(","), args.batch, args.dtype, args.kept)
    table = "\n".join(estimates.table("A training step", "network", found, estimates.COLUMNS))
    return estimates.report(table, args.dtype, args.markdown)


if __name__ == "__main__":
    sys.exit(main())
