"""The library of the C++ files: that it fits the Python files, and what is said if it does not."""

import ctypes
import hashlib
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from fused import give_gradients
from torch.nn import Parameter

from laprop import LaProp, kernels
from laprop.kernels import native

ROOT = Path(__file__).resolve().parents[1]
BUILT = native.path()
NUMBER = native._INTERFACE << 32 | ctypes.sizeof(native.Options) << 16 | len(native.COLUMNS)


def forget_the_library():
    native.library.cache_clear()
    kernels.kernel_for.cache_clear()


@pytest.fixture
def instead(tmp_path, monkeypatch):
    """Use another file in the place of the library. The kernel forgets it after the test."""
    file = tmp_path / "other.so"
    monkeypatch.setattr(native, "path", lambda: str(file))
    forget_the_library()
    yield file
    forget_the_library()


OTHER = {
    "of a later interface": f"long long laprop_interface() {{ return {NUMBER + 2**32}; }}",
    "of other options": f"long long laprop_interface() {{ return {NUMBER + 8 * 2**16}; }}",
    "of another table": f"long long laprop_interface() {{ return {NUMBER + 1}; }}",
    "without a number": "int laprop_step() { return 0; }",
}


@pytest.mark.parametrize("kind", [*OTHER, "truncated", "of another processor"])
def test_a_library_that_does_not_fit_is_not_called(kind, instead, tmp_path):
    """One warning says what to do, and the steps are made without the kernel."""
    if kind in OTHER:
        if shutil.which("cc") is None:
            pytest.skip("needs a C compiler")
        (tmp_path / "other.c").write_text(OTHER[kind])
        command = ["cc", "-shared", "-fPIC", tmp_path / "other.c", "-o", instead]
        subprocess.run(command, check=True)
    else:
        contents = bytearray(Path(BUILT).read_bytes())
        contents[18:20] = b"\xff\xff"  # e_machine of an ELF file
        instead.write_bytes(contents if kind == "of another processor" else contents[:500])
    results = []
    for options in ({"foreach": False}, {}, {"fused": True}):
        params = [Parameter(torch.ones(5, 3)), Parameter(torch.ones(4))]
        optimizer = LaProp(params, **options)
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            for t in range(2):
                give_gradients(params, t)
                optimizer.step()
        texts = [str(warning.message) for warning in given if warning.category is UserWarning]
        assert len(texts) == (options == {})
        assert all(warning.filename == __file__ for warning in given)
        assert all(str(instead) in text and "pip install -e ." in text for text in texts)
        results.append(params)
    assert not kernels.available()
    for params in results[1:]:
        assert all(map(torch.equal, results[0], params))


def test_the_library_is_of_these_files():
    """What the C++ files and the Python files share has the number that both give it.

    If this fails, give the new digest here, and raise kInterface in table.h and _INTERFACE in
    native.py, so that a library that was built before is refused.
    """
    folder = ROOT / "laprop" / "kernels"
    text = "".join((folder / name).read_text() for name in ("table.h", "cpu.cpp", "tensors.cpp"))
    shared = re.findall(r"^EXPORT [^{]*|^(?:enum|struct) (?:\w+) \{[^}]*", text, re.MULTILINE)
    assert {"struct Options {", "struct Exchange {", "enum Column {", "enum Flag {"} <= {
        declaration.splitlines()[0] for declaration in shared
    }
    code = re.sub(r"//.*|\s", "", "".join(shared))
    digest = hashlib.sha256(code.encode()).hexdigest()[:16]
    assert (native._INTERFACE, digest) == (1, "81e65ccc20aecd95")


def test_who_asks_for_a_kernel_that_is_missing_is_told_so_once(monkeypatch):
    def said(device, **asked):
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            assert kernels.kernel_for(device, **asked) is None
        return [str(warning.message) for warning in given]

    forget_the_library()
    try:
        monkeypatch.setitem(sys.modules, "laprop.kernels.cuda", None)  # its import then fails
        assert said("cuda") == []
        (text,) = said("cuda", asked_for=True)
        assert "Triton" in text
        assert "C++" not in text
        assert said("cuda", asked_for=True) == []
        monkeypatch.setattr(native, "path", lambda: None)
        forget_the_library()
        for device in ("cpu", "cuda"):
            assert said(device) == []
            (text,) = said(device, asked_for=True)
            assert "C++" in text
            assert "Triton" not in text
            assert said(device, asked_for=True) == []
        assert said("meta", asked_for=True) == []
    finally:
        forget_the_library()


@pytest.mark.parametrize("kind", [{"fused": True}, {}, {"foreach": True}])
def test_a_step_tells_who_asks_for_a_kernel_that_is_missing(kind, monkeypatch):
    monkeypatch.setattr(native, "path", lambda: None)
    forget_the_library()
    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            for _ in range(2):
                param = Parameter(torch.ones(3))
                param.grad = torch.ones(3)
                LaProp([param], **kind).step()
    finally:
        forget_the_library()
    texts = [str(warning.message) for warning in given if warning.category is UserWarning]
    assert len(texts) == ("fused" in kind)
    assert all("C++" in text for text in texts)
    assert all(warning.filename == __file__ for warning in given)
