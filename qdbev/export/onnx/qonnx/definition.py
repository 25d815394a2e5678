"""The operator ``Quant`` of QONNX as a function of standard operators, which goes with the file: any runtime runs it.

The published definition (QONNX 1.0, ``docs/qonnx-custom-ops/quant_op.md``): with the limits of the width,

    y = (round(clip(x / scale + zeropt, least, most)) - zeropt) * scale

Rounding goes to even integers, as ``rounding_mode`` ROUND says; a graph of ours has no other. Compilers that know the
operator leave the function aside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qdbev.export.onnx.packages import onnx_package

if TYPE_CHECKING:
    import onnx

DOMAIN, NAME, VERSION = "qonnx.custom_op.general", "Quant", 1
ROUNDING = "ROUND"
_INPUTS = ("x", "scale", "zeropt", "bitwidth")


def quant_function(opset: int) -> onnx.FunctionProto:
    """The function, of the standard operators of an opset."""
    helper = onnx_package().helper
    function: onnx.FunctionProto = helper.make_function(
        DOMAIN,
        NAME,
        list(_INPUTS),
        ["y"],
        [*_switches(), *_limits(), *_steps()],
        [helper.make_opsetid("", opset)],
        attributes=["signed", "narrow"],
        attribute_protos=[helper.make_attribute("rounding_mode", ROUNDING)],
    )
    return function


def _switches() -> list[Any]:
    """``signed`` and ``narrow`` as numbers, and the numbers 1 and 2."""
    helper, types = onnx_package().helper, onnx_package().TensorProto
    nodes = []
    for name in ("signed", "narrow"):
        given = helper.make_node("Constant", [], [f"{name}_int"])
        attribute = given.attribute.add(name="value_int", ref_attr_name=name)
        attribute.type = onnx_package().AttributeProto.INT
        nodes += [given, helper.make_node("Cast", [f"{name}_int"], [name], to=types.FLOAT)]
    numbers = {"one": 1.0, "two": 2.0}
    return nodes + [helper.make_node("Constant", [], [name], value_float=value) for name, value in numbers.items()]


def _limits() -> list[Any]:
    """least = signed (narrow - half); most = signed (half - 1) + (1 - signed) (2 half - 1 - narrow)."""
    return _nodes(
        ("Sub", "bitwidth", "one", "places"),
        ("Pow", "two", "places", "half"),
        ("Sub", "narrow", "half", "lowest"),
        ("Mul", "signed", "lowest", "least"),
        ("Sub", "half", "one", "most_signed"),
        ("Add", "half", "most_signed", "all_ones"),
        ("Sub", "all_ones", "narrow", "most_unsigned"),
        ("Sub", "one", "signed", "unsigned"),
        ("Mul", "signed", "most_signed", "share_signed"),
        ("Mul", "unsigned", "most_unsigned", "share_unsigned"),
        ("Add", "share_signed", "share_unsigned", "most"),
    )


def _steps() -> list[Any]:
    helper = onnx_package().helper
    return [
        *_nodes(
            ("Div", "x", "scale", "ratio"),
            ("Add", "ratio", "zeropt", "shifted"),
            ("Max", "shifted", "least", "not_below"),
            ("Min", "not_below", "most", "clipped"),
        ),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        *_nodes(("Sub", "rounded", "zeropt", "steps"), ("Mul", "steps", "scale", "y")),
    ]


def _nodes(*rows: tuple[str, str, str, str]) -> list[Any]:
    helper = onnx_package().helper
    return [helper.make_node(kind, [left, right], [output]) for kind, left, right, output in rows]
