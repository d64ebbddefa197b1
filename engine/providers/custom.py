"""Providers from somebody else's module: `factory = "package.module:function"`.

The function is called once in every worker, with keywords:

    name       of the provider, which its verdicts must carry
    timeout_s  every message has its verdict by then
    options    the table `options` of the section, as it is in TOML
    receipts   `engine.receipts.ports.ReceiptSink`: where its receipts go

and returns an `engine.providers.ports.Provider`. The module is trusted: it runs inside the worker.
"""

from __future__ import annotations

import inspect
from importlib import import_module

from engine.errors import ConfigError
from engine.providers.ports import Provider
from engine.providers.settings import CustomSettings
from engine.receipts.ports import ReceiptSink


def custom_provider(settings: CustomSettings, receipts: ReceiptSink) -> Provider:
    """Raises ConfigError naming the setting and what is wrong with the module."""
    where = f"providers.{settings.name}.factory"
    module_name, _, function_name = settings.factory.partition(":")
    try:
        module = import_module(module_name)
    except Exception as e:  # importing runs the module: whatever it raises is the operator's to see
        raise ConfigError(f"{where}: the module {module_name} cannot be imported: {_said(e)}.") from e
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise ConfigError(f"{where}: the module {module_name} has no function {function_name}.")
    try:
        provider = factory(
            name=settings.name,
            timeout_s=settings.timeout_s,
            options=dict(settings.options),
            receipts=receipts,
        )
    except ConfigError:
        raise
    except Exception as e:  # likewise
        raise ConfigError(f"{where}: {settings.factory} failed: {_said(e)}.") from e
    if lack := _lack(provider, settings.name):
        raise ConfigError(f"{where}: what {settings.factory} returned is no provider: {lack}.")
    return provider  # type: ignore[no-any-return]


def _lack(provider: object, name: str) -> str:
    """What the object lacks to be an `engine.providers.ports.Provider`; "" when it is one."""
    for method in ("start", "stop", "submit"):
        found = getattr(provider, method, None)
        if not callable(found):
            return f"it has no method {method}"
        if inspect.iscoroutinefunction(found) != (method != "submit"):
            return f"its {method} must {'not ' if method == 'submit' else ''}be async"
    if getattr(provider, "name", None) != name:
        return f"its name must be {name!r}"
    return ""


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
