"""Compiles a Triton kernel for GPUs that need not be here; run by tests in a process without Triton's interpreter.

    python compile_kernel.py MODULE KERNEL TYPES CONSTANTS

TYPES are the types of its arguments in order, with commas; CONSTANTS, a JSON object, are those known to the compiler.
Prints a line for each GPU: its compute capability, and the bytes of the machine code.
"""

import json
import sys
from importlib import import_module

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

COMPUTE_CAPABILITIES = (75, 80, 90)


def main(module: str, kernel: str, types: str, constants: str) -> None:
    function, known = getattr(import_module(module), kernel), json.loads(constants)
    rest = iter(types.split(","))
    signature = {name: "constexpr" if name in known else next(rest) for name in function.arg_names}
    for capability in COMPUTE_CAPABILITIES:
        source = ASTSource(fn=function, signature=signature, constexprs=known)
        compiled = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
        print(capability, len(compiled.asm["cubin"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
