"""An extension type whose methods do nothing, compiled when it is needed: the floor of a call."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from Cython.Build import cythonize
from setuptools import Distribution, Extension  # type: ignore[import-untyped]

SOURCE = """
cimport cython

@cython.final
cdef class Empty:
    def typed(self, Py_ssize_t organisation_id, Py_ssize_t units):
        return True

    def untyped(self, organisation_id, units):
        return True
"""


class Empty(Protocol):
    """What the extension type has: two methods that do nothing."""

    # Both arguments become 64-bit C integers, as in any method that computes with them.
    typed: Callable[[int, int], bool]
    # The arguments are not looked at.
    untyped: Callable[[int, int], bool]


def build_empty(directory: Path) -> Empty:
    """Compile with the flags of setup.py, below `directory`; needs the C compiler."""
    source = directory / "empty_call_floor.pyx"
    source.write_text(SOURCE)
    extension = Extension("empty_call_floor", [str(source)], extra_compile_args=["-O3", "-g0"])
    directives = {"language_level": 3, "binding": False}
    modules = cythonize([extension], quiet=True, compiler_directives=directives)  # type: ignore[no-untyped-call]
    build = Distribution({"name": "empty-call", "ext_modules": modules}).get_command_obj("build_ext")
    build.build_lib = build.build_temp = str(directory)
    build.ensure_finalized()
    build.run()
    [built] = directory.glob("empty_call_floor*.so")
    spec = importlib.util.spec_from_file_location("empty_call_floor", built)
    if spec is None or spec.loader is None:
        raise ImportError(f"{built} is not an extension module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return cast("Empty", module.Empty())
