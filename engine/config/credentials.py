"""Where the secrets are that systemd hands to a service: LoadCredential=, see systemd.exec(5).

A setting names a file. One that is named without a folder is looked for among the credentials, where
there are some: in $CREDENTIALS_DIRECTORY. Elsewhere it is a file in the working directory, so that
`smsengine check` reads the same configuration from the folder that the credentials come from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

# A credential that systemd takes from a folder has the name of that folder's credential before its own.
_FOLDER = "smsengine_"

S = TypeVar("S", bound=msgspec.Struct)


def with_credentials(section: S) -> S:
    """The section with the path of a credential in each setting that ends in `_file` and names one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        return section
    files = {name: getattr(section, name) for name in section.__struct_fields__ if name.endswith("_file")}
    found = {name: _credential(folder, file) for name, file in files.items() if file and "/" not in file}
    return msgspec.structs.replace(section, **{name: path for name, path in found.items() if path})


def _credential(folder: str, name: str) -> str:
    """The path of the credential of that name; "" when there is none."""
    paths = (Path(folder, name), Path(folder, _FOLDER + name))
    return next((str(path) for path in paths if path.is_file()), "")
