"""A stage's access to a model: provider, journal, prices and broker opened together, and ended together on Ctrl-C."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autointerp.config import ModelAccess
from autointerp.errors import Interrupted, UserError
from autointerp.files import write_text
from autointerp.llm.broker import Broker
from autointerp.llm.journal import Journal
from autointerp.llm.price import Tariff, money_text
from autointerp.llm.prices import find_price, require_price, unknown_price_note
from autointerp.llm.provider import AnyProvider, open_provider, require
from autointerp.llm.purse import Purse
from autointerp.llm.types import Ask, Message, Request

_AT_ONCE = 64  # features under way where none waits for an answer


@dataclass(frozen=True, slots=True)
class ModelSession:
    """`ask` for coroutines; `note` for progress displays. `at_once`: features that should be under way at a time."""

    broker: Broker
    at_once: int

    @property
    def ask(self) -> Ask:
        return self.broker.ask

    def note(self) -> str:
        counts = self.broker.progress
        waiting = f"{counts.queued:,} queued" if counts.queued else f"{counts.in_flight:,} in flight"
        money = f", {money_text(counts.money)}" if counts.money else ""
        trouble = f"; the last attempt failed: {counts.trouble}" if counts.trouble else ""
        return (
            f"{counts.done:,} answers ({counts.from_journal:,} from the journal), {counts.failed:,} failed, "
            f"{waiting}, {counts.input_tokens:,} + {counts.output_tokens:,} tokens{money}{trouble}"
        )


def journal_folder(run: Path) -> Path:
    return run / "journal"


def provider_for(access: ModelAccess, run: Path | None = None) -> AnyProvider:
    """The configured provider; nothing is connected. Its `name` is what identifies answers."""
    return open_provider(
        access.provider, base_url=access.base_url, api_key_env=access.api_key_env, model=access.model,
        folder=None if run is None else run / "batches", concurrency=access.concurrency,
    )  # fmt: skip


def require_model(access: ModelAccess, by: str) -> str:
    """The model's name. Raises UserError when none is named."""
    if not access.model:
        raise UserError(
            f"{by} asks a model, and none is given; name one with --label-model, or use --explainer lexicon"
        )
    return access.model


def check_access(access: ModelAccess, run: Path, by: str, needs: Sequence[str] = ()) -> None:
    """Before a long stage that comes first: raises UserError where no model is named, its key or price is missing, or the
    provider lacks one of the capabilities in `needs`."""
    model = require_model(access, by)
    provider = provider_for(access, run)
    require(provider, *needs, by=by)
    if access.budget is not None:
        require_price(find_price(access.provider, model, access.base_url, access.prices), model)

    async def connect() -> None:
        try:
            if provider.capabilities.local:  # to open it would take long, twice
                provider.payload(model, Request([Message("user", "")]))
            else:
                provider.connect()
        finally:
            await provider.close()

    asyncio.run(connect())


@asynccontextmanager
async def open_session(
    access: ModelAccess, run: Path, by: str, *, offline: bool = False
) -> AsyncIterator[ModelSession]:
    """The configured provider behind a broker, connected at the first request that the journal cannot answer.

    `by` names who needs the model, for the error when none is given. On SIGINT or SIGTERM nothing more is sent, what is in
    flight is waited for, and leaving the session raises Interrupted; on a second signal it is not waited for.
    Raises UserError when no model is named, when a budget is given and the price is not known, and on leaving when the
    budget has been used up.
    """
    model = require_model(access, by)
    provider = provider_for(access, run)
    price = find_price(access.provider, model, access.base_url, access.prices)
    if access.budget is not None and not offline:
        require_price(price, model)
    elif price is None and not offline:
        _say_once(run, unknown_price_note(model))
    with Journal(journal_folder(run)) as journal:
        purse = Purse(access.budget, journal.money)
        async with Broker(
            provider, model, journal, concurrency=access.concurrency, timeout=access.timeout_s, offline=offline, purse=purse,
            price_of=partial(_tariff, access),
        ) as broker:  # fmt: skip
            at_once = _AT_ONCE if offline or provider.capabilities.batch else 2 * access.concurrency
            with _signals(broker):
                try:
                    yield ModelSession(broker, at_once)
                except asyncio.CancelledError:
                    if broker.is_draining:
                        raise Interrupted from None
                    raise
        if broker.is_draining:
            raise Interrupted
        if broker.is_over_budget:
            raise UserError(
                f"the budget of {money_text(access.budget)} is used up: {money_text(purse.spent)} are spent in this folder, and "
                "the next request might pass it; give more with --budget and run the same command again"
            )


def _say_once(run: Path, note: str) -> None:
    """What holds for all stages of a run, and for all commands on its folder, need not be said by each."""
    said = run / ".said"
    before = said.read_text(encoding="utf-8").splitlines() if said.exists() else []
    if note in before:
        return
    print(note, file=sys.stderr)
    write_text(said, "".join(f"{line}\n" for line in (*before, note)))


def _tariff(access: ModelAccess, model: str) -> Tariff | None:
    """What the provider asks for answers of a model."""
    price = find_price(access.provider, model, access.base_url, access.prices)
    return None if price is None else Tariff(price, price.factor_of(access.provider))


@contextmanager
def _signals(broker: Broker) -> Iterator[None]:
    """Drain on the first signal, cancel on the second. Where handlers cannot be set (in a thread) nothing changes."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        if broker.is_draining:
            if task is not None:
                task.cancel()
            return
        broker.drain()
        waiting = broker.progress.in_flight
        print(
            f"\nstopping: waiting for {waiting:,} {'answer' if waiting == 1 else 'answers'} under way; Ctrl-C again not to wait",
            file=sys.stderr,
            flush=True,
        )

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in numbers:
            loop.add_signal_handler(number, on_signal)
    except (ValueError, RuntimeError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
