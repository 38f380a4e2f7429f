"""What a data set holds: the rows of the paper's table 1, and what else a reader of results must know."""

from datetime import datetime
from typing import Any

from crsearch.records.store import Dataset


def statistics(data: Dataset) -> dict[str, Any]:
    """Numbers about a data set, as JSON values; means are 0 where there are no users.

    The first five are those of the paper: ``users``, ``items``, ``queries`` (unique texts),
    ``queries_per_user`` (searches) and ``clicks_per_user``.

    Source: CRS §4.1, table 1; the others are this project's.
    """
    users, searches = len(data.users), data.searches
    chosen = sum(len(s.chosen) for s in searches)
    times: list[Any] = [s.time for s in searches]
    users_of_parts = {(s.user_id, data.targets[s.search_id][1]) for s in searches if s.search_id in data.targets}
    parts = [part for _, part in users_of_parts]
    return {
        "users": users,
        "items": len(data.catalogue),
        "queries": len({s.query for s in searches}),
        "queries_per_user": _mean(len(searches), users),
        "clicks_per_user": _mean(sum(len(s.clicked) for s in searches), users),
        "purchases_per_user": _mean(sum(len(s.bought) for s in searches), users),
        "choices_per_user": _mean(chosen, users),
        "searches": len(searches),
        "shown_per_search": _mean(sum(len(s.shown) for s in searches), len(searches)),
        "searches_without_choice": _mean(sum(not s.chosen for s in searches), len(searches)),
        "repeated_targets": _mean(_repeated_targets(data), len(data.targets)),
        "train_users": parts.count("train"),
        "valid_users": parts.count("valid"),
        "test_users": parts.count("test"),
        "first_time": _plain(min(times)) if times else None,
        "last_time": _plain(max(times)) if times else None,
    }


def _mean(total: int, number: int) -> float:
    return total / number if number else 0.0


def _plain(time: datetime | int) -> str | int:
    return time.isoformat() if isinstance(time, datetime) else time


def _repeated_targets(data: Dataset) -> int:
    """Examples whose target the user had chosen before: with them ``evaluate.exclude_history`` must be off."""
    return sum(
        any(target in s.chosen for s in data.context(search_id, max_events=len(data.searches)).history)
        for search_id, (target, _) in data.targets.items()
    )
