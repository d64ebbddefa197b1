"""How a connection to a server is encrypted, from files that an operator names."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

from engine.errors import ConfigError

# The files of TLS, as settings of a store and as parameters of its URL.
TLS_FILES = ("tls_ca_file", "tls_cert_file", "tls_key_file")


def client_context(ca_file: str = "", cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """Trust the authorities in `ca_file`, or those of the system; show the certificate in `cert_file`.

    All are files in PEM form, "" for none; without `key_file` the key stands in `cert_file`. Raises
    OSError (an SSLError is one) when a file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if cert_file:
        context.load_cert_chain(cert_file, key_file or None)
    return context


def trusting(ca_file: str, setting: str) -> ssl.SSLContext:
    """Trust the authorities in `ca_file`, or those of the system when it is "".

    Raises ConfigError, which names `setting`, when the file cannot be used.
    """
    return _usable(partial(client_context, ca_file), setting, ca_file)


def check_files(store: str, files: dict[str, str]) -> None:
    """Raises ConfigError, which names the setting of `store`, when a file of TLS_FILES cannot be used."""
    if files["tls_key_file"] and not files["tls_cert_file"]:
        raise ConfigError(f"{store}.tls_key_file is of no use without {store}.tls_cert_file.")
    for setting, context in (
        ("tls_ca_file", partial(client_context, files["tls_ca_file"])),
        ("tls_cert_file", partial(client_context, "", files["tls_cert_file"], files["tls_key_file"])),
    ):
        _usable(context, f"{store}.{setting}", files[setting])


def _usable(context: Callable[[], ssl.SSLContext], setting: str, file: str) -> ssl.SSLContext:
    try:
        return context()
    except (OSError, ValueError) as e:
        # An SSLError is an OSError whose text is OpenSSL's; a ValueError is of a NUL in the name.
        named = e.strerror if isinstance(e, OSError) else None
        reason = "it does not hold what it should in PEM form" if isinstance(e, ssl.SSLError) else named
        raise ConfigError(f"{setting}: {file} cannot be used: {reason or type(e).__name__}.") from e
