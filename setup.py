"""Builds the extensions; everything else stands in pyproject.toml.

SMSENGINE_DEBUG_CYTHON=1 builds it with line tracing, bounds checks and assertions,
unoptimised, for a debugger or a coverage run.
"""

from __future__ import annotations

import os

from Cython.Build import cythonize
from setuptools import Extension, setup  # type: ignore[import-untyped]

debug = os.environ.get("SMSENGINE_DEBUG_CYTHON") == "1"

extensions = [
    Extension(
        name,
        [f"{name.replace('.', '/')}.pyx"],
        define_macros=[("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")] if debug else [],
        # They come last and so override what the interpreter itself was built with.
        extra_compile_args=["-O0", "-g3", "-UNDEBUG"] if debug else ["-O3", "-g0"],
    )
    for name in (
        "engine._fastcredits",
        "engine.activity._columns",
        "engine.activity._report_rows",
        "engine.capacity._simulate",
        "engine.intake._plain",
        "engine.stores.clickhouse.divided._divide",
        "engine.stores.clickhouse._report_sums",
        "engine.stores.redis._portion",
        "engine.providers.smpp._short_way",
        "engine.delivery._many",
        "engine.delivery._rows",
        "engine.stores.redis._entries",
        "engine.webhooks._search",
        "supervisor.simulator._submits",
    )
]

setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call]
        extensions,
        # Always anew: the C file of a debug build must not end up in a release.
        force=True,
        # Beside the other products of a build, not among the sources that are packaged.
        build_dir="build",
        compiler_directives={
            "language_level": 3,
            # Methods as plain C functions: the interpreter's fastest call.
            "binding": False,
            "boundscheck": debug,
            "wraparound": False,
            "initializedcheck": debug,
            "nonecheck": debug,
            "cdivision": True,
            "linetrace": debug,
        },
    )
)
