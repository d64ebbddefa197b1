"""Providers that a module outside the engine makes: `factory = "package.module:function"`.

The function is called once in every worker, with keywords:

    name       of the provider, which its verdicts must carry
    timeout_s  every message has its verdict by then
    options    the table `options` of the section, as it is in TOML
    receipts   `engine.receipts.ports.ReceiptSink`: where its receipts go

It returns an `engine.providers.ports.Provider`. The module is trusted: it runs inside the worker.
Its mistakes cost its own messages an attempt, and nothing else: the dispatcher
(`engine.delivery.dispatcher`) catches what it raises and ends messages that get no verdict, and
each verdict is checked here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec
import structlog

from engine.errors import ConfigError
from engine.providers.ports import Done, Provider
from engine.providers.settings import CustomSettings
from engine.receipts.ports import ReceiptSink
from engine.records import Message, Verdict


def factory_of(settings: CustomSettings) -> Callable[..., Any]:
    """The function that makes the provider; importing its module runs that.

    Raises ConfigError naming the setting and what is wrong with the module.
    """
    where = f"providers.{settings.name}.factory"
    module_name, _, function_name = settings.factory.partition(":")
    try:
        module = import_module(module_name)
    except Exception as e:  # importing runs the module: whatever it raises is the operator's to see
        raise ConfigError(f"{where}: the module {module_name} cannot be imported: {_sentence(e)}.") from e
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise ConfigError(f"{where}: the module {module_name} has no function {function_name}.")
    made: Callable[..., Any] = factory
    return made


def custom_provider(settings: CustomSettings, receipts: ReceiptSink) -> Provider:
    """Raises ConfigError naming the setting and what is wrong with the module."""
    where = f"providers.{settings.name}.factory"
    factory = factory_of(settings)
    try:
        provider: Provider = factory(
            name=settings.name,
            timeout_s=settings.timeout_s,
            options=dict(settings.options),
            receipts=receipts,
        )
    except ConfigError:
        raise
    except Exception as e:  # likewise
        raise ConfigError(f"{where}: {settings.factory} failed: {_sentence(e)}.") from e
    if lack := _lack(provider, settings.name):
        raise ConfigError(f"{where}: what {settings.factory} returned is no provider: {lack}.")
    return Foreign(provider)


class Foreign:
    """A provider that such a module has made; see `engine.providers.ports.Provider`.

    Its verdicts are passed on as they are. What is no verdict becomes one: `unknown`, with the code
    `fault`, since nobody knows what has become of the message.
    """

    def __init__(self, provider: Provider) -> None:
        """`provider`: has the methods of one, and the name of its section."""
        self._provider = provider
        self.name = provider.name
        self.start = provider.start
        self.stop = provider.stop

    def submit(self, message: Message, done: Done) -> None:
        """See the port. Raises what the provider raises."""

        def checked(verdict: Verdict) -> None:
            done(self._checked(verdict))

        self._provider.submit(message, checked)

    def _checked(self, verdict: Verdict) -> Verdict:
        try:
            if type(verdict) is not Verdict:
                raise msgspec.ValidationError(f"it is of type {type(verdict).__name__}")
            # Constructing one checks nothing.
            msgspec.convert(msgspec.structs.asdict(verdict), Verdict)
            if verdict.provider != self.name:
                raise msgspec.ValidationError(f"its provider must be {self.name!r}")
        except (msgspec.ValidationError, AttributeError) as e:
            structlog.get_logger("custom").error(
                "provider gave no verdict", provider=self.name, reason=str(e)
            )
            return Verdict(kind="unknown", provider=self.name, code="fault")
        return verdict


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


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
