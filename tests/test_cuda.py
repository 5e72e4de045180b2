"""The CUDA kernel: what it computes (in in_triton.py), and that it compiles without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def test_laprop_does_not_import_triton():
    program = "import sys, torch; before = 'triton' in sys.modules\nimport laprop\n"
    program += "assert before or 'triton' not in sys.modules\n"
    program += "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)\n"
    program += "laprop.LaProp([p], fused=True).step()\n"
    program += "assert 'laprop.kernels.cuda' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.slow
def test_the_kernel():
    """Run in_triton.py on a GPU, or without one in Triton's interpreter and without CUDA graphs."""
    pytest.importorskip("triton")
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    result = subprocess.run(
        [*command, str(ROOT / "tests" / "in_triton.py")],
        cwd=ROOT,
        env=os.environ | interpreted,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [("float32", {}), ("float64", {"AMSGRAD": True, "CENTERED": True}),
     ("float16", {"MASTER": True}), ("bfloat16", {"MASTER": True, "EPS_IN_SQRT": True})],
)  # fmt: skip
def test_it_compiles_to_wide_loads_and_exact_roots(dtype, options, capability, monkeypatch):
    """Triton brings a compiler, so the machine code can be looked at without a GPU."""
    triton = pytest.importorskip("triton")
    if triton.knobs.runtime.interpret:
        pytest.skip("Triton interprets")
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from laprop.kernels import cuda, triton_code

    wide = "float64" if dtype == "float64" else "float32"
    constants = {
        "PASS": 1,
        "DTYPE": getattr(tl, dtype),
        "WIDE": getattr(tl, wide),
        "STATE": getattr(tl, wide),
        "FLOOR": torch.finfo(getattr(torch, wide)).tiny ** 0.5,
        "ALIGNED": True,
        "AMSGRAD": False,
        "CENTERED": False,
        "EPS_IN_SQRT": False,
        "MASTER": False,
        "MAXIMIZE": False,
        "CAUTIOUS": False,
        "BLOCK": cuda._BLOCK,
        **options,
    }
    signature = {"table": "*i64", "grads": "*i64", "scalars": "*fp64", "partials": "*fp64"}
    signature |= {"blocks": "*i32", "seed": "i32"}
    signature |= {"grad_scale": "*fp32", "found_inf": "*fp32"}
    signature |= dict.fromkeys(constants, "constexpr")
    compiled = triton.compile(
        ASTSource(triton_code.update, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": cuda._WARPS},
    )
    assert len(compiled.asm["cubin"]) > 1000
    ptx = compiled.asm["ptx"]
    # Whole blocks need no mask and move 16 bytes at once: p, g, m, n and what options add.
    arrays = 4 + sum(options.get(key, False) for key in ("AMSGRAD", "CENTERED", "MASTER"))
    assert len(re.findall(r"ld\.global\.v[248]\.", ptx)) >= arrays
    assert len(re.findall(r"st\.global\.v[248]\.", ptx)) >= arrays - 1
    assert {"float32": "sqrt.rn.f32", "float64": "sqrt.rn.f64"}[wide] in ptx
    assert {"float32": "div.rn.f32", "float64": "div.rn.f64"}[wide] in ptx
    assert "approx" not in ptx
