"""The purse: a budget that can't be passed, because each request's worst case is set aside before it is sent.

A request that does not fit beside those in flight waits until they are settled for what they really cost. It fails when
it does not fit although nothing else is in flight, or could not even then. Requests are admitted in the order of asking: a
dear one is not overtaken for ever by cheap ones.

Sums are kept in whole millionths of a millionth of a dollar, so that no order of additions loses or makes money.
"""

import asyncio
import math
from collections import deque
from types import TracebackType
from typing import Self

from autointerp.llm.price import money_text
from autointerp.llm.types import FailureKind, RequestFailed

_UNITS = 10**12


class Reservation:
    """Money set aside for one request: `async with purse.reserve(most) as reservation: … reservation.settle(cost)`.

    Left without `settle` (the request failed or was cancelled) it is settled for nothing.
    """

    __slots__ = ("_held", "_most", "_purse")

    def __init__(self, purse: "Purse", most: int) -> None:
        self._purse = purse
        self._most = most
        self._held = False

    async def __aenter__(self) -> Self:
        if not self._purse._take(self):
            await self._purse._wait_for(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self.settle(0.0)

    def settle(self, actual: float) -> None:
        """The request is over and cost `actual` US dollars; what was set aside beyond that is free again.

        More than was reserved counts in full: then the bound was wrong, and what is spent must not be hidden. Raises
        ValueError if the reservation is not held: it is settled once.
        """
        if not self._held:
            raise ValueError("this reservation is not held: it was settled already, or never entered")
        self._held = False
        self._purse._return(self._most, _units(actual))


class Purse:
    """`budget` US dollars, of which `spent` are gone already; with None it only adds up what is spent.

    For one event loop. Raises ValueError for amounts that are negative or not finite.
    """

    def __init__(self, budget: float | None, spent: float = 0.0) -> None:
        self.budget = budget
        self._limit = None if budget is None else _units(budget)
        self._spent = _units(spent)
        self._reserved = 0
        self._waiting: deque[tuple[Reservation, asyncio.Future[None]]] = deque()

    @property
    def spent(self) -> float:
        """US dollars, those of before included."""
        return self._spent / _UNITS

    @property
    def reserved(self) -> float:
        """US dollars that requests in flight may still cost."""
        return self._reserved / _UNITS

    def reserve(self, most: float) -> Reservation:
        """To be entered before a request is sent that can cost up to `most` US dollars; entering may wait.

        Entering raises RequestFailed (over_budget, no attempts) if the request can't be paid for.
        """
        return Reservation(self, _units(most))

    def try_reserve(self, most: float) -> Reservation | None:
        """A reservation held from now on, to be settled by the caller; None if it does not fit now, or others wait.

        For requests that are settled much later (batches), where waiting for each other would be for ever.
        """
        reservation = Reservation(self, _units(most))
        return reservation if self._take(reservation) else None

    def spend(self, actual: float) -> None:
        """Note what was spent without a reservation."""
        self._return(0, _units(actual))

    def refusal(self, most: float) -> RequestFailed:
        """The failure of a request that can cost `most` and does not fit."""
        return RequestFailed(
            FailureKind.OVER_BUDGET,
            f"the budget of {money_text(self.budget)} could be passed: {money_text(self.spent)} spent, "
            f"{money_text(self.reserved)} in flight, and this request can cost up to {money_text(most)}; raise --budget",
            attempts=0,
        )

    def _take(self, reservation: Reservation) -> bool:
        if self._limit is not None:
            if self._waiting or self._spent + self._reserved + reservation._most > self._limit:
                return False
            self._reserved += reservation._most
        reservation._held = True
        return True

    async def _wait_for(self, reservation: Reservation) -> None:
        """Wait in line until `reservation` is held, or fail if it never can be."""
        assert self._limit is not None
        if self._spent + reservation._most > self._limit:
            raise self.refusal(reservation._most / _UNITS)
        granted = asyncio.get_running_loop().create_future()
        place = (reservation, granted)
        self._waiting.append(place)
        try:
            await granted
        except asyncio.CancelledError:
            if reservation._held:  # granted and cancelled at once: give it back
                reservation.settle(0.0)
            elif place in self._waiting:
                self._waiting.remove(place)
                self._admit()  # those behind it may fit
            elif not granted.cancelled():
                granted.exception()  # seen: refused and cancelled at once
            raise

    def _return(self, most: int, actual: int) -> None:
        self._spent += actual
        if self._limit is not None:
            self._reserved -= most
            self._admit()

    def _admit(self) -> None:
        """Grant what now fits, in order; whoever is first and will never fit fails."""
        assert self._limit is not None
        while self._waiting:
            reservation, granted = self._waiting[0]
            if granted.done():  # cancelled; its task has not come to its turn yet
                pass
            elif self._spent + self._reserved + reservation._most <= self._limit:
                self._reserved += reservation._most
                reservation._held = True
                granted.set_result(None)
            elif self._spent + reservation._most > self._limit:
                granted.set_exception(self.refusal(reservation._most / _UNITS))
            else:
                return
            self._waiting.popleft()


def _units(dollars: float) -> int:
    if not (math.isfinite(dollars) and dollars >= 0):
        raise ValueError(f"{dollars} US dollars; expected a finite amount of 0 or more")
    return round(dollars * _UNITS)
