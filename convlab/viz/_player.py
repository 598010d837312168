"""Animated PNGs, and a player for them that needs neither a running kernel nor a network connection.

Every browser plays an animated PNG without a script. The page fragment contains the file once; its script separates the
frames, so that a reader can stop, step and turn knobs. Where scripts are not allowed, the picture still plays and the
controls stay hidden.
"""

from __future__ import annotations

import hashlib
import html
import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LAST = 2.5  # how much longer the last frame stays

TEMPLATE = """<div id="{name}" class="convlab-slideshow" style="max-width:{width}px;margin:0 0 .5em">
<img alt="{alt}" width="{width}" height="{height}" style="max-width:100%;height:auto;background:#fff" \
src="data:image/png;base64,{data}">
<div style="display:none;flex-wrap:wrap;gap:.4em 1.2em;align-items:center;font:14px sans-serif">{controls}</div>
</div>
<script>{script}</script>"""

BUTTONS = (
    '<span><button type="button" data-step="-1" aria-label="previous frame">&#9664;</button> '
    '<button type="button" data-play aria-label="play or stop" style="min-width:4em">stop</button> '
    '<button type="button" data-step="1" aria-label="next frame">&#9654;</button></span>'
)
RANGE = (
    '<label>{label} <input type="range" min="0" max="{last}" value="{start}" data-size="{size}" '
    'style="vertical-align:middle;width:{width}em" aria-label="{label}"> <output style="display:inline-block;min-width:2em">'
    "</output></label>"
)

# The script makes a PNG of each frame: the header with the frame's size, the palette, and the data under other chunk
# names.
SCRIPT = """(async () => {
const table = Array.from({length: 256}, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xEDB88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0; });
const crc = bytes => { let c = 0xFFFFFFFF; for (const b of bytes) c = table[(c ^ b) & 255] ^ (c >>> 8); return ~c >>> 0; };
const chunk = (name, data) => { const out = new Uint8Array(12 + data.length), view = new DataView(out.buffer);
  view.setUint32(0, data.length); for (let i = 0; i < 4; i++) out[4 + i] = name.charCodeAt(i); out.set(data, 8);
  view.setUint32(8 + data.length, crc(out.subarray(4, 8 + data.length))); return out; };
for (const root of document.querySelectorAll("#NAME:not([data-on])")) {
  root.dataset.on = 1;
  const img = root.querySelector("img"), bar = root.querySelector("div"), values = VALUES;
  const raw = Uint8Array.from(atob(img.src.split(",")[1]), c => c.charCodeAt(0)), view = new DataView(raw.buffer);
  let head, palette = [], frames = [];
  for (let at = 8; at < raw.length;) {
    const size = view.getUint32(at), name = String.fromCharCode(...raw.subarray(at + 4, at + 8));
    const data = raw.slice(at + 8, at + 8 + size), read = new DataView(data.buffer);
    if (name == "IHDR") head = data;
    else if (name == "PLTE" || name == "tRNS") palette.push(chunk(name, data));
    else if (name == "fcTL") frames.push({w: data.slice(4, 12), x: read.getUint32(12), y: read.getUint32(16), data: []});
    else if (name == "IDAT") frames.at(-1).data.push(chunk("IDAT", data));
    else if (name == "fdAT") frames.at(-1).data.push(chunk("IDAT", data.subarray(4)));
    at += 12 + size;
  }
  const pieces = await Promise.all(frames.map(f => { const h = head.slice(); h.set(f.w, 0);
    return createImageBitmap(new Blob([raw.slice(0, 8), chunk("IHDR", h), ...palette, ...f.data, chunk("IEND", new Uint8Array())],
      {type: "image/png"})); }));
  const canvas = document.createElement("canvas"), paint = canvas.getContext("2d");
  canvas.width = pieces[0].width; canvas.height = pieces[0].height; canvas.style.cssText = img.style.cssText;
  canvas.style.width = img.getAttribute("width") + "px"; canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", img.alt);
  const ranges = [...bar.querySelectorAll("input")], play = bar.querySelector("[data-play]");
  const number = () => ranges.reduce((sum, r) => sum * r.dataset.size + +r.value, 0);
  const show = () => { const last = number();
    for (let i = 0; i <= last; i++) paint.drawImage(pieces[i], frames[i].x, frames[i].y);
    ranges.forEach((r, i) => r.nextElementSibling.value = values[i][r.value]); };
  let timer;
  const stop = () => { clearTimeout(timer); timer = 0; if (play) play.textContent = "play"; };
  const go = step => { ranges[0].value = (+ranges[0].value + step + pieces.length) % pieces.length; show(); };
  const next = () => { timer = setTimeout(() => { go(1); next(); }, +ranges[0].value == pieces.length - 1 ? LAST : EACH); };
  ranges.forEach(r => r.addEventListener("input", () => { stop(); show(); }));
  bar.querySelectorAll("[data-step]").forEach(b => b.addEventListener("click", () => { stop(); go(+b.dataset.step); }));
  if (play) play.addEventListener("click", () => { if (timer) stop(); else { play.textContent = "stop"; next(); } });
  img.replaceWith(canvas); bar.style.display = "flex"; show();
  if (play && !matchMedia("(prefers-reduced-motion: reduce)").matches) next(); else stop();
}
})();"""


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _packed(indices: np.ndarray) -> bytes:
    """Return rows of palette indices as PNG stores them, each after the number of its filter (none)."""
    return zlib.compress(np.pad(indices, ((0, 0), (1, 0))).tobytes(), 9)


def animated_png(images: Sequence[Any], seconds: float, colours: int) -> bytes:
    """Return an animated PNG of Pillow images of one size; the last one is shown longer.

    Frames share a palette, and each frame after the first contains only the box that changes, transparent where nothing
    changes: this keeps an animation of 36 frames below 300 KB.
    """
    from PIL import Image

    width, height = images[0].size
    chosen = [images[round(i)] for i in np.linspace(0, len(images) - 1, min(len(images), 8))]
    sample = Image.new("RGB", (width, height * len(chosen)))
    for i, image in enumerate(chosen):
        sample.paste(image, (0, i * height))
    palette = sample.quantize(colours, dither=Image.Dither.NONE)
    table = np.zeros((colours, 3), np.uint8)
    found = np.array((palette.getpalette() or [])[: 3 * colours], np.uint8).reshape(-1, 3)
    table[: len(found)] = found
    white = Image.new("RGB", (1, 1), "white").quantize(palette=palette, dither=Image.Dither.NONE)
    table[np.asarray(white)[0, 0]] = 255  # stays white
    frames = [np.asarray(image.quantize(palette=palette, dither=Image.Dither.NONE)) for image in images]
    parts = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"acTL", struct.pack(">II", len(frames), 0)),
        _chunk(b"PLTE", table.tobytes() + b"\0\0\0"),
        _chunk(b"tRNS", b"\xff" * colours + b"\0"),
    ]
    sequence = 0
    for number, frame in enumerate(frames):
        last = number == len(frames) - 1
        time = round(1000 * seconds * (LAST if last else 1))
        changed = np.argwhere(frame != frames[number - 1]) if number else np.argwhere(np.ones((height, width)))
        (top, left), (bottom, right) = (changed.min(0), changed.max(0) + 1) if len(changed) else ((0, 0), (1, 1))
        box = slice(top, bottom), slice(left, right)
        drawn = (
            np.where(frame[box] == frames[number - 1][box], colours, frame[box]).astype(np.uint8) if number else frame
        )
        control = struct.pack(
            ">IIIIIHHBB", sequence, right - left, bottom - top, left, top, time, 1000, 0, 1 if number else 0
        )
        parts.append(_chunk(b"fcTL", control))
        sequence += 1
        if number:
            parts.append(_chunk(b"fdAT", struct.pack(">I", sequence) + _packed(drawn)))
            sequence += 1
        else:
            parts.append(_chunk(b"IDAT", _packed(drawn)))
    return b"".join([*parts, _chunk(b"IEND", b"")])


def page(
    data: bytes,
    size: tuple[int, int],
    seconds: float,
    knobs: Mapping[str, Sequence[Any]],
    frames: int,
    start: int,
    alt: str,
) -> str:
    """Return the HTML fragment that shows an animated PNG with buttons, or with a slider for each knob, in `size`
    pixels."""
    values = [[str(v) for v in options] for options in knobs.values()] or [
        [f"{i + 1} of {frames}" for i in range(frames)]
    ]
    positions, rest = [], start
    for options in reversed(values):
        rest, position = divmod(rest, len(options))
        positions.append(position)
    ranges = [
        RANGE.format(label=label, last=len(options) - 1, start=position, size=len(options), width=6 if knobs else 12)
        for label, options, position in zip(knobs or ["frame"], values, reversed(positions), strict=True)
    ]
    name = "slides-" + hashlib.sha256(data + repr(values).encode()).hexdigest()[:12]
    script = (
        SCRIPT.replace("NAME", name)
        .replace("VALUES", json.dumps(values).replace("<", "\\u003c"))
        .replace("LAST", str(round(1000 * LAST * seconds)))
    )
    return TEMPLATE.format(
        name=name,
        width=size[0],
        height=size[1],
        alt=html.escape(alt, quote=True),
        data=b64encode(data).decode(),
        controls="".join(ranges) if knobs else BUTTONS + ranges[0],
        script=script.replace("EACH", str(round(1000 * seconds))),
    )
