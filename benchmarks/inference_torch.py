"""Networks in PyTorch for inference: eager and compiled, in each memory format, and exported to ONNX Runtime.

python inference_torch.py NETWORK FILE       # writes the network's random weights, which all contestants read
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from inference_networks import image, sampled
from torch import nn

TESTS = pathlib.Path(__file__).parents[1] / "tests"


def build(name: str) -> nn.Module:
    """Return torchvision's network, or the network of plain `torch.nn` that the tests compare convlab's with."""
    try:
        import torchvision
        import torchvision.models.segmentation as segmentation

        backbone = {"weights_backbone": None} if name in torchvision.models.list_models(segmentation) else {}
        return torchvision.models.get_model(name, weights=None, **backbone)
    except (ImportError, ValueError):  # no torchvision, or none of its networks
        sys.path.append(str(TESTS))
        from torch_networks import torch_networks

        return torch_networks()[name].build()


def drawn(name: str) -> nn.Module:
    """Return the network in evaluation mode, with weights that keep activations in range at any depth."""
    torch.manual_seed(0)
    module = build(name).eval()
    if hasattr(module, "transform_input"):  # as with torchvision's pretrained weights
        module.transform_input = True
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.5, 1.0)
                part.bias.normal_(0, 0.1)
    return module


def loaded(payload: dict[str, Any]) -> nn.Module:
    module = drawn(payload["network"])
    module.load_state_dict(torch.load(payload["weights"]))
    return module


def channels_last(result: np.ndarray) -> np.ndarray:
    return np.moveaxis(result, 1, -1) if result.ndim > 2 else result


def formats(x: torch.Tensor) -> list[torch.memory_format]:
    return [torch.contiguous_format, torch.channels_last] if x.ndim == 4 else [torch.contiguous_format]


def tensor(payload: dict[str, Any], batch: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image(payload["network"], batch, payload["tiny"]), -1, 1)))


def scores(result: Any) -> torch.Tensor:
    return result["out"] if isinstance(result, dict) else result  # the result of a segmentation network


def eager(payload: dict[str, Any], batch: int) -> list[Callable[[], np.ndarray]]:
    x = tensor(payload, batch)

    def one(format: torch.memory_format) -> Callable[[], np.ndarray]:
        module, image = loaded(payload).to(memory_format=format), x.to(memory_format=format)

        def call() -> np.ndarray:
            with torch.inference_mode():
                return scores(module(image)).numpy()

        return call

    return list(map(one, formats(x)))


def inductor(payload: dict[str, Any], batch: int) -> list[Callable[[], np.ndarray]]:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    x = tensor(payload, batch)

    def one(format: torch.memory_format) -> Callable[[], np.ndarray]:
        module, image = loaded(payload).to(memory_format=format), x.to(memory_format=format)
        compiled = torch.compile(module, dynamic=False)

        def call() -> np.ndarray:
            with torch.no_grad():  # freezing requires this and not inference_mode
                return scores(compiled(image)).numpy()

        return call

    return list(map(one, formats(x)))


def onnxruntime(payload: dict[str, Any], batch: int) -> list[Callable[[], np.ndarray]]:
    import onnxruntime

    x = tensor(payload, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "network.onnx")
        torch.onnx.export(loaded(payload), (x,), path, dynamo=True, verbose=False)
        options, allowed = onnxruntime.SessionOptions(), _processors()
        if allowed < (os.cpu_count() or 1):  # by itself it uses the processors that `taskset` excludes
            options.intra_op_num_threads = allowed
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, given = session.get_inputs()[0].name, x.numpy()
    return [lambda: session.run(None, {name: given})[0]]


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MAKERS = {"torch": eager, "inductor": inductor, "onnxruntime": onnxruntime}


def calls(contestant: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable[[], Any]], int]]:
    made: dict[str, tuple[list[Callable[[], Any]], int]] = {}
    for batch in payload["batches"]:
        several = MAKERS[contestant](payload, batch)
        made[f"batch {batch}"] = several, 1
        made[f"numbers {batch}"] = [lambda call=several[-1]: sampled(channels_last(call()))], 1
    return made


if __name__ == "__main__":
    torch.save(drawn(sys.argv[1]).state_dict(), sys.argv[2])
