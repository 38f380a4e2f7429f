"""What is kept of users between their searches: their past as tokens, and what items share with it.

Both hang on titles and semantic IDs, so each set of items of the catalogue has a ``Known`` of its own; it is bounded,
and a user who is forgotten is dropped from it.

Source: details: this project.
"""

from collections import OrderedDict
from dataclasses import dataclass

from crsearch.context.prompts import Prompts
from crsearch.context.serialiser import Past
from crsearch.records.types import Context
from crsearch.serve.why import Events, Explainer

USERS_KEPT = 512
"""About 20 kB each."""


@dataclass(frozen=True, slots=True)
class KnownUser:
    """Of one user."""

    past: Past
    events: Events


class Known:
    """The users who searched last, with their stored profile and history. One thread only: the event loop's.

    Args:
        prompts: of the catalogue's items.
        explainer: of the same.
        most: users kept.
    """

    def __init__(self, prompts: Prompts, explainer: Explainer, most: int = USERS_KEPT) -> None:
        self._prompts, self._explainer, self._most = prompts, explainer, most
        self._users: OrderedDict[str, KnownUser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def __call__(self, context: Context) -> KnownUser:
        """What is kept of the user of a context, whose profile and history must be the stored ones."""
        found = self._users.get(context.user_id)
        if found is None:
            past, events = self._prompts.past(context), Events(self._explainer, context.history)
            found = self._users[context.user_id] = KnownUser(past, events)
        self._users.move_to_end(context.user_id)
        while len(self._users) > self._most:
            self._users.popitem(last=False)
        return found

    def forget(self, user_id: str) -> int:
        """Drop a user; how many there were."""
        return 0 if self._users.pop(user_id, None) is None else 1
