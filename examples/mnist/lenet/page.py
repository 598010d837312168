"""Serves a web page on which to draw a digit, and which shows the result of each layer, by the standard library.

GET  /            the page
POST /look        28x28 bytes, white ink on black, row by row -> JSON: probabilities and each layer's feature maps
"""

from __future__ import annotations

import functools
import http.server
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import convlab

from . import engine, image
from .data import SIZE
from .errors import UserError

PAGE = pathlib.Path(__file__).with_name("page.html")
PIXELS = SIZE * SIZE
SHOWN = ("conv1", "pool1", "conv2", "pool2", "dense1", "dense2")
PATIENCE = 10  # seconds for a request to arrive


@jax.jit
def layers(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Return the result of each layer of the LeNet for bytes `(n, 28, 28)`, by its name, the logits last."""
    x = engine.normalise(images)
    found = {}
    for name, padding in (("conv1", 2), ("conv2", "VALID")):
        x = jax.nn.relu(convlab.conv(x, params[name]["kernel"], params[name]["bias"], padding=padding))
        found[name] = x
        x = found[f"pool{name[-1]}"] = convlab.max_pool(x, 2, 2)
    x = x.reshape(len(x), -1)
    for name in ("dense1", "dense2", "dense3"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = found[name] = x if name == "dense3" else jax.nn.relu(x)
    return found


def look(params: Any, names: Sequence[str], written: bool, pixels: np.ndarray) -> dict:
    """Return the content of the page for a drawing: `(28, 28)` bytes, centred first if a digit was `written`."""
    if written and pixels.max() > 32:
        pixels = image.centred(pixels)
    found = jax.tree.map(np.asarray, layers(params, jnp.asarray(pixels)[None]))
    chances = np.asarray(jax.nn.softmax(found["dense3"][0]), float)
    maps = [{"name": name, "maps": _shades(found[name][0])} for name in SHOWN]
    return {
        "classes": list(names),
        "probabilities": chances.round(6).tolist(),
        "layers": [{"name": "input", "maps": [pixels.tolist()]}, *maps],
    }


def _shades(values: np.ndarray) -> list:
    """Return maps `(h, w, c)`, or the units `(c,)` of a dense layer as one row, as bytes; the layer's largest value is
    255."""
    maps = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None, None]
    return np.rint(255 * maps / max(float(maps.max()), 1e-9)).astype(int).tolist()


class Handler(http.server.BaseHTTPRequestHandler):
    """A handler that answers one request, and refuses others than the two above with a line that gives the reason."""

    timeout = PATIENCE
    server_version, sys_version = "lenet", ""

    def __init__(self, *args: Any, answer: Any):
        self._answer = answer
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
        else:
            self._refuse(404, "there is only / here")

    def do_POST(self) -> None:
        # A page of another site can make the browser send a request here, but not with this type without permission.
        length = self.headers.get("Content-Length", "")
        if self.path != "/look":
            self._refuse(404, "there is only /look here")
        elif self.headers.get_content_type() != "application/octet-stream":
            self._refuse(415, "the drawing must come as application/octet-stream")
        elif not (length.isascii() and length.isdecimal()) or "Transfer-Encoding" in self.headers:
            self._refuse(411, "the request must say its Content-Length")
        elif len(length) > 9 or int(length) > PIXELS:
            self._refuse(413, f"the drawing must be {PIXELS} bytes, got {length[:20]}")
        elif len(content := self.rfile.read(int(length))) != PIXELS:
            self._refuse(400, f"the drawing must be {PIXELS} bytes, got {len(content)}")
        else:
            pixels = np.frombuffer(content, np.uint8).reshape(SIZE, SIZE)
            self._send(200, "application/json", json.dumps(self._answer(pixels)).encode())

    def _refuse(self, code: int, reason: str) -> None:
        self.close_connection = True
        self._send(code, "text/plain; charset=utf-8", f"{reason}\n".encode())

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing for a request."""


def server(params: Any, names: Sequence[str], written: bool, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Return a listening server with the network compiled; `serve_forever` starts its answers.

    Raises:
        UserError: the address is in use or does not belong to this machine.
    """
    answer = functools.partial(look, params, names, written)
    try:
        result = http.server.ThreadingHTTPServer((host, port), functools.partial(Handler, answer=answer))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    result.daemon_threads = True
    answer(np.zeros((SIZE, SIZE), np.uint8))
    return result


def serve(params: Any, names: Sequence[str], written: bool, host: str, port: int, title: str) -> None:
    """Answer requests until interrupted."""
    with server(params, names, written, host, port) as one:
        print(f"{title}: http://{host}:{one.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            one.serve_forever()
        except KeyboardInterrupt:
            print()
