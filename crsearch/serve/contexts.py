"""From a request to the context that the model reads: stored, given inline, or both.

Source: details: this project.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice

from crsearch.records.store import Dataset
from crsearch.records.types import Context, Search, Time
from crsearch.serve.contract import Event, PastEvent, Persona, SearchRequest
from crsearch.serve.problems import Problem
from crsearch.serve.text import clean_words

NOW = "now"
"""Search id of a query that is asked now."""
WORDS = 512
"""Characters of a text of a caller, as the contract has it."""


class Contexts:
    """The users of a run, and contexts of requests.

    Args:
        dataset: users and their searches.
        max_events: newest events read.
    """

    def __init__(self, dataset: Dataset, max_events: int) -> None:
        self.dataset, self.max_events = dataset, max_events
        self.forgotten: set[str] = set()
        """Users that are strangers from now on."""

    def context(self, request: SearchRequest, query: str) -> Context:
        """What is known when the request arrives.

        Args:
            request: with its user, profile and history.
            query: the query after cleaning.

        Raises:
            Problem: no such user, or a time that is none.
        """
        stored = self._stored(request.user_id)
        history = stored.history if request.history is None else self._events(request.history)
        profile = stored.profile if request.profile is None else _profile(request.profile)
        last = history[-1] if history else None
        time: Time | None = _time(request.time, "time") or (last.time if last else None)
        return Context(
            search_id=NOW,
            user_id=request.user_id or "",
            query=query,
            time=time,
            place=_clean(request.place) or (last.place if last else None),
            profile=profile,
            history=history,
        )

    def _stored(self, user_id: str | None) -> Context:
        stranger = Context(search_id=NOW, user_id=user_id or "", query="")
        if user_id is None:
            return stranger
        if user_id not in self.dataset.users or user_id in self.forgotten:
            raise Problem(
                "not_found", "there is no such user", field="user_id",
                hint="take one of /v1/users, give profile and history inline, or leave user_id out",
            )  # fmt: skip
        history = self.dataset.searches_of(user_id)[-self.max_events :] if self.max_events else ()
        return dataclasses.replace(stranger, profile=self.dataset.users[user_id].profile, history=history)

    def _events(self, events: Sequence[Event]) -> tuple[Search, ...]:
        """Searches of inline events; without times their order is their time."""
        return tuple(
            Search(
                search_id=f"{NOW}-{at}",
                user_id="",
                time=_time(event.time, f"history.{at}.time") or at,
                query=_clean(event.query) or "",
                place=_clean(event.place),
                shown=tuple(dict.fromkeys((*event.clicked, *event.skipped))),
                clicked=tuple(dict.fromkeys(event.clicked)),
            )
            for at, event in enumerate(events)
        )

    # -- users --------------------------------------------------------------------------------------------------------
    def users(self, prefix: str, limit: int) -> list[Persona]:
        """Users whose id begins so: those nobody trained on first, then those with most events."""
        found = (u for u in self._order if u.startswith(prefix) and u not in self.forgotten)
        return [self._persona(user_id) for user_id in islice(found, limit)]

    def persona(self, user_id: str) -> Persona | None:
        """A user with the events that a search reads."""
        if user_id not in self.dataset.users or user_id in self.forgotten:
            return None
        return dataclasses.replace(
            self._persona(user_id), history=tuple(map(self._past, self._stored(user_id).history))
        )

    def _persona(self, user_id: str) -> Persona:
        searches = self.dataset.searches_of(user_id)
        last = searches[-1] if searches else None
        return Persona(
            user_id=user_id,
            profile=dict(self.dataset.users[user_id].profile),
            events=len(searches),
            place=last.place if last else None,
            last_query=last.query if last else "",
        )

    def _past(self, search: Search) -> PastEvent:
        return PastEvent(
            query=search.query,
            clicked=self._titled(search.chosen),
            skipped=self._titled(search.skipped),
            time=search.time.isoformat() if isinstance(search.time, datetime) else None,
            place=search.place,
        )

    def _titled(self, item_ids: Sequence[str]) -> tuple[tuple[str, str], ...]:
        catalogue = self.dataset.catalogue
        return tuple((i, catalogue[catalogue.row(i)].title if i in self._known else "") for i in item_ids)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.dataset.catalogue.ids)

    @cached_property
    def _order(self) -> list[str]:
        targets = self.dataset.targets
        tested = {
            s.user_id for s in self.dataset.searches if s.search_id in targets and targets[s.search_id][1] == "test"
        }
        events = Counter(search.user_id for search in self.dataset.searches)
        return sorted(self.dataset.users, key=lambda user: (user not in tested, -events[user], user))


def _clean(text: str | None) -> str | None:
    """A text of a caller in the one form that queries have, so that equal contexts share what is kept of them."""
    return clean_words(text, WORDS).text or None if text else None


def _profile(given: Mapping[str, str]) -> dict[str, str]:
    """A profile of a caller in that form; names that cannot be seen are left out, of equal ones the last counts."""
    return {name: _clean(value) or "" for key, value in given.items() if (name := _clean(key))}


def _time(text: str | None, field: str) -> datetime | None:
    """A time of ISO 8601, UTC where it names no zone."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Problem(
            "invalid_request", "not a time", field=field, hint="write ISO 8601, e.g. 2025-06-01T20:11:00Z"
        ) from None
