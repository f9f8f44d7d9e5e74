"""A stage's access to a model: provider, journal and broker opened together, and what was spent put into the catalog."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from autointerp.errors import UserError
from autointerp.llm.broker import Broker
from autointerp.llm.journal import Journal
from autointerp.llm.provider import Provider, open_provider
from autointerp.llm.types import Ask


class ModelSettings(Protocol):
    """The part of the configuration that says how a model is reached."""

    @property
    def provider(self) -> str: ...
    @property
    def base_url(self) -> tuple[str, ...]: ...
    @property
    def api_key_env(self) -> str | None: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class ModelSession:
    """`ask` for coroutines; `note` for progress displays."""

    broker: Broker

    @property
    def ask(self) -> Ask:
        return self.broker.ask

    def note(self) -> str:
        counts = self.broker.progress
        return (
            f"{counts.done:,} answers ({counts.from_journal:,} from the journal), {counts.failed:,} failed, "
            f"{counts.in_flight:,} in flight, {counts.input_tokens:,} + {counts.output_tokens:,} tokens"
        )


def journal_folder(run: Path) -> Path:
    return run / "journal"


@asynccontextmanager
async def open_session(settings: ModelSettings, model: str | None, run: Path, by: str) -> AsyncIterator[ModelSession]:
    """The configured provider behind a broker, connected at the first request that the journal cannot answer.

    `by` names who needs the model, for the error when none is given. Raises UserError when no model is named.
    """
    if not model:
        raise UserError(
            f"{by} asks a model, and none is given; name one with --label-model, or use --explainer lexicon"
        )
    provider = cast(
        Provider, open_provider(settings.provider, base_url=settings.base_url, api_key_env=settings.api_key_env)
    )
    with Journal(journal_folder(run)) as journal:
        async with Broker(
            provider, model, journal, concurrency=settings.concurrency, timeout=settings.timeout_s
        ) as broker:
            yield ModelSession(broker)
