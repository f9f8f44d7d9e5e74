"""A stage's access to its models: providers, journal, prices and brokers opened together, and ended together on Ctrl-C.

A stage may ask several models (one that judges, one that makes vectors). Each has a broker; journal and purse are one.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from autointerp.config import ModelAccess
from autointerp.errors import Interrupted, UserError
from autointerp.files import write_text
from autointerp.llm.abilities import Use
from autointerp.llm.broker import Broker
from autointerp.llm.bundles import MOST_TEXTS
from autointerp.llm.journal import Journal
from autointerp.llm.price import Tariff, money_text
from autointerp.llm.prices import find_price, require_price, unknown_price_note
from autointerp.llm.provider import AnyProvider, open_provider, require
from autointerp.llm.purse import Purse
from autointerp.llm.types import Ask, Message, Request

_STATES = {"ask": "batches", "embed": "batches/embed"}  # folders within the run's
_AT_ONCE = 64  # features under way where none waits for an answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that a stage asks. `by` names who needs it, `uses` who needs which capability of it, for messages."""

    access: ModelAccess
    by: str
    uses: Mapping[str, Use] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelSession:
    """A broker for each model, by what it is for. `at_once`: features that should be under way at a time."""

    brokers: Mapping[str, Broker]
    at_once: int

    @property
    def broker(self) -> Broker:
        """That of a session with one model."""
        (broker,) = self.brokers.values()
        return broker

    @property
    def ask(self) -> Ask:
        return self.broker.ask

    @property
    def answers_later(self) -> bool:
        """Whether any of the models does."""
        return any(broker.provider.capabilities.batch for broker in self.brokers.values())

    @property
    def is_offline(self) -> bool:
        return any(broker.is_offline for broker in self.brokers.values())

    @property
    def is_draining(self) -> bool:
        return any(broker.is_draining for broker in self.brokers.values())

    @property
    def is_over_budget(self) -> bool:
        return any(broker.is_over_budget for broker in self.brokers.values())

    def begin_round(self, *, repeat: bool) -> None:
        """In a `repeat` only what was asked before is asked again, and what follows from the answers."""
        for broker in self.brokers.values():
            broker.progress.is_repeat = repeat

    async def collect(self) -> bool:
        """Wait for answers that come later, see `Broker.collect`; False if nothing came.

        All models get what was queued for them, also where one of them needs the user; that is said when no other has answered.
        """
        found = await asyncio.gather(*(broker.collect() for broker in self.brokers.values()), return_exceptions=True)
        errors = [one for one in found if isinstance(one, BaseException)]
        fatal = [one for one in errors if not isinstance(one, UserError)]
        if fatal or (errors and True not in found):
            raise (fatal or errors)[0]
        return True in found

    def note(self) -> str:
        """For progress displays."""
        if len(self.brokers) == 1:
            return _note(self.broker)
        return "; ".join(f"{name}: {_note(broker)}" for name, broker in self.brokers.items())


def _note(broker: Broker) -> str:
    counts = broker.progress
    waiting = f"{counts.queued:,} queued" if counts.queued else f"{counts.in_flight:,} in flight"
    money = f", {money_text(counts.money)}" if counts.money else ""
    unfit = f"{counts.unfit:,} of no use, " if counts.unfit else ""
    trouble = f"; the last attempt failed: {counts.trouble}" if counts.trouble else ""
    return (
        f"{counts.done:,} answers ({counts.from_journal:,} from the journal), {counts.failed:,} failed, {unfit}"
        f"{waiting}, {counts.input_tokens:,} + {counts.output_tokens:,} tokens{money}{trouble}"
    )


def journal_folder(run: Path) -> Path:
    return run / "journal"


def provider_for(access: ModelAccess, run: Path | None = None) -> AnyProvider:
    """The configured provider; nothing is connected. Its `name` is what identifies answers."""
    return open_provider(
        access.provider, base_url=access.base_url, api_key_env=access.api_key_env, model=access.model,
        folder=None if run is None else run / _STATES[access.role], concurrency=access.concurrency,
    )  # fmt: skip


def require_model(access: ModelAccess, by: str) -> str:
    """The model's name. Raises UserError when none is named."""
    if not access.model:
        advice = "name one with --label-model, or use --explainer lexicon"
        if access.role == "embed":
            advice = "name one that makes vectors with --embedder, such as text-embedding-3-small"
        raise UserError(f"{by} asks a model, and none is given; {advice}")
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
                provider.payload(model, Request([Message("user", "")], embed=access.role == "embed"))
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
    async with open_sessions({"": Wanted(access, by)}, run, offline=offline) as session:
        yield session


@asynccontextmanager
async def open_sessions(
    wanted: Mapping[str, Wanted], run: Path, *, offline: bool = False
) -> AsyncIterator[ModelSession]:
    """The same for several models, by what they are for. The budget is that of all of them together."""
    accesses = [(name, one.access, require_model(one.access, one.by)) for name, one in wanted.items()]
    _check_folders(list(wanted.values()))
    for _, access, model in accesses:
        _check_price(access, model, run, offline)
    budget = next((access.budget for _, access, _ in accesses), None)
    with Journal(journal_folder(run)) as journal:
        purse = Purse(budget, journal.money)
        async with AsyncExitStack() as stack:
            brokers = {
                name: await stack.enter_async_context(Broker(
                    provider_for(access, run), model, journal, concurrency=_in_flight(access), timeout=access.timeout_s,
                    offline=offline, purse=purse, price_of=partial(_tariff, access), by=wanted[name].by,
                    uses=wanted[name].uses,
                ))
                for name, access, model in accesses
            }  # fmt: skip
            session = ModelSession(brokers, 0)
            at_once = _AT_ONCE
            if not offline and not session.answers_later:
                at_once = 2 * max(access.concurrency for _, access, _ in accesses)
            session = replace(session, at_once=at_once)
            with _signals(session):
                try:
                    yield session
                except asyncio.CancelledError:
                    if session.is_draining:
                        raise Interrupted from None
                    raise
        if session.is_draining:
            raise Interrupted
        if session.is_over_budget:
            raise UserError(
                f"the budget of {money_text(budget)} is used up: {money_text(purse.spent)} are spent in this folder, and "
                "the next request might pass it; give more with --budget and run the same command again"
            )


def _in_flight(access: ModelAccess) -> int:
    """Requests at a time. One for a vector is a part of a message."""
    return access.concurrency * (MOST_TEXTS if access.role == "embed" else 1)


def _check_folders(wanted: Sequence[Wanted]) -> None:
    """Raise UserError where two models would write their questions into one folder."""
    folders = [one.access.provider for one in wanted if one.access.provider.partition(":")[0] == "files"]
    if len(set(folders)) < len(folders):
        raise UserError(
            f"{' and '.join(one.by for one in wanted)} both ask through {folders[0]}; expected a folder for each; give the "
            "embedder one of its own with --embed-provider files:OTHER"
        )


def _check_price(access: ModelAccess, model: str, run: Path, offline: bool) -> None:
    price = find_price(access.provider, model, access.base_url, access.prices)
    if access.budget is not None and not offline:
        require_price(price, model)
    elif price is None and not offline:
        _say_once(run, unknown_price_note(model))


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
def _signals(session: ModelSession) -> Iterator[None]:
    """Drain on the first signal, cancel on the second. Where handlers cannot be set (in a thread) nothing changes."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        if session.is_draining:
            if task is not None:
                task.cancel()
            return
        for broker in session.brokers.values():
            broker.drain()
        waiting = sum(broker.progress.in_flight for broker in session.brokers.values())
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
