"""convlab and its oracle compared with PyTorch: values, indices and gradients for drawn options; and calls that PyTorch
rejects."""

import draws
import jax
import numpy as np
import pytest
import reference
import reference_pools
from hypothesis import HealthCheck, Phase, given, settings

import convlab

torch = pytest.importorskip("torch")
import torch_ops  # noqa: E402  needs torch

ORACLE = vars(reference) | vars(reference_pools)


def drawn(name, check, examples):
    """Run `check` over a number of drawn calls, which are the same every time and are not stored."""
    fixed = settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    fixed(given(draws.CALLS[name]())(check))()


def tensors(values):
    return [torch.tensor(v, requires_grad=v.dtype.kind == "f") for v in values]


def by_torch(name, arrays, options):
    """Return the values, the indices or None, and the gradients of a fixed functional of the values."""
    inputs = tensors(arrays)
    options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    result = getattr(torch_ops, name)(*inputs, **options)
    y, indices = result if isinstance(result, tuple) else (result, None)
    (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)).sum().backward()
    gradients = [i.grad.numpy() for i in inputs if i.requires_grad]
    return y.detach().numpy(), None if indices is None else indices.numpy(), gradients


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", draws.CALLS)
def test_the_oracle_gives_pytorchs_values(name):
    def check(call):
        arrays, options = call
        y, indices, _ = by_torch(name, arrays, options)
        result = ORACLE[name](*arrays, **options)
        close(result[0] if indices is not None else result, y)
        if indices is not None:
            np.testing.assert_array_equal(result[1], indices)

    drawn(name, check, examples=60)


@pytest.mark.parametrize("examples", [4, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", draws.CALLS)
def test_convlab_gives_pytorchs_values_indices_and_gradients(name, examples, x64):
    def check(call):
        arrays, options = call
        y, indices, gradients = by_torch(name, arrays, options)
        operation = getattr(convlab, name)

        floats = tuple(a for a in arrays if a.dtype.kind == "f")
        aux = indices is not None

        def values(*floats):
            return operation(*floats, *arrays[len(floats) :], **options)

        @jax.jit
        def value_and_gradients(*floats):
            y, pull, *at = jax.vjp(values, *floats, has_aux=aux)
            return y, at, pull(jax.numpy.cos(jax.numpy.arange(y.size, dtype=y.dtype)).reshape(y.shape))

        actual, at, pulled = value_and_gradients(*floats)
        close(actual, y)
        if aux:
            np.testing.assert_array_equal(at[0], indices)
        for ours, theirs in zip(pulled, gradients, strict=True):
            close(ours, theirs)

    drawn(name, check, examples)


def replaced(option, value):
    """Return a change of the options: another value, one for every axis if the old one was."""

    def corrupt(arrays, options):
        old = options.get(option)
        new = (value,) * len(old) if isinstance(old, tuple) and not isinstance(value, tuple) else value
        return (arrays, options | {option: new}) if old is not None else None

    return corrupt


def widened(which):
    """Return a change of the arrays: one more channel than the others have."""

    def corrupt(arrays, options):
        if len(arrays) <= which:
            return None
        more = np.concatenate([arrays[which], arrays[which][..., :1]], -1)
        return (*arrays[:which], more, *arrays[which + 1 :]), options

    return corrupt


def emptied(arrays, options):
    """Return arrays without pixels."""
    axis = arrays[0].ndim - 2
    return (arrays[0].take([], axis), *arrays[1:]), options


CORRUPTIONS = {
    "no stride": replaced("strides", 0),
    "backward stride": replaced("strides", -1),
    "stride for another rank": replaced("strides", (1, 1, 1, 1)),
    "broken stride": replaced("strides", 1.5),
    "no dilation": replaced("kernel_dilation", 0),
    "no window dilation": replaced("window_dilation", 0),
    "no window": replaced("window_shape", 0),
    "large window": replaced("window_shape", 50),
    "broken window": replaced("window_shape", 2.5),
    "padding for another rank": replaced("padding", (1, 1, 1, 1)),
    "broken padding": replaced("padding", 0.5),
    "unknown padding": replaced("padding", "outside"),
    "groups that do not divide": replaced("feature_group_count", 7),
    "no groups": replaced("feature_group_count", 0),
    "large output padding": replaced("output_padding", 9),
    "negative output padding": replaced("output_padding", -1),
    "divided by nothing": replaced("divisor_override", 0),
    "negative output": replaced("output_shape", -1),
    "large output": replaced("output_shape", 99),
    "unknown mode": replaced("mode", "mirror"),
    "wide channels": widened(0),
    "wide kernel or indices": widened(1),
    "wide bias": widened(2),
    "no pixels": emptied,
}
# Accepted here on purpose: unpooling to any size that holds the indices, padding of any number of axes.
ALLOWED = {("max_unpool", "large output"), ("pad", "padding for another rank")}


@pytest.mark.parametrize("name", draws.CALLS)
def test_what_pytorch_rejects_is_rejected(name):
    def check(call):
        for what, corrupt in CORRUPTIONS.items():
            corrupted = corrupt(*call)
            if corrupted is None or (name, what) in ALLOWED:
                continue
            arrays, options = corrupted
            try:
                by_torch(name, arrays, options)
            except (RuntimeError, ValueError, TypeError, KeyError, ZeroDivisionError):
                with pytest.raises((ValueError, TypeError)):
                    getattr(convlab, name)(*arrays, **options)
                    pytest.fail(f"{what} is accepted: {[a.shape for a in arrays]}, {options}")

    drawn(name, check, examples=4)
