"""Parameters from PyTorch to NNX and Linen and back: state dicts, .pth files and safetensors files.

The two sides differ only in names and in the order of axes; the numbers are equal. A leaf of a Flax model at the path
`("features", 0, "kernel")` is the entry `"features.0.weight"` of the state dict:

| leaf                 | entry          | its axes there                                                        |
|----------------------|----------------|-----------------------------------------------------------------------|
| `kernel`, dense      | `weight`       | `(out, in)`; after a flatten, `in` is ordered by channel first        |
| `kernel`, convolution| `weight`       | `(out, in / groups, *window)`                                         |
| `kernel`, transposed | `weight`       | `(in, out / groups, *window)`, mirrored unless `transpose_kernel=True`|
| `scale`, `embedding` | `weight`       | the same                                                              |
| `negative_slope`     | `weight`       | the same, of `torch.nn.PReLU`                                         |
| `layer_scale`        | `layer_scale`  | `(c, 1, 1)`                                                           |
| `bias`               | `bias`         | the same                                                              |
| `mean`, `var`        | `running_...`  | the same                                                              |

With `weight_norm=True` the `scale` of a convolution is `parametrizations.weight.original0`, `(out, 1, ...)`, and its
`kernel` is `parametrizations.weight.original1`, as in `torch.nn.utils.parametrizations.weight_norm`; the older names
`weight_g` and `weight_v` are read too.

A transposed convolution gives PyTorch's numbers with `use_consistent_padding=True`.

A module's class may declare what its checkpoints need: `torch_flattened`, the image shapes of its dense layers by path;
`torch_renamed`, a static method that maps old entry names to current ones; `torch_version`, that of
`state_dict()._metadata`.
"""

from ._files import load as load
from ._files import load_safetensors as load_safetensors
from ._files import save_safetensors as save_safetensors
from ._matching import Row as Row
from ._matching import Table as Table
from ._pickles import load_torch as load_torch
from ._state import PREFIXES as PREFIXES
from ._state import Report as Report
from ._state import from_torch as from_torch
from ._state import match as match
from ._state import to_torch as to_torch
from ._state import unwrapped as unwrapped
