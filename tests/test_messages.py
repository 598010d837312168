"""Every bad call raises an error while tracing, in one form: argument, rule, fact, value, hint."""

import re

import jax
import jax.numpy as jnp
import pytest
from bad_calls import BAD_CALLS

import convlab

FORM = r"`(?P<argument>\w+)` must (?P<rule>.+?)(?: for (?P<fact>.+?))?, got (?P<value>.+?)\.(?: (?P<hint>[A-Z`].*\.))?"


def call(row):
    return getattr(convlab, row.function)(*row.arrays, **row.options)


@pytest.mark.parametrize("row", BAD_CALLS, ids=str)
def test_bad_calls_are_refused_in_one_form(row):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(row)
    message = str(caught.value)
    assert type(caught.value) is row.error, message
    form = re.fullmatch(FORM, message, re.DOTALL)
    assert form, message
    names = row.argument.split("|")
    assert form["argument"] in names, message
    if form["argument"] == names[0] and row.shown:
        assert message[form.start("value") :].startswith(row.shown + "."), message


@pytest.mark.parametrize("row", [r for r in BAD_CALLS if r.arrays and not isinstance(r.arrays[0], str)][::9], ids=str)
def test_bad_calls_are_refused_while_tracing(row):
    with pytest.raises(row.error) as eager:
        call(row)
    with pytest.raises(row.error) as traced:
        jax.eval_shape(lambda *arrays: getattr(convlab, row.function)(*arrays, **row.options), *row.arrays)
    assert str(traced.value) == str(eager.value)


def test_every_function_has_bad_calls():
    without = {"Tuning", "accelerate", "autotune", "explain", "freeze", "optimize", "conv_general_dilated"}
    functions = {n for n in convlab.__all__ if callable(getattr(convlab, n))} - without
    assert functions <= {row.function for row in BAD_CALLS}


@pytest.mark.parametrize("option", ["strides", "padding", "kernel_dilation", "feature_group_count"])
def test_a_traced_number_where_a_static_one_is_needed_is_refused_with_the_remedy(option):
    x, kernel = jnp.ones((1, 6, 5, 2)), jnp.ones((3, 3, 2, 2))
    with pytest.raises(TypeError) as caught:
        jax.eval_shape(lambda value: convlab.conv(x, kernel, **{option: value}), 1)
    form = re.fullmatch(FORM, str(caught.value))
    assert form and form["argument"] == option and "static_argnames" in form["hint"]


def test_numbers_in_concrete_arrays_are_numbers_while_tracing_too():
    x, kernel = jnp.ones((1, 6, 5, 2)), jnp.ones((3, 3, 2, 2))
    two, ones, pairs = jnp.int32(2), jnp.array([1, 1]), jnp.array([[1, 0], [2, 1]])
    made = jax.eval_shape(lambda: convlab.conv(x, kernel, strides=two, padding=pairs, kernel_dilation=ones))
    assert made.shape == (1, 3, 3, 2)
    half = jnp.float32(0.5)
    with pytest.raises(TypeError, match="`strides` must be an int"):
        jax.eval_shape(lambda: convlab.conv(x, kernel, strides=half))
