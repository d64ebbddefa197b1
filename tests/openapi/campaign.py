"""Schemathesis on a running engine: requests made of its OpenAPI documents, good ones and bad ones, with
every answer held to them. `make schemathesis` runs it with hundreds of requests for each call."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.openapi.documented import Documented
from tests.system.conftest import start_engine

CONFIGURATION, CHECKS = (Path(__file__).with_name(name) for name in ("schemathesis.toml", "checks.py"))
# With the first two an engine takes no messages any more, and says so with 503. With the others a key makes
# an end of itself; the same calls of operators are tried.
LEFT_OUT = ("drain_node", "drain_queue", "revoke_own_key", "rotate_own_key", "change_own_key")


def run(
    documented: Documented, url: str, key: str, examples: int, phases: Sequence[str], seed: int
) -> tuple[int, str]:
    """(exit code, what it printed): `examples` requests at most for each call and phase."""
    argv = [
        Path(sys.executable).with_name("schemathesis"),
        *("--config-file", CONFIGURATION, "run", f"{url}/openapi.json", "--phases", ",".join(phases)),
        *("--max-examples", examples, "--seed", seed, "--header", f"Authorization: Bearer {key}"),
        *("--continue-on-failure", "--warnings", "off"),
        *(word for name in LEFT_OUT for word in ("--exclude-operation-id", name)),
    ]
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=False,
        cwd=documented.engine.data_dir, env=os.environ | {"SCHEMATHESIS_HOOKS": str(CHECKS)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    """Try both addresses of an engine of its own, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="requests for each call and phase")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("organisations", "operators"), help="whose calls")
    asked = parser.parse_args()
    # Who ends it ends its engine too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        engine = start_engine(Path(folder) / "data")
        try:
            documented = Documented.of(engine)
            codes, of = [], documented.organisation()
            sides = {
                "organisations": (engine.url, of.api_key),
                "operators": (engine.admin_url, engine.admin_key),
            }
            for url, key in [sides[asked.only]] if asked.only else sides.values():
                phases = ("examples", "coverage", "fuzzing", "stateful")
                code, text = run(documented, url, key, asked.examples, phases, asked.seed)
                sys.stdout.write(text)
                codes.append(code)
        finally:
            engine.stop()
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
