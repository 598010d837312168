"""Reports to JAX, XLA and Flax that convlab answers: upstream.py makes docs/upstream.md from this table, and
tests/test_upstream.py tests it."""

from __future__ import annotations

import dataclasses

TRACKERS = {"jax": "jax-ml/jax", "flax": "google/flax", "openxla": "openxla/xla"}


@dataclasses.dataclass(frozen=True)
class Report:
    """A row of the page.

    `numbers`: tracker and number of each report, empty if none is known; `state`: the tracker's in September 2026;
    `check`: a function of upstream_checks.py or upstream_layers.py; `speed`: a program of upstream_speed.py; `test`: a
    test elsewhere that tests the row; `better`: whether convlab passes the check."""

    numbers: tuple[str, ...]
    state: str
    fault: str
    answer: str
    check: str = ""
    speed: str = ""
    test: str = ""
    better: bool = True

    def links(self) -> str:
        named = [(*number.split(), number) for number in self.numbers]
        return ", ".join(f"[{text}](https://github.com/{TRACKERS[at]}/issues/{n})" for at, n, text in named) or "none"


SPEED = (
    Report(
        ("jax 23713", "flax 4207"),
        "open",
        "A depthwise `nnx.Conv` is slower than PyTorch's and TensorFlow's.",
        "One pass by oneDNN.",
        speed="depthwise",
    ),
    Report(
        ("jax 26266",),
        "open",
        "A dilated depthwise convolution is slower than one of all channels, on GPUs.",
        "The dilated sequence is split into undilated ones; on a GPU it is one loop.",
        speed="dilated depthwise",
    ),
    Report(
        ("jax 13800",),
        "open",
        "The gradients of a grouped convolution cost as much as without groups.",
        "The kernel gradient is a matrix product; no group reads another's channels.",
        speed="grouped",
    ),
    Report(
        ("jax 23783",),
        "open",
        "A transposed 1-D convolution is orders of magnitude slower than PyTorch's.",
        "Subpixel convolution: no zeros between the inputs, on a GPU too.",
        speed="transposed 1-D",
    ),
    Report(
        ("jax 31662", "openxla 34273"),
        "open",
        "The gradients of a transposed 3-D convolution take 30 times PyTorch's time on a GPU.",
        "On the CPU as timed; on a GPU the kernel gradient has no zeros between the inputs (see the table below).",
        speed="transposed 3-D",
    ),
    Report(
        ("jax 8537",),
        "closed",
        "A transposed 3-D convolution takes 4 to 5 times as long as the convolution that it inverts, on a GPU.",
        "On the CPU as timed; on a GPU by lax by default.",
        speed="transposed 3-D, forward",
    ),
    Report(
        ("jax 17464",),
        "open",
        "A transposed convolution of a 32 x 32 window with strides of 16 takes very long to compile on a GPU.",
        "On the CPU both compile at once; the time is that of a call.",
        speed="transposed, long strides",
    ),
    Report(
        ("jax 12868",),
        "open",
        "A channels-first convolution in a loop's body runs in scalar loops on the CPU.",
        "convlab chooses the layout of convolutions, in a loop as elsewhere.",
        speed="loop",
    ),
    Report(
        ("jax 5227",),
        "open",
        "A 2-D convolution of two large float64 images is 200 times slower than SciPy's, which uses an FFT.",
        '`method="fft"`. It must be requested.',
        speed="large kernel",
    ),
    Report(
        ("jax 25461",),
        "open",
        "A 30 x 30 filter mapped over images takes seconds on a GPU, most of it for the choice of an algorithm.",
        "On the CPU as timed; on a GPU by lax.",
        speed="mapped filter",
    ),
    Report(
        ("jax 23085",),
        "open",
        "The gradient with respect to the images of a convolution with windows of 16 x 16 or more is extremely slow.",
        "Windows that tile the image are a matrix product, and so are the gradients.",
        speed="patches of 16",
    ),
    Report(
        ("jax 940",),
        "closed",
        "float64 convolutions were added, with the remark that the CPU's may be a slow reference.",
        "A matrix product where it is faster.",
        speed="float64",
    ),
    Report(
        ("flax 3551",),
        "open",
        "The MNIST convolutional network of the tutorial takes about 5 times as long as PyTorch.",
        "LeNet-5's training step on 256 images.",
        speed="lenet",
    ),
    Report(
        ("jax 14585",),
        "open",
        "int8 images and kernels could not give int32.",
        "They can, exactly, as lax now can on the CPU.",
        check="whole_numbers",
        speed="bytes",
    ),
    Report(
        ("jax 1606",),
        "closed",
        "The gradients of a small network per example take very long to compile.",
        "One grouped convolution for the whole batch, as JAX now computes it.",
        speed="gradients per example",
    ),
)

WRONG = (
    Report(
        ("openxla 48713",),
        "open",
        "A float32 convolution with a negative low pad reads outside of its input on the CPU.",
        "Crops first.",
        check="negative_low_padding",
    ),
    Report(
        ("openxla 48714",),
        "open",
        "`reduce_window` with `base_dilation` ignores the dilation along an axis whose window is 1, on the CPU.",
        "convlab's pools do not use it, and `accelerate()` lowers it without.",
        check="base_dilation",
    ),
    Report(
        ("openxla 48715",),
        "open",
        "The compiler adds a negative pad to the padding of the next window, so that cropped values return.",
        "Crops are slices, which the compiler does not merge with the padding.",
        check="crop_before_padding",
    ),
    Report(
        ("openxla 48719",),
        "open",
        "Compiling a window of 1 with a negative pad ends the process.",
        "Such a window is a slice.",
        check="window_of_one_that_crops",
    ),
    Report(
        (),
        "",
        "The gradients of a float64 convolution with 16 groups and input dilation, mapped over images"
        " and kernels, end the process in XLA's algebraic simplifier.",
        "Its gradients are formulations of convlab.",
        check="mapped_dilated_groups",
    ),
    Report(
        ("jax 9972",),
        "open",
        "`conv_general_dilated_patches` multiplies by ones and zeros: an infinity makes its neighbours NaN.",
        "`unfold` copies.",
        check="infinity_in_patches",
    ),
    Report(
        (),
        "",
        "Flax's `avg_pool` sums bfloat16 in bfloat16: 4,096 ones average 0.25.",
        "Sums are float32.",
        check="averages_in_bfloat16",
    ),
)

DERIVATIVES = (
    Report(
        ("jax 3793",),
        "closed",
        "`reduce_window` was given window dilation, but its maximum has no gradient with it.",
        "`max_pool(window_dilation=...)` has every derivative. `accelerate()` cannot help: JAX raises the "
        "error while tracing.",
        check="dilated_maximum",
    ),
    Report(
        ("jax 7815", "jax 1212"),
        "open",
        "`reduce_window` with another function than a sum, maximum or minimum has no reverse derivative.",
        "`pool` with any reducer has one.",
        check="any_reducer",
    ),
    Report(
        ("jax 32548",),
        "open",
        "A window that returns the maximum and its position has no derivative.",
        "`max_pool(return_indices=True)` has every derivative.",
        check="indices_and_gradient",
    ),
)

FEATURES = (
    Report(
        ("flax 5202",),
        "open",
        "NNX has no pooling layers.",
        "Every pool is a layer too, in NNX and in Linen.",
        check="pooling_layers",
    ),
    Report(
        ("flax 4271",),
        "open",
        "NNX's documentation has no pooling operations.",
        "The reference has an entry for every layer, with arguments, sizes and a picture.",
        test="tests/test_site.py::test_the_entry_of_a_layer_says_its_arguments_and_how_it_is_called",
    ),
    Report(
        ("jax 4637",),
        "closed",
        "`lax.conv_transpose` has no groups.",
        "`conv_transpose(feature_group_count=...)`.",
        check="transposed_groups",
    ),
    Report(
        ("jax 4592",),
        "closed",
        "No transposed convolution takes the shape of its output.",
        "`output_shape`, or `output_padding`.",
        check="transposed_output_shape",
    ),
    Report(
        ("flax 4593", "jax 32267"),
        "closed, open",
        "Integer pads of a transposed convolution are those of its dilated input, so that it does not restore"
        " the shape; lax now has an option, which Flax's layers do not pass on.",
        "Flax's meaning by default, PyTorch's by `use_consistent_padding=True`, in the layers too.",
        check="transposed_layer_restores_the_shape",
    ),
    Report(
        ("jax 11252",),
        "closed",
        "Flax's transposed convolution does not give PyTorch's numbers with PyTorch's weights.",
        "It does with `transpose_kernel=True, use_consistent_padding=True`; `weights.from_torch` transposes "
        "the kernel.",
        test="tests/test_torch.py::test_convlab_gives_pytorchs_values_indices_and_gradients",
    ),
    Report(
        (),
        "",
        'Flax documents `ConvTranspose(padding="CAUSAL")`, which raises.',
        "It is there.",
        check="transposed_causal",
    ),
    Report(
        ("flax 903", "flax 971"),
        "open, closed",
        "Circular and mirrored borders: Flax has them for an output of the input's size only, and no mode "
        "that repeats the edge.",
        "Any number of pads on each side with any mode, one per axis if needed.",
        check="mirrored_and_repeated_borders",
    ),
    Report(
        ("flax 2993", "flax 963"),
        "open, closed",
        'A port of a ResNet differs from PyTorch\'s from its first layer on: "SAME" with strides of 2 '
        "pads one side more.",
        "\"SAME\" is Flax's; explicit pads are PyTorch's, and `weights.from_torch` takes the state dict.",
        check="ported_stem",
    ),
    Report(
        (),
        "",
        "A convolution of uint8 images and int8 kernels, the usual pair of a quantised network, raises an error.",
        "int32, exactly.",
        check="mixed_bytes",
    ),
)

MESSAGES = (
    Report(
        ("flax 1234", "flax 3534"),
        "closed",
        "`kernel_size=3` on images is a 1-D convolution along the width, without an error.",
        "An error that names the remedy, `(3, 3)`.",
        check="kernel_size_is_an_int",
    ),
    Report(
        ("flax 5495",),
        "closed",
        "Pools say `'int' object is not iterable` and the like for wrong arguments.",
        "The message has the argument, the rule and the value; and an int holds for every axis.",
        check="wrong_kinds_of_pool_arguments",
    ),
    Report(
        ("flax 4494",),
        "open",
        "A window with one axis too many reads the batch axis as an axis of the image; one with more fails in"
        " an assertion.",
        "The first is no better: without a batch axis an array is one image, as in Flax. The second raises an"
        " error that names the number of axes.",
        check="too_many_window_axes",
    ),
    Report(
        ("flax 1829",),
        "closed",
        "A window larger than the image gives an empty array.",
        "An error with both sizes.",
        check="window_larger_than_the_image",
    ),
    Report(
        (),
        "",
        "Groups that do not divide the channels fail in an assertion without a message.",
        "An error that names the argument.",
        check="groups_that_do_not_divide",
    ),
    Report(
        ("flax 2029",),
        "closed",
        "Pools' strides default to 1, not to the window's size as elsewhere.",
        "No better: the default is Flax's, so that programs keep their meaning; the documentation of each "
        "pool says so.",
        check="default_strides",
        better=False,
    ),
)

DEVICES = (
    Report(
        ("openxla 47945",),
        "open",
        "A grouped convolution of a batch that is split over devices gathers the whole batch on each.",
        "Each device computes its part.",
        check="groups_over_devices",
        test="tests/test_explicit_sharding.py::test_explicit_meshes_split_every_operation",
    ),
    Report(
        ("jax 31798",),
        "closed",
        "The gradients of a convolution on an explicit mesh raised.",
        "They compute, each device's part by convlab's formulation. JAX has fixed this since.",
        check="explicit_sharding",
        test="tests/test_explicit_sharding.py::test_explicit_meshes_split_every_operation",
    ),
)

GPU = (
    Report(
        ("jax 31662", "openxla 34273", "jax 23783"),
        "open",
        "Zeros between the inputs (`lhs_dilation`) make cuDNN slow.",
        'The kernel gradient has no such zeros, and neither has a sequence; `method="subpixel"` avoids them '
        "in the forward convolution too.",
        check="transposed_gradients_on_a_gpu",
    ),
    Report(
        ("jax 13800",),
        "open",
        "The kernel gradient of a depthwise sequence (`batch_group_count`) costs as much as without groups.",
        'A sum for each tap. Of other groups it is lax\'s by default; `method="gemm"` makes matrix products.',
        check="grouped_gradients_on_a_gpu",
    ),
    Report(
        ("jax 37922",),
        "open",
        "Nearly no 1-D convolution in bfloat16 finds an algorithm.",
        "It is computed as an image with an axis of size one, in the gradients too.",
        check="bfloat16_sequences_on_a_gpu",
    ),
    Report(
        ("jax 30469",),
        "open",
        "No algorithm is found for windows of 16 x 16 with strides of 16.",
        "A matrix product where they tile the image, and so are its gradients.",
        check="large_strided_windows_on_a_gpu",
    ),
    Report(
        ("jax 26266",),
        "open",
        "A dilated depthwise sequence is slower than a dense one.",
        "One loop over the positions, forward and for both gradients; of images it is lax's.",
        check="dilated_depthwise_on_a_gpu",
    ),
    Report(
        ("jax 25461",),
        "open",
        "A 30 x 30 filter mapped over images takes seconds.",
        'No better by default; `method="fft"` makes transforms.',
        check="mapped_filter_on_a_gpu",
    ),
    Report(
        ("jax 7637",),
        "open",
        "Convolutions of integers are not implemented.",
        'No better by default; `method="gemm"` makes matrix products of int8 to int32.',
        check="whole_numbers_on_a_gpu",
    ),
)

SECTIONS = {
    "Slow": SPEED,
    "Wrong numbers, and processes that end": WRONG,
    "No derivative": DERIVATIVES,
    "Not there": FEATURES,
    "Arguments": MESSAGES,
    "Several devices": DEVICES,
    "On a GPU": GPU,
}
REPORTS = tuple(report for reports in SECTIONS.values() for report in reports)
