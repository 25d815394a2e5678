"""Compiles Triton kernels for GPUs that need not be here; run by tests in a process without Triton's interpreter.

    python compile_kernels.py MODULE < kernels.json

The file is a list of objects: the name of a ``kernel``, the ``types`` of its arguments in order, and the ``constants``
that the compiler knows. Prints a line for each kernel and GPU: name, compute capability, bytes of machine code.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

COMPUTE_CAPABILITIES = (80, 90)


def main(module: str) -> None:
    for one in json.load(sys.stdin):
        function, constants = getattr(import_module(module), one["kernel"]), one["constants"]
        rest = iter(one["types"])
        signature = {name: "constexpr" if name in constants else next(rest) for name in function.arg_names}
        for capability in COMPUTE_CAPABILITIES:
            source = ASTSource(fn=function, signature=signature, constexprs=constants)
            compiled = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
            print(one["kernel"], capability, len(compiled.asm["cubin"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
