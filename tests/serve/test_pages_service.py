"""The pages over the real service of a trained tiny run: it fits the protocol, and everything it says can be shown."""

from crsearch.serve.config import ServeConfig
from crsearch.serve.pages import PageService, View, _page, admin_view, runs_view, search_view
from crsearch.serve.service import SearchService
from crsearch.serve.state import State


def shown(view: View, template: str, values: dict[str, object]) -> str:
    """A page as text."""
    return _page(view, template, **values).body.decode()


def test_the_search_page_shows_what_the_service_answers(serving):
    async def work(service: SearchService) -> tuple[State, str, list[str]]:
        assert isinstance(service, PageService)
        user = (await service.users("", 1))[0]
        beside = tuple(await service.systems())[:2]
        state = State(q=user.last_query or "phone", user=user.user_id, systems=beside, sid=(), find="coat", k=5)
        view = View(state, "en", ServeConfig(), False)
        values = await search_view(view, service)
        assert view.status == 200 and values["refusal"] is None
        return state, shown(view, "search.html.jinja", values), [card.found.title for card in values["cards"]]

    state, text, titles = serving(work)
    assert len(titles) == 5 and text.count('class="card"') == 5
    assert all(f'aria-label="{name}"' in text for name in state.systems)
    assert 'id="tree"' in text and f'value="{state.user}" checked' in text


def test_edits_of_the_history_and_filters_reach_the_model(serving):
    async def work(service: SearchService) -> None:
        user = (await service.users("", 1))[0]
        brand = (await service.facets())["brands"][0]
        state = State(q="coat", user=user.user_id, drop=(0,), added=(("lamp", "i1"),), brands=(brand,))
        view = View(state, "zh", ServeConfig(), False)
        values = await search_view(view, service)
        assert view.status == 200
        assert {card.found.brand for card in values["cards"]} <= {brand}
        shown(view, "search.html.jinja", values)

    serving(work)


def test_nothing_to_search_for_and_unknown_users_are_pages_too(serving):
    async def work(service: SearchService) -> None:
        for state in (State(), State(q="\u200b"), State(q="coat", user="nobody"), State(q="coat", systems=("none",))):
            view = View(state, "en", ServeConfig(), False)
            values = await search_view(view, service)
            shown(view, "search.html.jinja", values)
            assert view.status in (200, 422)

    serving(work)


def test_the_admin_page_shows_what_the_service_knows(serving):
    async def work(service: SearchService) -> str:
        await service.search(State(q="coat", mode="fast").request(None))
        view = View(State(), "en", ServeConfig(), False)
        beside = runs_view(await service.runs(), "run", await service.beside("run"))
        return shown(view, "admin.html.jinja", {**admin_view(await service.admin()), **beside})

    text = serving(work)
    assert "v000001" in text and "L3" in text and text.count("<polyline") > 2
    assert "--resume" in text and "All settings are the same." in text
