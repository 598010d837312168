"""Tests of `autotune`: the problems that it collects, the rejection of wrong numbers, where a tuning is used, its file;
and `accelerate(engine=False)`."""

import functools
import io
import itertools
import json
import os
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import convlab
from convlab._backend import compat, engine, lowering
from convlab._backend.pooling import operations
from convlab._backend.tables import Target
from convlab._backend.tuning import active, autotune, device, equation, measure, whole
from convlab._backend.tuning.tuning import Entry

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, 3)), "float32")
K = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 3, 4)), "float32")
NHWC = ("NHWC", "HWIO", "NHWC")


def convolution(x, k):
    return lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=NHWC)


def network(x, k):
    y = lax.scan(lambda c, _: (convlab.conv(c, jnp.ones((3, 3, 3, 3))), None), x, None, 2)[0]
    y = convlab.max_pool(convlab.conv(y, k), 2)
    return (convlab.conv(y, jnp.ones((1, 1, 4, 2)), method="gemm") ** 2).sum() + convolution(x, k).sum()


def choosing(f, *args, platform="cpu", **choices):
    """Return a tuning for this device with the formulation named for the operation of each collected problem; other
    problems follow the tables."""
    closed = jax.make_jaxpr(f)(*args)
    entries = []
    for one in equation.collect(closed.jaxpr, lowering.OPERATIONS):
        comparison = measure.Comparison(one, Target(platform, measured=True))
        name = choices.get(comparison.kind.replace(" ", "_"))
        if name:
            seconds = {name: 1.0, comparison.static: 2.0} if name != comparison.static else {name: 1.0}
            entries.append(Entry(one.key, comparison.kind, one.text(), one.count, comparison.static, name, seconds))
    return convlab.Tuning(entries, device.here(platform))


def steps(f, *args, platform="cpu"):
    return {step.operation: step for step in convlab.explain(f, *args, platform=platform)}


# --- measuring ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned():
    """Return the tuning of a network's gradient, measured with few rounds, with one wrong formulation."""
    former = operations.candidates

    def with_a_wrong_one(name, *facts, **options):
        found = former(name, *facts, **options)
        return found | ({"wrong": lambda x: 2 * found["windows"](x)} if name == "window_max" else {})

    few = lambda self, *facts: [n for n in ("lax", "gemm") if self.plan_by_name(*facts[:2], n, facts[2])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "candidates", with_a_wrong_one)
        patch.setattr(lowering.Convolution, "candidates", few)
        return convlab.autotune(jax.grad(network, 1), X, K, repeats=1, progress=True)


def test_every_distinct_problem_is_collected_with_its_count(tuned):
    operations_ = [entry.operation for entry in tuned.entries]
    assert {"forward", "kernel gradient", "max", "max gradient"} == set(operations_)
    assert len({entry.key for entry in tuned.entries}) == len(operations_)
    in_scan = [e for e in tuned.entries if e.operation == "forward" and "2x9x9x3 * 3x3x3x3" in e.problem]
    assert max(entry.count for entry in in_scan) >= 2
    # its method is gemm
    assert not any("4x4x4 * 1x1x4x2" in e.problem for e in tuned.entries if e.operation == "forward")


def test_lax_is_a_candidate_and_wrong_formulations_are_not(tuned):
    for entry in tuned.entries:
        assert {"lax", entry.static, entry.choice} <= set(entry.seconds)
        assert entry.choice == entry.static or entry.gain > 1
    (pool,) = (entry for entry in tuned.entries if entry.operation == "max")
    assert "wrong" not in pool.seconds
    assert pool.refused["wrong"].startswith("error ")


def test_a_tuning_changes_no_result(tuned):
    f = jax.jit(jax.grad(network, 1))
    before = f(X, K)
    with tuned, convlab.accelerate():
        assert np.linalg.norm(f(X, K) - before) <= 1e-4 * np.linalg.norm(before)


def test_a_budget_and_an_interrupt_keep_what_is_done(monkeypatch):
    stopped = convlab.autotune(network, X, K, budget=1e-9)
    assert stopped.entries == () and stopped.stopped == "the budget is spent" and "not all" in repr(stopped)
    tried = []

    def interrupt(comparison, name):
        tried.append(name)
        if len(tried) > 3:
            raise KeyboardInterrupt
        comparison.calls[name], comparison.seconds[name] = (lambda: X), 1.0

    monkeypatch.setattr(measure.Comparison, "measure", interrupt)
    monkeypatch.setattr(lowering.Convolution, "candidates", lambda self, *facts: ["lax"])
    monkeypatch.setattr(lowering.WindowReduction, "candidates", lambda self, *facts: ["lax"])
    partial = convlab.autotune(network, X, K, repeats=1)
    assert partial.stopped == "interrupted" and len(partial.entries) == 1


def test_the_costliest_problems_come_first_under_a_budget(monkeypatch):
    order = []
    monkeypatch.setattr(measure.Comparison, "prepare", lambda comparison: None)
    monkeypatch.setattr(measure.Comparison, "release", lambda comparison: None)

    def try_out(comparison, name):
        order.append(comparison.equation.key)
        comparison.seconds[name] = 1.0 if comparison.kind == "max" else 1e-3
        comparison.calls[name] = lambda: X

    monkeypatch.setattr(measure.Comparison, "measure", try_out)
    found = convlab.autotune(network, X, K, repeats=1, budget=100)
    assert found.entries[0].operation == "max" and found.stopped is None


def test_a_budget_that_ends_within_a_problem_keeps_what_was_measured_of_it(monkeypatch):
    """Each look at the clock takes a second."""
    clock = itertools.count()
    monkeypatch.setattr(autotune, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(lowering.Convolution, "candidates", lambda self, *facts: ["fft", "gemm", "taps", "lax"])
    tried = []

    def try_out(comparison, name):
        tried.append(name)
        comparison.calls[name], comparison.seconds[name] = (lambda: X), 1.0

    monkeypatch.setattr(measure.Comparison, "measure", try_out)
    found = convlab.autotune(convlab.conv, X, K, repeats=1, budget=3)
    (entry,) = found.entries
    assert found.stopped == "the budget is spent"
    assert tried == [entry.static, entry.static, "lax"] and set(entry.seconds) == {entry.static, "lax"}


def test_what_nobody_reads_is_not_measured():
    """A gradient by the kernel of a linear map does not need the map's result, nor the gradient by the image."""

    @jax.jit
    def step(x, k):
        return jax.vjp(convlab.conv, x, k)[1](jnp.ones((2, 9, 9, 4)))

    closed = jax.make_jaxpr(lambda x, k: step(x, k)[1])(X, K)
    assert len(equation.collect(closed.jaxpr, lowering.OPERATIONS)) == 1


def test_arguments_without_arrays_may_be_static():
    """A jitted function takes static numbers, strings and functions, which no tracer replaces."""

    @functools.partial(jax.jit, static_argnums=(1, 3, 4))
    def f(x, stride, k, padding, activation):
        return activation(convlab.conv(x, k, strides=stride, padding=padding))

    found = autotune._trace(f, (X, 2, K, "SAME", jnp.tanh))
    assert len(equation.collect(found[2].jaxpr, lowering.OPERATIONS)) == 1
    assert found[0](*found[1]).shape == (2, 5, 5, 4)
    _, args, _ = autotune._trace(lambda x, n: n * x, (X, 2))
    assert len(args) == 2
    with pytest.raises(KeyError, match="n"):  # the program's own error
        autotune._trace(lambda x, n: {}["n"], (X, 0))


def test_another_layout_is_not_timed_where_lax_is_far_slower():
    problem = jax.make_jaxpr(lambda x, k: convlab.conv(x, k, feature_group_count=3))(X, K[:, :, :1, :3])
    (one,) = equation.collect(problem.jaxpr, lowering.OPERATIONS)
    comparison = measure.Comparison(one, Target(measured=True))
    comparison.seconds |= {"lax": 1.0, "taps": 0.01}
    comparison.measure("channels_last")
    assert "channels_last" not in comparison.seconds and "lax" in comparison.refused["channels_last"]


SINGLE = {"a": 2.0, "b": 1.0, "lax": 3.0}  # seconds of each problem alone, by the tables a
WHOLE = {
    # seconds of the program by the tables, of the changed programs, and the choices that remain
    "both pay": (9.0, {"bb": 5.0}, "bb"),
    "one of two pays": (9.0, {"bb": 10.0, "ba": 11.0, "ab": 8.0}, "ab"),
    "neither pays": (9.0, {"bb": 10.0, "ba": 9.0, "ab": 8.9}, "aa"),
    "lax pays": (9.0, {"bb": 8.0, "lax lax": 7.0}, "lax lax"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_choices_that_do_not_pay_in_the_whole_program_are_dropped(name, monkeypatch):
    by_tables, others, expected = WHOLE[name]
    seconds = {"aa": by_tables, "lax lax": 20.0} | others

    class Known(whole.Programs):
        def compile(self, entries):
            names = [entry.choice for entry in entries]
            text = " ".join(names) if "lax" in names else "".join(names)
            self.seconds[text], self.calls[text] = seconds[text], lambda: seconds[text]
            return text

    monkeypatch.setattr(whole, "Programs", Known)
    monkeypatch.setattr(whole, "time_calls", lambda call, _: call())
    entries = [Entry(key, "forward", key, 2 - n, "a", "b", SINGLE) for n, key in enumerate(["x", "y"])]
    found = whole.compare(None, (), convlab.Tuning(entries, device.here("cpu")), 1)
    choices = [entry.choice for entry in found.entries]
    assert "".join(choices) == expected.replace(" ", "")
    assert found.program["by the tables"] == by_tables
    assert [entry.whole for entry in found.entries] == [choice != "b" for choice in choices]
    assert found.program["by the choices"] == min(seconds[expected], by_tables) and found.program["by lax"] >= 7


def test_the_whole_program_is_timed_if_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(lowering.Convolution, "candidates", lambda self, *facts: ["lax", "gemm"])
    found = convlab.autotune(convlab.conv, X, K, repeats=1, whole_program=True)
    assert set(found.program) == {"by the tables", "by the choices", "by lax"} and "whole program" in repr(found)
    unfinished = convlab.autotune(convlab.conv, X, K, repeats=1, whole_program=True, budget=1e-9)
    assert unfinished.stopped == "the budget is spent" and "lax" in unfinished.entries[0].seconds
    found.save(tmp_path / "t.json")
    assert convlab.Tuning.load(tmp_path / "t.json").program == found.program
    with pytest.raises(TypeError, match="`args` must be arrays for `whole_program`, got "):
        convlab.autotune(convlab.conv, jax.ShapeDtypeStruct(X.shape, X.dtype), K, whole_program=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_maxima_are_compared_where_they_are_unique(dtype):
    """In bfloat16 random numbers would tie, and formulations differ in which of equal elements they choose."""
    x = jnp.zeros((2, 12, 11, 16), dtype)
    closed = jax.make_jaxpr(jax.grad(lambda x: convlab.max_pool(x, 3, strides=2, padding=1).astype("float32").sum()))(x)
    for one in equation.collect(closed.jaxpr, lowering.OPERATIONS):
        comparison = measure.Comparison(one, Target(measured=True))
        comparison.prepare()
        for name in comparison.candidates:
            comparison.measure(name)
        assert not comparison.refused and len(comparison.seconds) >= 2


def test_results_that_differ_are_far():
    a = np.asarray([1.0, np.nan, np.inf])
    assert measure._distance(a, a) == 0
    assert measure._distance(a, np.asarray([1.0, np.nan, 2.0])) == np.inf
    assert measure._distance(np.asarray([1.0, 2.0]), np.asarray([1.0, 1.0])) == pytest.approx(2**-0.5)


@pytest.mark.parametrize(
    "bad, kind, words",
    [
        (dict(repeats=0), ValueError, "`repeats` must be positive, got 0"),
        (dict(repeats=1.5), TypeError, "`repeats` must be an integer, got 1.5"),
        (dict(budget=-1), ValueError, "`budget` must be positive, got -1"),
        (dict(budget="1"), TypeError, "`budget` must be a number, got '1'"),
    ],
)
def test_bad_arguments_raise(bad, kind, words):
    with pytest.raises(kind, match=words):
        convlab.autotune(network, X, K, **bad)


# --- where it is used ---------------------------------------------------------------------------------------------


def test_choices_are_used_only_inside_the_block():
    f = jax.jit(lambda x, k: convlab.conv(x, k))
    text = lambda: f.lower(X, K).as_text()
    before, tuning = text(), choosing(convlab.conv, X, K, forward="fft")
    y = f(X, K)
    with tuning:
        assert steps(convlab.conv, X, K)["forward"].formulation == "fft"
        assert "2.00 times as fast as" in steps(convlab.conv, X, K)["forward"].reason
        assert "fft" in text()
        np.testing.assert_allclose(f(X, K), y, atol=1e-4)
        with convlab.accelerate(), choosing(convlab.conv, X, K, forward="winograd"):
            assert "fft" not in text() and text() != before
        assert "fft" in text()
        other = jnp.ones((3, *X.shape[1:]))
        assert "measured" not in steps(convlab.conv, other, K)["forward"].reason
    assert text() == before and active.current() is None


def test_plain_programs_change_only_under_accelerate():
    tuning = choosing(convolution, X, K, forward="fft")
    text = lambda: jax.jit(convolution).lower(X, K).as_text()
    before = text()
    with tuning:
        assert text() == before and steps(convolution, X, K)["forward"].formulation == "lax"
        with convlab.accelerate():
            assert "fft" in text() and steps(convolution, X, K)["forward"].formulation == "fft"


def test_plain_programs_of_a_gpu_change_under_a_tuning_for_it(monkeypatch):
    monkeypatch.setattr(device, "_kind", lambda platform: "a card")
    text = lambda: jax.jit(convolution).trace(X, K).lower(lowering_platforms=("cuda",)).as_text()
    before, tuning = text(), choosing(convolution, X, K, platform="gpu", forward="fft")
    assert tuning.device["platform"] == "gpu"
    with tuning:
        assert text() == before
        with convlab.accelerate():
            assert "fft" in text()
            assert steps(convolution, X, K, platform="cuda")["forward"].formulation == "fft"
            exported = jax.export.export(jax.jit(convolution), platforms=("cuda",))(X, K)  # runs elsewhere
            assert "fft" not in exported.mlir_module()
    with convlab.accelerate():
        assert text() == before


@pytest.mark.parametrize("fact", device.FACTS[1:])
def test_a_tuning_of_another_device_is_ignored_with_a_note(fact):
    tuning = choosing(convlab.conv, X, K, forward="fft")
    elsewhere = convlab.Tuning(tuning.entries, tuning.device | {fact: "another"})
    with elsewhere:
        explained = convlab.explain(convlab.conv, X, K)
        assert explained[0].formulation != "fft"
        assert f"The tuning is not used: measured with {fact} another, here it is " in repr(explained)


def test_a_tuning_without_the_engine_is_ignored_with_it():
    if why := engine.unavailable_reason():
        pytest.skip(why)
    tuning = choosing(convlab.conv, X, K, forward="fft")
    with convlab.Tuning(tuning.entries, tuning.device | {"engine": False}):
        assert "without jaxlib's engine" in repr(convlab.explain(convlab.conv, X, K))
        with convlab.accelerate(engine=False):
            assert convlab.explain(convlab.conv, X, K)[0].formulation == "fft"


def test_an_unsupported_choice_is_replaced_by_the_next():
    if why := engine.unavailable_reason():
        pytest.skip(why)
    tuning = choosing(convlab.conv, X, K, forward="onednn")
    (entry,) = tuning.entries
    seconds = {"onednn": 1.0, entry.static: 4.0, "fft": 3.0, "gemm": 2.0}
    choice = Entry(entry.key, "forward", "", 1, entry.static, "onednn", seconds)
    with convlab.Tuning([choice], tuning.device), convlab.accelerate(engine=False):
        assert convlab.explain(convlab.conv, X, K)[0].formulation == "gemm"


def test_an_explicit_method_stays():
    tuning = choosing(convlab.conv, X, K, forward="fft")
    for method in ("lax", "gemm"):
        f = lambda x, k: convlab.conv(x, k, method=method)
        text = lambda: jax.jit(lambda x, k: f(x, k)).lower(X, K).as_text()
        before = text()
        with tuning:
            assert text() == before


# --- files and tables ---------------------------------------------------------------------------------------------


def test_a_saved_tuning_gives_the_same_programs(tmp_path, tuned):
    tuned.save(tmp_path / "t.json")
    loaded = convlab.Tuning.load(tmp_path / "t.json")
    assert loaded.entries == tuned.entries and loaded.device == tuned.device
    assert loaded.fingerprint == tuned.fingerprint and repr(loaded) == repr(tuned)
    union = choosing(convlab.conv, X, K, forward="fft") | loaded
    assert {entry.key for entry in loaded.entries} <= {entry.key for entry in union.entries}
    with pytest.raises(ValueError, match="`other` must be measured on the same device"):
        loaded | convlab.Tuning([], loaded.device | {"threads": 999})


BAD = {
    "no JSON": "JSONDecodeError",
    "[]": "TypeError",
    "{}": "KeyError: 'format'",
    '{"format": "another"}': "its format is 'another'",
    '{"format": "convlab tuning 1", "device": {}, "problems": []}': "its device lacks",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_raises_in_one_line(text, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="^`path` must be a file that Tuning.save wrote, got ") as raised:
        convlab.Tuning.load(path)
    assert BAD[text] in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="FileNotFoundError"):
        convlab.Tuning.load(tmp_path / "none.json")


@pytest.mark.parametrize("change", [{"key": 3}, {"seconds": {"lax": "fast"}}, {"choice": "none"}, {"more": 1}])
def test_a_changed_file_raises_when_it_is_loaded(change, tmp_path):
    contents = choosing(convlab.conv, X, K, forward="lax").as_dict()
    contents["problems"][0] |= {"static": "lax", "seconds": {"lax": 1.0}}
    (tmp_path / "t.json").write_text(json.dumps(contents))
    assert convlab.Tuning.load(tmp_path / "t.json").entries[0].choice == "lax"
    contents["problems"][0] |= change
    (tmp_path / "t.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match="^`path` must be a file that Tuning.save wrote, got "):
        convlab.Tuning.load(tmp_path / "t.json")


def test_tables_have_a_row_for_each_problem(tuned):
    assert repr(tuned).count("\n") == len(tuned.entries) + 1
    assert tuned.to_markdown().count("\n| ") == len(tuned.entries) + 2
    assert json.loads(tuned.to_json())["problems"][0]["key"] == tuned.entries[0].key
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=300, file=io.StringIO(), record=True)
    console.print(tuned)
    assert "by the tables" in console.export_text()


PROGRAM = """
import sys, warnings, jax.numpy as jnp
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import convlab
x, k = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))
print([str(w.message)[:36] for w in warned], convlab.explain(convlab.conv, x, k)[0].formulation)
"""


@pytest.mark.parametrize("good", [True, False])
def test_the_environment_names_a_tuning(good, tmp_path):
    path = tmp_path / "t.json"
    choosing(convlab.conv, X, K, forward="fft").save(path)
    if not good:
        path.write_text("nothing")
    environment = os.environ | {"CONVLAB_TUNING": str(path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    warned = [] if good else ["CONVLAB_TUNING is not used: `path` must"]
    assert done.stdout.startswith(str([text[:36] for text in warned]))
    assert done.stdout.strip().endswith("fft") == good


# --- programs without the engine ----------------------------------------------------------------------------------


def test_accelerate_leaves_the_engine_out():
    f = jax.jit(
        lambda x, k: convlab.conv(x, k) + lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NHWC)
    )
    x, k = jnp.ones((2, 14, 14, 32)), jnp.ones((3, 3, 32, 32))
    text = lambda: f.lower(x, k).as_text()
    before, y = text(), f(x, k)
    with convlab.accelerate():
        assert ("__onednn" in text()) == (engine.unavailable_reason() is None)
        with convlab.accelerate(engine=False):
            assert "__onednn" not in text() and engine.unavailable_reason() == "the engine is switched off"
            with convlab.accelerate():
                assert "__onednn" not in text()
            np.testing.assert_allclose(f(x, k), y, rtol=1e-5)
        assert ("__onednn" in text()) == (engine.unavailable_reason() is None)
    assert text() == before
    with pytest.raises(TypeError, match="`engine` must be True or False, got 1"):
        convlab.accelerate(engine=1)


def test_a_program_with_the_engine_is_not_cached_with_one_warning(tmp_path):
    if why := engine.unavailable_reason():
        pytest.skip(why)
    options = dict(
        jax_persistent_cache_min_compile_time_secs=0.0,
        jax_persistent_cache_min_entry_size_bytes=0,
        jax_compilation_cache_dir=str(tmp_path),
    )
    former = {name: getattr(jax.config, name) for name in options}
    from jax.experimental.compilation_cache import compilation_cache

    try:
        engine._warn_uncached_once.cache_clear()
        f = jax.jit(lambda x, k: convlab.conv(x, k))
        x, k = jnp.ones((2, 14, 14, 32)), jnp.ones((3, 3, 32, 32))
        for name, value in options.items():
            jax.config.update(name, value)
            if "dir" not in name and former["jax_compilation_cache_dir"] is None:
                f(x[:, len(name) % 5 :], k)  # without a cache there is no warning
                assert engine._warn_uncached_once.cache_info().currsize == 0
        compilation_cache.reset_cache()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            f(x, k)
            f(x[1:], k)
            with_engine = len([name for name in os.listdir(tmp_path) if "lambda" in name])
            with convlab.accelerate(engine=False):
                f(x, k)
        without = len([name for name in os.listdir(tmp_path) if "lambda" in name])
    finally:
        for name, value in former.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert [str(w.message) for w in warned if "cache" in str(w.message)] == [
        "Programs with jaxlib's own engine are not kept in JAX's persistent compilation cache, "
        "which cannot store its calls. "
        "convlab.accelerate(engine=False), or CONVLAB_ENGINE=off in the environment, makes programs that are kept."
    ]
    assert with_engine == 0 and without > 0


def test_nothing_is_tuned_if_jax_lacks_an_interface(monkeypatch):
    monkeypatch.setattr(compat, "has_hooks", False)
    monkeypatch.setattr(compat, "_warned", True)
    assert convlab.autotune(network, X, K).entries == ()
    with convlab.Tuning([], device.here("cpu")) as tuning:
        assert active.current() is None and tuning.entries == ()
    assert autotune.autotune is convlab.autotune
