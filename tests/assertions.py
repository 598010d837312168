"""A pytest plugin: a test that passes must have asserted something, and a parametrised test must have a case that runs.

`sys.monitoring` (Python 3.12 and later) records which lines of the tests ran, so that a test fails if it returns early,
or if its loop is over an empty list. This takes a tenth of the tests' time, so only `make test-all` switches it on,
with `CONVLAB_WATCH=1`. The second rule holds on every Python; it is checked when whole files run.
"""

import ast
import collections
import os
import re
import sys
import types

import pytest

TOOL = 4  # one of `sys.monitoring`'s numbers that no debugger, profiler or coverage tool has
# Reasons to skip that depend on the machine and not on the parameters of a test.
OF_THE_MACHINE = re.compile(r"import|install|engine|clone|forks|CONVLAB_DATA|root|AVX|device|version")
CHECKING = re.compile(r"^assert_|^(raises|warns|check_grads|fail)$")


def asserts(node):
    """Return whether it is an assertion, the name of a function that asserts, or a call that raises by `check=True`."""
    name = getattr(node, "attr", None) or getattr(node, "id", "")
    checks = isinstance(node, ast.Call) and any(keyword.arg == "check" for keyword in node.keywords)
    return isinstance(node, ast.Assert) or checks or bool(CHECKING.search(name))


def assertion_lines(source):
    """Return the lines of assert statements and of calls of NumPy's and pytest's assertions."""
    nodes = filter(asserts, ast.walk(ast.parse(source)))
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}


def code_objects(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


class Watcher:
    """Counts the lines with assertions that a test runs."""

    def __init__(self, folder):
        self.folder, self.lines, self.count = str(folder), {}, 0
        wanted = "CONVLAB_WATCH" in os.environ and sys.version_info >= (3, 12)
        self.watches = wanted and sys.monitoring.get_tool(TOOL) is None
        if self.watches:
            sys.monitoring.use_tool_id(TOOL, "assertions")
            sys.monitoring.register_callback(TOOL, sys.monitoring.events.LINE, self.on_line)

    def on_line(self, code, line):
        if line not in self.lines[code.co_filename]:
            return sys.monitoring.DISABLE  # stops the events of this line
        self.count += 1
        return None

    def pytest_collection_finish(self, session):
        if not self.watches:
            return
        modules = [m for m in sys.modules.values() if (getattr(m, "__file__", None) or "").startswith(self.folder)]
        for module in modules:
            with open(module.__file__) as file:
                self.lines[module.__file__] = assertion_lines(file.read())
        for code in (code for module in modules for f in functions(module) for code in code_objects(f.__code__)):
            if code.co_filename in self.lines:
                sys.monitoring.set_local_events(TOOL, code, sys.monitoring.events.LINE)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.count = 0
        yield
        if self.watches and not self.count:
            pytest.fail(f"{item.name} asserted nothing", pytrace=False)


def functions(module):
    """Return the functions of a module and of its classes."""
    for value in vars(module).values():
        is_own_class = isinstance(value, type) and value.__module__ == module.__name__
        for function in vars(value).values() if is_own_class else (value,):
            while inner := getattr(function, "__func__", None) or getattr(function, "__wrapped__", None):
                function = inner
            function = getattr(getattr(function, "hypothesis", None), "inner_test", function)
            if isinstance(function, types.FunctionType):
                yield function


class Skipped:
    """Finds parametrised tests of which every case was skipped because of its parameters."""

    def __init__(self, whole):
        self.whole, self.outcomes = whole, collections.defaultdict(set)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            reason = report.longrepr[2] if report.outcome == "skipped" else ""
            self.outcomes[report.nodeid.partition("[")[0]].add(reason)

    def tests(self):
        if not self.whole:
            return []
        never = {test: reasons for test, reasons in self.outcomes.items() if reasons and all(reasons)}
        return [test for test, reasons in never.items() if not all(map(OF_THE_MACHINE.search, reasons))]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if self.tests() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for test in self.tests():
            terminalreporter.write_line(f"FAILED {test}: every case was skipped", red=True)


def pytest_configure(config):
    config.pluginmanager.register(Watcher(config.rootpath / "tests"))
    if not hasattr(config, "workerinput"):
        whole = not config.option.keyword and not any("::" in str(argument) for argument in config.args)
        config.pluginmanager.register(Skipped(whole))
