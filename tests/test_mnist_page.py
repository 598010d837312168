"""The page on which to draw a digit: its answers, its errors, and a drawing in a real browser if one is
installed."""

import http.client
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from mnist_program import program

from lenet import data, engine, model, page  # isort: skip  found by way of mnist_program

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
assert program  # importing it adds lenet to the path


@pytest.fixture(scope="module")
def params():
    return model.nnx_network().init(engine.random_key(0))


@pytest.fixture(scope="module")
def port(params):
    with page.server(params, tuple(map(str, range(10))), True, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ask(port, method="POST", path="/look", body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    kind = {"Content-Type": "application/octet-stream"} if method == "POST" else {}
    connection.request(method, path, body, kind | (headers or {}))
    reply = connection.getresponse()
    return reply.status, reply.read()


def test_the_layers_are_the_networks(params):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    found = page.layers(params, images)
    np.testing.assert_allclose(found["dense3"], model.nnx_network().apply(params, engine.normalise(images)), atol=1e-4)


def test_an_answer(port):
    status, content = ask(port, body=data.digits().test_images[0].tobytes())
    answer = json.loads(content)
    assert status == 200 and answer["classes"] == list("0123456789")
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-4)
    shapes = {layer["name"]: np.shape(layer["maps"]) for layer in answer["layers"]}
    assert shapes["input"] == (1, 28, 28) and shapes["conv1"] == (6, 28, 28) and shapes["pool2"] == (16, 5, 5)
    assert list(shapes) == ["input", *page.SHOWN]
    for layer in answer["layers"]:
        assert np.min(layer["maps"]) >= 0 and 100 < np.max(layer["maps"]) <= 255, layer["name"]


def test_an_empty_drawing_has_an_answer(port):
    assert ask(port, body=bytes(784))[0] == 200


REFUSALS = {
    "short": (400, dict(body=bytes(10))),
    "long": (413, dict(body=bytes(785))),
    "huge": (413, dict(headers={"Content-Length": "9" * 30})),
    "negative": (411, dict(headers={"Content-Length": "-1"})),
    "no length": (411, dict(headers={"Transfer-Encoding": "chunked"})),
    "type": (415, dict(body=bytes(784), headers={"Content-Type": "text/plain"})),
    "path": (404, dict(path="/../train.py", body=bytes(784))),
    "file": (404, dict(method="GET", path="/page.html")),
    "method": (501, dict(method="PUT")),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(port, case):
    code, request = REFUSALS[case]
    assert ask(port, **request)[0] == code
    assert ask(port, "GET", "/")[0] == 200  # and the server still answers


def test_a_taken_port(params, port):
    with pytest.raises(Exception, match=f"cannot listen on 127.0.0.1:{port}"):
        page.server(params, (), True, "127.0.0.1", port)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed")
def test_drawing_in_a_browser(port, monkeypatch, tmp_path):
    """The page works in a browser, with an added script that draws a stroke as a mouse would."""
    hand = """<script>
      const box = draw.getBoundingClientRect();
      draw.setPointerCapture = () => 0;
      const at = (kind, x, y) => draw.dispatchEvent(
        new PointerEvent(kind, { clientX: box.left + x, clientY: box.top + y, pointerId: 1 }));
      at("pointerdown", 140, 40); at("pointermove", 140, 140); at("pointermove", 140, 240); at("pointerup", 140, 240);
    </script></body>"""
    drawn = tmp_path / "page.html"
    drawn.write_text(page.PAGE.read_text().replace("</body>", hand))
    monkeypatch.setattr(page, "PAGE", drawn)
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
    )
    command = [CHROMIUM, *options, "--dump-dom", f"http://127.0.0.1:{port}/"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert re.search(r"It looks like: \d", dom), dom[-2000:]
    body = dom.split('<div id="layers">')[1].split("<script>")[0]
    assert body.count("<canvas") == 1 + 6 + 6 + 16 + 16 + 1 + 1
    assert dom.count('class="track"') == 10 and 'role="alert"></div>' in dom
