"""What is kept of users between searches changes no answer, is bounded, and goes when it must."""

from dataclasses import replace

from crsearch.serve.contract import SearchRequest
from crsearch.serve.known import Known

USER = "u00000"


def ask(query: str = "case", **more: object) -> SearchRequest:
    return SearchRequest.model_validate({"query": query, "mode": "fast", **more})


def read(service, request, keeps):
    asked = service.searches.asked(request, 0.0, keeps=keeps)
    explained = [asked.index.explainer(asked.context, "red case", asked.events)(item) for item in asked.index.catalogue]
    return list(asked.trunk), dict(asked.dropped), explained


def test_a_kept_user_is_read_and_explained_as_a_new_one(serving):
    async def work(service):
        for persona in await service.users("", 20):
            for query in ("case", "red phone case", "手机 壳", '"}]}],"now":{', "<a_0>"):
                request = ask(query, user_id=persona.user_id, place=query[::-1])
                assert read(service, request, True) == read(service, request, False)
        return len(service.index.known)

    assert serving(work) == 20


def test_only_searches_with_nothing_but_the_stored_context_are_kept(serving):
    async def work(service):
        kept = []
        for request in (
            ask(),
            ask(user_id=USER, history=[{"query": "phone"}]),
            ask(user_id=USER, profile={"age": "20"}),
            ask(user_id=USER, filters={"price_max": 20.0}),
            ask(user_id=USER),
        ):
            await service.search(request)
            kept.append(len(service.index.known))
        return kept

    assert serving(work) == [0, 0, 0, 0, 1]


def test_a_forgotten_user_is_dropped_and_other_titles_begin_anew(serving):
    async def work(service):
        await service.search(ask(user_id=USER))
        before = service.index.known
        item = service.index.catalogue[0]
        await service.remove_items([item.item_id])
        same = service.index.known is before  # titles and semantic IDs are what they were
        await service.change_items("replace", [replace(service.index.catalogue[1], title="quite another title")])
        other = service.index.known is not before and len(service.index.known) == 0
        await service.search(ask("phone", user_id=USER))
        held = len(service.index.known)
        await service.forget(USER)
        return same, other, held, len(service.index.known)

    assert serving(work) == (True, True, 1, 0)


def test_the_users_who_searched_last_are_kept(serving):
    async def work(service):
        known = Known(service.index.prompts, service.index.explainer, most=3)
        people = [p.user_id for p in await service.users("", 5)]
        contexts = [service.contexts.context(ask(user_id=u), "case") for u in people]
        for at in (0, 1, 2, 0, 3):
            known(contexts[at])
        return list(known._users), people

    kept, people = serving(work)
    assert kept == [people[2], people[0], people[3]]
