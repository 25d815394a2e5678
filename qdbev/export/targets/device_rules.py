"""What graphs for TensorRT and for Qualcomm's QNN must look like, by their documentation."""

from __future__ import annotations

from collections.abc import Mapping

from qdbev.export.targets import checks
from qdbev.export.targets.structure import GraphRule

_PARSER = "onnx/onnx-tensorrt docs/operators.md of TensorRT 10.15, read 2026-11"
_TYPES = "TensorRT documentation, Working with Quantized Types, 2026-11"
_QUANTIZE = "TensorRT documentation, operators Quantize and Dequantize, 2026-11"
_EXPLICIT = "TensorRT documentation, Explicit Quantization, 2026-11"
_MODELOPT = "Model Optimizer changelog, 2026-08"
_INT4 = "Qualcomm 80-63442-10, HTP guidelines for INT4 weights, 2026-06"
_PROVIDER = "onnxruntime-qnn docs, QNN Execution Provider, read 2026-11"
_CONV = "onnxruntime-qnn conv_op_builder.cc, read 2026-11"
_HTP = "Qualcomm 80-63442-10, HTP operator revision history, 2.39 and 2.45, read 2026-11"

_OF_BOTH = """
Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose Cos CumSum
DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity
InstanceNormalization IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul
Max MaxPool Mean Min Mod Mul Neg NonZero Not Or PRelu Pad Pow QuantizeLinear Reciprocal ReduceL2 ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum Relu RMSNormalization Reshape Resize RoiAlign RotaryEmbedding Round STFT ScatterElements
ScatterND Sigmoid Sign Sin Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile
TopK Transpose Unsqueeze Where
"""
_TENSORRT_ALONE = """
Acos Acosh Asinh Atanh Celu Cosh DeformConv Erf Hardmax IsInf Mish NonMaxSuppression OneHot ReduceL1 ReduceLogSum
ReduceLogSumExp ReduceSumSquare Selu Shape Shrink Sinh Size Softsign Xor
"""

DEVICE_RULES: Mapping[str, tuple[GraphRule, ...]] = {
    "tensorrt": (
        GraphRule("opset", "the parser reads opsets 9 to 24", _PARSER, checks.opset_between(9, 24)),
        GraphRule(
            "operators", "the parser has an importer", _PARSER, checks.only_operators(_OF_BOTH + _TENSORRT_ALONE)
        ),
        GraphRule("symmetric", "zero points are zero", _PARSER, checks.zero_points_are_zero),
        GraphRule(
            "integer types",
            "inputs become INT8; INT8 and INT4 are dequantized, never UINT8 nor int32 biases",
            _PARSER,
            checks.integers_of(quantized="int8", dequantized="int8 int4"),
        ),
        GraphRule("constant scales", "scales are build-time constants", _QUANTIZE, checks.scales_are_constant),
        GraphRule("scales of inputs", "an input has one scale", _EXPLICIT, checks.one_scale_for_inputs),
        GraphRule("axis", "scales of a weight belong to its outputs", _EXPLICIT, checks.channels_are_outputs),
        GraphRule("INT4 is static", "INT4 is of weights alone", _TYPES, checks.four_bits_are_static),
        GraphRule(
            "INT4 multiplies floats", "INT4 weights have inputs in float", _TYPES, checks.four_bits_multiply_floats
        ),
        GraphRule(
            "clip",
            "no Clip between QuantizeLinear and DequantizeLinear: it clips floats alone",
            f"NVIDIA/TensorRT 1897; {_PARSER}",
            checks.no_clip_of_integers,
        ),
        GraphRule("cast", "no Cast of INT4 or INT8", _PARSER, checks.no_cast_of_small_integers),
        GraphRule(
            "sampling word",
            "GridSample before opset 20: the later word for bilinear is run as nearest",
            "NVIDIA/TensorRT 4646, 2025-11; onnx/onnx-tensorrt PR 1060, 2026-07",
            checks.sampling_has_its_old_word,
        ),
        GraphRule(
            "sampling chain",
            "no GridSample that is weighed and summed: versions 10.14 to 11.1 compile it wrongly",
            "NVIDIA/TensorRT 4813, 2026-08",
            checks.no_sampling_chain,
        ),
        GraphRule(
            "narrow products",
            "integers multiply 16 inputs and outputs at least; narrower ones are slower than float",
            _MODELOPT,
            checks.products_are_wide(16),
        ),
        GraphRule("scatter", "ScatterND without reduction", _PARSER, checks.scatter_only_writes),
        GraphRule(
            "sums",
            "ScatterElements that adds has no more indices than what it adds to has rows",
            "NVIDIA/TensorRT 3650, read 2026-12",
            checks.few_sums_at_once,
        ),
        GraphRule("axes of sums", "axes of Reduce are constants", _PARSER, checks.axes_are_constant),
    ),
    "qnn": (
        GraphRule("operators", "the provider has a builder", _PROVIDER, checks.only_operators(_OF_BOTH)),
        GraphRule("opset", "INT4 begins with opset 21", "ONNX 1.16, 2024-03", checks.opset_between(21, 26)),
        GraphRule("fixed shapes", "every shape is fixed", _PROVIDER, checks.shapes_are_fixed),
        GraphRule(
            "integer types",
            "inputs are unsigned; weights INT8 or INT4, biases int32",
            _PROVIDER,
            checks.integers_of(quantized="uint8 uint16", dequantized="uint8 uint16 int8 int4 int32"),
        ),
        GraphRule("symmetric weights", "zero points of weights are zero", _INT4, checks.weights_are_symmetric),
        GraphRule("scales of inputs", "an input has one scale", _PROVIDER, checks.one_scale_for_inputs),
        GraphRule("axis", "scales of a convolution belong to axis 0", _CONV, checks.channels_are_outputs),
        GraphRule("INT4 is static", "INT4 is of constant weights", _INT4, checks.four_bits_are_static),
        GraphRule(
            "INT4 is wide and pointwise",
            "INT4 in 1x1 convolutions with stride 1 and in products, of more than 32 outputs",
            _INT4,
            checks.four_bits_are_wide_and_pointwise,
        ),
        GraphRule(
            "bias steps",
            "steps of a bias are those of input times weight",
            "microsoft/onnxruntime PR 28229, 2026-06",
            checks.biases_fit,
        ),
        GraphRule("clip", "no Clip between QuantizeLinear and DequantizeLinear", _PROVIDER, checks.no_clip_of_integers),
        GraphRule("cast", "no Cast of INT4 or INT8", _PROVIDER, checks.no_cast_of_small_integers),
        GraphRule(
            "sampling",
            "GridSample of four axes, linear or nearest",
            "microsoft/onnxruntime PR 25408, read 2026-11",
            checks.sampling_is_linear_or_nearest,
        ),
        GraphRule("indices", "Gather counts from the front", _PROVIDER, checks.indices_are_positive),
        GraphRule("axes", "five axes at most", _HTP, checks.axes_at_most(5)),
    ),
}
"""Target -> its rules, all of which hold."""
