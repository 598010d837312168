"""Every bad call is refused, while tracing, by a message of the one form: argument, rule, fact, value, hint."""

import re

import jax
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
    without = {"accelerate", "explain", "conv_general_dilated"}
    functions = {n for n in convlab.__all__ if callable(getattr(convlab, n))} - without
    assert functions <= {row.function for row in BAD_CALLS}
