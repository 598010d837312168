"""Makes the pages that Sphinx reads: the texts of docs/, with parts that are generated from the code, and other texts
of the repository."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import pathlib
import re
import sys
import tempfile
import tomllib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import apidoc  # noqa: E402
import figures  # noqa: E402
import lessons  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]-*.ipynb"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"].get("Repository")
# Pages that are files elsewhere in the repository; the first that exists.
PAGES = {
    "benchmarks.md": ["benchmarks/README.md"],
    "backend.md": ["convlab/_backend/README.md"],
    "trainings.md": ["examples/architectures/README.md", "examples/training/README.md"],
    "mnist.md": ["examples/mnist/README.md"],
    "bfloat16.md": ["benchmarks/bfloat16.md"],
    "tuned.md": ["benchmarks/tuned.md"],
    "against-plain.md": ["benchmarks/against_plain.md"],
    "gpu-command.md": ["benchmarks/gpu/README.md"],
    "tpu-layers.md": ["benchmarks/tpu/between.md"],
    "changelog.md": ["CHANGELOG.md"],
}
# Captions of the sidebar and their pages; missing pages are left out.
NAV = {
    "Start": ["which-layer", "from-flax", "from-pytorch", "names"],
    "Guides": [
        "models",
        "seeing",
        "performance",
        "tuning",
        "recipes",
        "sharding",
        "tpu",
        "networks",
        "trainings",
        "mnist",
    ],
    "Lessons": ["notebooks", *(f"lessons/{path.stem}" for path in NOTEBOOKS)],
    "Reference": [
        *(f"reference/{name}" for name in ("convolution", "pooling", "resampling", "detection", "patches", "more")),
        *(f"reference/{name}" for name in ("layers", "nnx", "linen", "models", "speed", "sharding")),
        *(f"reference/{name}" for name in ("analysis", "viz", "weights")),
    ],
    "Measured": [
        *("benchmarks", "upstream", "bfloat16", "tuned", "against-plain", "gpu", "gpu-command"),
        *("tpu-estimates", "tpu-estimates-bfloat16", "tpu-networks", "tpu-layers"),
    ],
    "Contributing": ["contributing", "formulations", "backend", "changelog"],
}

# --- pictures -------------------------------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """Draw the pictures of the site, by file name."""
    import jax.numpy as jnp

    from convlab import viz

    x, image = jnp.arange(1.0, 7.0)[:, None], jnp.arange(25.0).reshape(5, 5, 1)
    edges = jnp.array([[1.0, 0.0, -1.0]] * 3)[:, :, None, None]
    two = jnp.stack([x[:, 0], x[:, 0] + 6], -1)
    lenet = _lenet()
    groups = viz.slide(two, jnp.ones((3, 1, 4)) * jnp.arange(1.0, 5.0), feature_group_count=2)
    return {
        "slide.gif": _gif(viz.slide(x, jnp.full((3, 1, 1), 2.0), padding=1)),
        "causal.gif": _gif(viz.slide(x, jnp.full((3, 1, 1), 2.0), padding=[(2, 0)])),
        "dilated.gif": _gif(viz.slide(x, jnp.full((2, 1, 1), 2.0), kernel_dilation=3)),
        "image.gif": _gif(viz.slide(image, edges, padding="SAME", padding_mode="reflect", strides=2)),
        "groups.png": _png(groups.at(9)),
        "transposed.gif": _gif(
            viz.slide_transpose(image[:2, :2] + 1, jnp.ones((3, 3, 1, 1)), strides=2, padding="VALID")
        ),
        "lenet.png": _png(viz.shapes(lenet, jnp.ones((1, 28, 28, 1)))),
        "field.png": _png(viz.receptive_field(lenet, _digit(), "layers.3", (4, 4))),
        "matrix.png": _png(viz.matrix(jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1), (6, 6, 1), padding="VALID")),
    }


def _lenet():
    from flax import nnx as flax_nnx

    from convlab import nnx

    rngs = flax_nnx.Rngs(0)
    return flax_nnx.Sequential(
        nnx.Conv(1, 6, (5, 5), rngs=rngs),
        flax_nnx.relu,
        nnx.MaxPool(2, strides=2),
        nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs),
        flax_nnx.relu,
        nnx.MaxPool(2, strides=2),
        nnx.Flatten(),
        flax_nnx.Linear(400, 120, rngs=rngs),
        flax_nnx.Linear(120, 84, rngs=rngs),
        flax_nnx.Linear(84, 10, rngs=rngs),
    )


def _digit():
    """Draw a seven with two strokes: an input for a network that needs no data set."""
    import numpy as np

    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, 5:8, 7:21] = 1
    for row in range(8, 24):
        column = 19 - (row - 8) // 2
        image[0, row, column : column + 3] = 1
    return image


def _png(picture) -> bytes:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png")
    return buffer.getvalue()


def _gif(show) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "show.gif"
        show.save(path, seconds=0.8)
        return path.read_bytes()


# --- formulas -------------------------------------------------------------------------------------------------------

WINDOW = r"$o = \lfloor (i + p - e) / s \rfloor + 1$ with $e = (k - 1) d + 1$; `SAME`: $o = \lceil i / s \rceil$"
FORMULAS = {
    "conv": WINDOW + r". `input_dilation` $d_x$ takes $(i - 1) d_x + 1$ in place of $i$",
    **dict.fromkeys(
        ("conv_local", "deform_conv", "unfold", "max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool"), WINDOW
    ),
    **dict.fromkeys(
        ("pool", "gem_pool", "softmax_pool", "top_k_pool", "mixed_pool", "stochastic_pool", "blur_pool"), WINDOW
    ),
    "conv_transpose": (
        r"`SAME`: $o = i s$; `VALID`: $o = i s + \max(e - s, 0)$; pads $p$ of the dilated input: "
        r"$o = (i - 1) s + 2 + p - e$; with "
        r"`use_consistent_padding`: $o = (i - 1) s + e - p$; $e = (k - 1) d + 1$, and `output_padding` is added"
    ),
    "pad": "$o = i + p$",
    **dict.fromkeys(("adaptive_avg_pool", "adaptive_max_pool", "max_unpool", "fold"), "`output_shape`"),
    **dict.fromkeys(("global_avg_pool", "global_max_pool"), "one value for each channel"),
    "fractional_max_pool": r"`output_shape`, or $o = \lfloor i r \rfloor$ for an `output_ratio` $r$",
    "spatial_pyramid_pool": r"$c \sum_l l^n$ values for $n$ spatial axes and levels $l$",
}
SYMBOLS = (
    "Per spatial axis: input $i$, output $o$, window $k$, strides $s$, dilation $d$, pads before and after "
    "together $p$, effective size $e$."
)
DRAWN = {
    "conv": ("image.gif", "A 3 by 3 filter on a mirrored image, with strides of 2"),
    "Conv": ("image.gif", "A 3 by 3 filter on a mirrored image, with strides of 2"),
    "conv_transpose": ("transposed.gif", "A transposed convolution adds its kernel, times each input, to the result"),
    "ConvTranspose": ("transposed.gif", "A transposed convolution adds its kernel, times each input, to the result"),
    "DepthwiseConv": ("groups.png", "Two groups of one channel, two filters each"),
    "CausalConv": ("causal.gif", "A causal convolution pads before the sequence only"),
    "slide": ("slide.gif", "A kernel of three 2s slides over the numbers 1 to 6, with padding"),
    "slide_transpose": ("transposed.gif", "A scaled kernel is added to the result for each number of the input"),
    "shapes": ("lenet.png", "The layers of LeNet-5 as blocks"),
    "receptive_field": ("field.png", "The receptive field of one position of LeNet's second convolution"),
    "matrix": ("matrix.png", "The matrix of a 3 by 3 convolution of a 6 by 6 image"),
    "conv_matrix": ("matrix.png", "The matrix of a 3 by 3 convolution of a 6 by 6 image"),
}


def extra(path: str) -> str:
    """Return the formula of the output's size and the picture of an entry."""
    name = path.rsplit(".", 1)[-1]
    public = path == f"convlab.{name}"
    function = layer_of(path) or name
    parts = [f"**Output size**: {FORMULAS[name]}." if public and name in FORMULAS else ""]
    if public or path.startswith(("convlab.nnx.", "convlab.linen.")):
        drawn = figures.figure(function)
        parts.append(f"~~~{{raw}} html\n{drawn}\n~~~" if drawn else "")
    if name in DRAWN and not path.startswith("convlab.sharding."):
        parts.append(f"![{DRAWN[name][1]}](/pictures/{DRAWN[name][0]})")
    return "\n\n".join(filter(None, parts))


def layer_of(path: str) -> str | None:
    """Return the function that a layer calls."""
    found = apidoc.AS_LAYER.match(apidoc.found(path).__doc__ or "")
    return found[1] if found else None


# --- tables ---------------------------------------------------------------------------------------------------------


def layer_names() -> list[str]:
    """Return the layers that both module systems have, convolutions first."""
    nnx, linen = importlib.import_module("convlab.nnx"), importlib.import_module("convlab.linen")
    names = [
        name
        for name, layer in vars(nnx).items()
        if inspect.isclass(layer)
        and hasattr(linen, name)
        and layer.__module__.startswith("convlab")
        and name[0].isupper()
    ]
    return sorted(
        names, key=lambda name: ("Conv" not in name, name != "Conv", layer_of(f"convlab.nnx.{name}") is None, name)
    )


def layers() -> str:
    """Return a table of every layer with a summary and links to its entries in both systems."""
    rows = ["| layer | what it does | |", "|---|---|---|"]
    for name in layer_names():
        summary = apidoc.sections(apidoc.found(f"convlab.nnx.{name}").__doc__)[0][1].split("\n\n")[0].replace("\n", " ")
        entries = f"[NNX](#convlab.nnx.{name}) [Linen](#convlab.linen.{name})"
        rows.append(f"| `{name}` | {summary.replace('|', chr(92) + '|')} | {entries} |")
    return "\n".join(rows)


def system(name: str) -> str:
    return "\n".join(entry(f"convlab.{name}.{layer}") for layer in layer_names())


def entry(path: str) -> str:
    return apidoc.entry(path, extra(path))


def formulations(which: str) -> str:
    """Return the rows of the tables that choose a formulation."""
    rows = getattr(importlib.import_module("convlab._backend.tables"), which)
    lines = [f"| {n} | `{name}` | {reason} |" for n, (name, reason, _) in enumerate(rows, 1)]
    return "\n".join(["| | formulation | reason |", "|---|---|---|", *lines])


def notebooks() -> str:
    rows = ["| lesson | what it teaches |", "|---|---|"]
    for path in NOTEBOOKS:
        title, _, text = lessons.first_cell(path).partition("\n")
        about = text.strip().split("\n\n")[0].replace("\n", " ")
        rows.append(f"| [{title.lstrip('# ')}](lessons/{path.stem}.md) | {about} |")
    return "\n".join(rows)


ENTRY = re.compile(r"^(?:<!-- make: entry ([\w.]+) -->|::: ([\w.]+))$", re.MULTILINE)


def listed() -> set[str]:
    """Return the objects that a page of the reference names."""
    texts = [path.read_text() for path in (DOCS / "reference").glob("*.md")]
    return {first or second for text in texts for first, second in ENTRY.findall(text)}


def rest(module: str) -> str:
    """Return the entries of a module's public names that no page names yet."""
    there = [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    return "\n\n".join(f"<!-- make: entry {path} -->" for path in there if path not in listed())


def contents(text: str) -> str:
    """Return links to the entries of a reference page, for the top of the page."""
    names = re.findall(r"<!-- make: entry ([\w.]+) -->", text)
    names += [
        f"convlab.{module}.{layer}"
        for module in re.findall(r"<!-- make: (nnx|linen) -->", text)
        for layer in layer_names()
    ]
    links = " · ".join(f"[`{name.rsplit('.', 1)[-1]}`](#{name})" for name in names)
    first = re.search(r"<!-- make: (?:symbols|entry [\w.]+|nnx|linen) -->", text)
    return f"{text[: first.start()]}{links}\n\n{text[first.start() :]}" if len(names) > 2 and first else text


def make(what: str) -> str:
    """Return the text that replaces a comment `<!-- make: WHAT -->`."""
    kind, _, name = what.partition(" ")
    if kind == "entry":
        return entry(name)
    if kind == "picture":
        file, _, alt = name.partition(" ")
        return f"![{alt}](/pictures/{file})"
    tables = {
        "layers": layers,
        "nnx": lambda: system("nnx"),
        "linen": lambda: system("linen"),
        "symbols": lambda: SYMBOLS,
        "forward": lambda: formulations("FORWARD"),
        "kernel gradient": lambda: formulations("KERNEL_GRADIENT"),
        "tpu forward": lambda: formulations("TPU_FORWARD"),
        "tpu kernel gradient": lambda: formulations("TPU_KERNEL_GRADIENT"),
        "gpu forward": lambda: formulations("GPU_FORWARD"),
        "gpu kernel gradient": lambda: formulations("GPU_KERNEL_GRADIENT"),
        "notebooks": notebooks,
        "contributing": lambda: linked((ROOT / "CONTRIBUTING.md").read_text().partition("\n")[2], "CONTRIBUTING.md"),
    }
    return tables[what]()


# --- links ----------------------------------------------------------------------------------------------------------

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def site_paths() -> dict[str, str]:
    """Return the page of each text of the repository that has one."""
    paths = {path.relative_to(ROOT).as_posix(): path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    paths |= {file: page for page, files in PAGES.items() for file in files if (ROOT / file).exists()}
    paths |= {f"notebooks/{path.name}": f"lessons/{path.stem}.md" for path in NOTEBOOKS}
    return paths | {"notebooks": "notebooks.md", "README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def linked(text: str, source: str) -> str:
    """Return a text of the repository with the site's links; links to files that are not on it become plain text."""
    pages = site_paths()
    parent = pathlib.PurePosixPath(source).parent

    def replaced(found: re.Match) -> str:
        picture, words, target = found[1], found[2], found[3]
        if target.startswith(("#", "/", "mailto:")) or "://" in target:
            return found[0]
        file, _, anchor = target.partition("#")
        if anchor.startswith("convlab."):
            return f"[{words}](#{anchor})"
        file = os.path.normpath(parent / file)
        if file in pages:
            return f"[{words}](/{pages[file]}{'#' + anchor if anchor else ''})"
        if picture and (ROOT / file).exists():
            return f"![{words}](/assets/{file})"
        if REPOSITORY and not picture:
            return f"[{words}]({REPOSITORY}/blob/main/{file})"
        return words

    return _outside_code(text, lambda part: LINK.sub(replaced, part))


def _outside_code(text: str, change) -> str:
    """Apply `change` to the parts of a Markdown text outside of fenced and indented code."""
    parts = re.split(r"(^(`{3,}).*?^\2[ ]*$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if n % 3 == 1 else change(part) for n, part in enumerate(parts) if n % 3 != 2)


# --- the whole ------------------------------------------------------------------------------------------------------


def write(folder: pathlib.Path) -> None:
    """Write all files that Sphinx reads."""
    texts = {path.relative_to(DOCS).as_posix(): (path, path.read_text()) for path in DOCS.rglob("*.md")}
    for page, files in PAGES.items():
        path = next((ROOT / file for file in files if (ROOT / file).exists()), None)
        if path:
            texts[page] = (path, path.read_text())
    if others := rest("convlab"):
        texts["reference/more.md"] = (DOCS / "reference/more.md", f"# More functions\n\n{others}\n")
    for page, (path, text) in texts.items():
        text = linked(text, path.relative_to(ROOT).as_posix())
        text = re.sub(r"^::: ([\w.]+)$", r"<!-- make: entry \1 -->", text, flags=re.MULTILINE)
        text = re.sub(r"<!-- make: rest ([\w.]+) -->", lambda found: rest(found[1]), text)
        text = contents(text) if page.startswith("reference/") else text
        _put(folder / page, re.sub(r"<!-- make: (.*?) -->", lambda found: make(found[1]), text))
    for path in NOTEBOOKS:
        name = f"lessons/{path.stem}.md"
        _put(folder / name, linked(lessons.page(path, folder / "lessons/pictures"), f"notebooks/{path.name}"))
    for name, content in pictures().items():
        _put(folder / "pictures" / name, content)
    for path in [*ROOT.glob("benchmarks/*.png"), *ROOT.glob("examples/**/*.png"), *DOCS.glob("images/*")]:
        _put(folder / "assets" / path.relative_to(ROOT), path.read_bytes())
    index = folder / "index.md"
    index.write_text(index.read_text() + "".join(_toctree(folder, caption, names) for caption, names in NAV.items()))


def _put(path: pathlib.Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _toctree(folder: pathlib.Path, caption: str, names: list[str]) -> str:
    there = "\n".join(name for name in names if (folder / f"{name}.md").exists())
    return f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{there}\n```\n"
