"""Compile every shipped Triton kernel for an H100, on a machine without a GPU, and say what it would use.

TRITON_INTERPRET=0 python -m infoprompt.kernels.offline
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULES: tuple[str, ...] = ("row_info_nce", "frozen_linear_cross_entropy", "pair_stats")
"""Folders whose `triton_kernels.py` has a list `SHIPPED`."""

HOPPER_SHARED_BYTES = 227 * 1024


@dataclass(frozen=True)
class ShippedKernel:
    """A kernel with one set of compile-time values that the launchers may choose."""

    name: str
    kernel: Any
    """The function under `triton.jit`."""
    signature: Mapping[str, str]
    """Triton type of each run-time argument, such as `*bf16`, `fp32`, `i32`."""
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    aligned: frozenset[str] = field(default_factory=frozenset)
    """Integers that are multiples of 16; every pointer is."""
    tensor_cores: bool = False
    """Whether it must use the tensor cores (wgmma)."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of it."""

    kernel: ShippedKernel
    registers: int
    """Per thread."""
    stack_bytes: int
    """Above zero, registers were spilled."""
    shared_bytes: int
    wgmma: int
    """Instructions on the tensor cores in the code."""

    @property
    def problems(self) -> list[str]:
        """What would make it slow, or not start."""
        found = []
        if self.stack_bytes:
            found.append(f"spills {self.stack_bytes} bytes of registers")
        if self.shared_bytes > HOPPER_SHARED_BYTES:
            found.append(f"needs {self.shared_bytes} bytes of shared memory, and there are {HOPPER_SHARED_BYTES}")
        if self.registers > 255:
            found.append(f"needs {self.registers} registers, and there are 255")
        if self.kernel.tensor_cores and not self.wgmma:
            found.append("does not use the tensor cores")
        return found


def shipped_kernels() -> list[ShippedKernel]:
    """All of them, in order of `MODULES`."""
    return [
        kernel
        for module in MODULES
        for kernel in importlib.import_module(f"infoprompt.kernels.{module}.triton_kernels").SHIPPED
    ]


def compile_for_hopper(shipped: ShippedKernel) -> Compiled:
    """Compile for sm_90; needs triton and no GPU.

    Raises:
        RuntimeError: the kernels were imported for Triton's interpreter, which cannot compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(shipped.kernel, triton.JITFunction):
        raise RuntimeError("Triton interprets its kernels in this process. Start anew with TRITON_INTERPRET=0.")
    names = shipped.kernel.arg_names
    pointers = [name for name, kind in shipped.signature.items() if kind.startswith("*")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *shipped.aligned)}
    source = ASTSource(
        fn=shipped.kernel,
        signature={name: shipped.signature.get(name, "constexpr") for name in names},
        constexprs=dict(shipped.constants),
        attrs=attributes,
    )
    options = {"num_warps": shipped.num_warps, "num_stages": shipped.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    usage = _resource_usage(compiled.asm["cubin"], Path(triton.__file__).parent)
    return Compiled(
        shipped,
        registers=int(usage["REG"]),
        stack_bytes=int(usage["STACK"]) + int(usage["LOCAL"]),
        shared_bytes=compiled.metadata.shared,
        wgmma=compiled.asm["ptx"].count("wgmma.mma_async"),
    )


def _resource_usage(cubin: bytes, triton_folder: Path) -> dict[str, str]:
    tool = triton_folder / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return dict(re.findall(r"(\w+):(\d+)", text.split("Function", 1)[1]))


def main() -> int:
    """Print a line per kernel; 1 if one of them has a problem."""
    # Triton 3.10 changes the default; fused multiply-adds are what the tests were passed with
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    bad = 0
    for shipped in shipped_kernels():
        compiled = compile_for_hopper(shipped)
        bad += bool(compiled.problems)
        line = (
            f"{shipped.name:60} {compiled.registers:4} registers {compiled.shared_bytes:7} shared bytes "
            f"{compiled.stack_bytes:5} spilled {compiled.wgmma:4} wgmma"
        )
        sys.stdout.write(f"{line}  {'; '.join(compiled.problems) or 'ok'}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
