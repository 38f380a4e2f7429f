"""What training users choose: for a query, and together. Whoever is asked about is left out of the count.

Without that a teacher would count the very choice that its thought leads to, and state it as if the context said so.

Source: details: this project.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from crsearch.records.types import Search
from crsearch.train.words import words_of

_NEWEST = 500
"""Users looked at per item, those who came to it last: more of them change a share little, and cost time."""


class Habits:
    """Counts over the searches of training users.

    Args:
        searches: of training users only.
    """

    def __init__(self, searches: Iterable[Search]) -> None:
        self._for_query: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._chosen_by: defaultdict[str, dict[str, None]] = defaultdict(dict)
        users: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for search in searches:
            for item in search.chosen:
                self._for_query[_key(search.query)].append((search.user_id, item))
                self._chosen_by[search.user_id][item] = None
                users[item][search.user_id] = None
        self._users_of = {item: tuple(own)[-_NEWEST - 1 :] for item, own in users.items()}

    def for_query(self, query: str, without: str) -> Counter[str]:
        """Item -> times that others chose it for this query.

        Args:
            query: compared by its words.
            without: user who is left out.
        """
        return Counter(item for user, item in self._for_query.get(_key(query), ()) if user != without)

    def chosen_with(self, item: str, without: str) -> dict[str, float]:
        """Other item b -> how often those who chose ``item`` (a) chose b too: ``n_ab / sqrt(n_a + 1)``.

        How often b is chosen at all is not divided by, whoever ranks adds it; ``without`` is in neither count.
        """
        others = [user for user in self._users_of.get(item, ()) if user != without][-_NEWEST:]
        counts = Counter(other for user in others for other in self._chosen_by[user] if other != item)
        return {other: n / (len(others) + 1) ** 0.5 for other, n in counts.items()}


def _key(query: str) -> str:
    return " ".join(words_of(query))
