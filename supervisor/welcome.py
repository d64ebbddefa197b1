"""What `smsengine up` prints when it is ready: text for a person, or JSON for a script."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import msgspec

from supervisor.datadir import DEFAULT

_EXAMPLE = Path(__file__).parent.parent / "examples" / "messages.jsonl"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine is, and the keys to it. Its fields are the keys of the JSON line."""

    url: str
    # Where the admin calls and /metrics are: a URL, or unix:/PATH.
    admin_url: str
    # None without --demo.
    api_key: str | None
    admin_key: str
    # Id of the demo organisation, None without --demo.
    organisation: int | None
    # None when no simulated provider was started.
    simulator_url: str | None

    def as_json(self) -> str:
        """One line of JSON with every field, without a newline at its end."""
        return msgspec.json.encode(self).decode()

    def as_text(self, data_dir: Path, has_console: bool) -> str:
        """Several lines for a person, with commands to try. `has_console`: there is a web console.

        Every command can be pasted into another terminal in the same directory.
        """
        command = _command()
        where = "" if data_dir == DEFAULT.absolute() else f" --data-dir {shlex.quote(_near(data_dir))}"
        lines = ["", f"smsengine is ready at {self.url}", f"  Admin calls and /metrics  {self.admin_url}"]
        if has_console and self.admin_url.startswith("http"):
            lines.append(f"  Web console               {self.admin_url}/console")
        lines.append("")
        if self.api_key is None:
            lines += [
                "Make an organisation and give it credit:",
                "",
                f"  {command} org create NAME{where}",
                f"  {command} org topup ID UNITS --reference TEXT{where}",
            ]
        else:
            lines += [
                f"  API key  {self.api_key}  (organisation {self.organisation}, demo)",
                self._where_to(),
                "",
                "Try in another terminal, from this directory: send one message,",
                "",
                f"  {self._one(command, where)}",
                "",
                "send a file of messages,",
                "",
                f"  {command} send --file {shlex.quote(_near(_EXAMPLE))}{where}",
            ]
        lines += [
            "",
            "watch the status:",
            "",
            f"  {command} status --watch{where}",
            "",
            "Ctrl-C stops it.",
            "",
        ]
        return "\n".join(lines)

    def _where_to(self) -> str:
        if self.simulator_url is None:
            return "  Messages go to the providers of the configuration, so perhaps to real telephones."
        return f"  Messages go to a simulated provider, which counts them: {self.simulator_url}/stats"

    def _one(self, command: str, where: str) -> str:
        """A command that sends one message: by curl, to show the API, or without it on a bare Debian."""
        if shutil.which("curl") is None:
            return f"{command} send --to +989121234567 --text Hello{where}"
        body = '{"to":"+989121234567","text":"Hello"}'
        return f"curl -s {self.url}/v1/messages -H 'Authorization: Bearer {self.api_key}' -d '{body}'"


def _command() -> str:
    """How to call `smsengine` from here: it need not be on the PATH."""
    beside = Path(sys.executable).with_name("smsengine")
    if beside.exists():
        return shlex.quote(_near(beside))
    return f"{shlex.quote(_near(Path(sys.executable)))} -m supervisor.cli"


def _near(path: Path) -> str:
    """The path relative to the working directory when it is below it, absolute otherwise."""
    whole = str(path.absolute())
    from_here = os.path.relpath(whole)
    return whole if from_here.startswith("..") else from_here
