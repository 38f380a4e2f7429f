"""Searches of a served tiny run: rungs, batches, caches, deadlines, failures."""

import asyncio
import time
from dataclasses import replace

import pytest

from crsearch.models.qwen3 import Qwen3
from crsearch.pipeline.systems import model_searcher
from crsearch.pipeline.workspace import Workspace
from crsearch.records.types import Item
from crsearch.runs import silent
from crsearch.serve.catalogue import CatalogueStore
from crsearch.serve.contract import Answer, Event, Filters, Judgement, Rung, SearchRequest
from crsearch.serve.index import MORE, RUNG_SYSTEMS
from crsearch.serve.jobs import HUNG_SECONDS, Job
from crsearch.serve.problems import Problem

USER = "u00000"
LONG = 10_000
"""The longest deadline, in ms."""


def ask(query: str = "case", **more: object) -> SearchRequest:
    return SearchRequest.model_validate({"query": query, **more})


def ids(answer: Answer) -> list[str]:
    return [item.id for item in answer.items]


def test_a_search_is_what_the_searcher_of_the_run_finds(serving):
    """Oracle: the systems of the table, with the model of transformers, asked with the same context."""

    async def work(service):
        space = Workspace(service.space.run, service.space.settings, silent, service.space.records)
        found = {}
        for mode, evaluated in (("think", "think"), ("fast", "direct")):
            answer = await service.search(ask(user_id=USER, mode=mode, top_k=5))
            searcher = model_searcher(space, "crs", service.final, evaluated)
            context = service.contexts.context(ask(user_id=USER), "case")
            found[mode] = answer, searcher.search([context], 5)[0]
        return found

    for mode, (answer, expected) in serving(work).items():
        assert ids(answer) == list(expected.item_ids), mode
        assert [i.score for i in answer.items] == pytest.approx(list(expected.scores), abs=1e-3)
        assert [i.rank for i in answer.items] == [1, 2, 3, 4, 5]
        assert (answer.reasoning is None) == (mode == "fast")


def test_a_second_search_reads_the_thought_from_the_cache_and_finds_the_same(serving):
    async def work(service):
        service.engine.bundle.model.lm_head.weight.data[service.engine.bundle.close_id] += (
            0.1  # so that thoughts end by themselves
        )
        return [await service.search(ask(user_id=USER, mode="think")) for _ in range(2)]

    first, second = serving(work)
    if first.served_by is Rung.CUT:  # cut thoughts are not kept
        assert second.served_by is Rung.CUT
    else:
        assert (first.served_by, second.served_by) == (Rung.FRESH, Rung.CACHED)
        assert second.reasoning.cached and second.reasoning.text == first.reasoning.text
    assert ids(first) == ids(second)


@pytest.mark.parametrize("modes", [("think", "fast"), ("fast", "think")])
def test_a_cached_thought_and_none_are_one_batch_and_each_search_gets_its_own(serving, modes):
    async def work(service):
        engine, index = service.engine, service.index
        trunk = index.prompts.trunk(service.contexts.context(ask(user_id=USER), "case")).ids
        jobs = {
            (times, mode): Job(index=index, trunk=trunk, mode=mode, deadline=time.monotonic() + 60 + n)
            for times in (1, 2)
            for n, mode in enumerate(modes)
        }
        engine.cache.put(engine._key(jobs[1, "think"]), [7, 8, 9], "", engine.cache.epoch)
        for mode in modes:
            engine.submit(jobs[1, mode])
            await asyncio.to_thread(jobs[1, mode].future.result, 30)
        sizes = engine.decoded.get(2, 0)
        with engine._lock:  # both at once
            engine._waiting += [jobs[2, mode] for mode in modes]
            engine._lock.notify()
        outcomes = {key: await asyncio.to_thread(job.future.result, 30) for key, job in jobs.items()}
        return outcomes, engine.decoded.get(2, 0) - sizes

    outcomes, batches = serving(work)
    assert batches == 1
    for times in (1, 2):
        think, fast = outcomes[times, "think"], outcomes[times, "fast"]
        assert (think.rung, think.thought) == (Rung.CACHED, (7, 8, 9))
        assert (fast.rung, fast.thought) == (Rung.DIRECT, None)
    for mode in modes:
        assert outcomes[1, mode].rows == outcomes[2, mode].rows


def test_alone_and_in_a_batch_the_same_items_come(serving):
    async def work(service):
        users = [p.user_id for p in await service.users("", 12)]
        asked = [ask(user_id=u, mode=mode, top_k=7, deadline_ms=LONG) for u in users for mode in ("think", "fast")]
        together = await asyncio.gather(*(service.search(a) for a in asked))
        sizes = dict(service.engine.decoded)
        service.engine.cache._kept.clear()
        alone = [await service.search(a) for a in asked]
        return together, alone, sizes

    together, alone, sizes = serving(work)
    said = [[a.reasoning and a.reasoning.text for a in answers] for answers in (together, alone)]
    same = [pair for pair, one, other in zip(zip(together, alone, strict=True), *said, strict=True) if one == other]
    assert len(same) > 0.75 * len(alone)  # a machine with much else to do cuts a thought earlier, to keep the deadline
    assert [ids(a) for a, _ in same] == [ids(a) for _, a in same]
    assert max(sizes) > 1


def test_equal_searches_at_the_same_time_are_one(serving):
    async def work(service):
        before = sum(service.engine.decoded.values())
        answers = await asyncio.gather(*(service.search(ask(user_id=USER, mode="think")) for _ in range(100)))
        return answers, sum(service.engine.decoded.values()) - before

    answers, batches = serving(work)
    assert batches == 1
    assert len({a.request_id for a in answers}) == 100
    assert len({tuple(ids(a)) for a in answers}) == 1


def test_a_deadline_too_near_is_answered_without_the_model(serving):
    async def work(service):
        for cost in (service.engine.costs.read, service.engine.costs.beam):
            cost.add(1, 500.0)
        began = time.monotonic()
        answer = await service.search(ask("phone case", user_id=USER, mode="think", deadline_ms=100))
        return answer, time.monotonic() - began

    answer, took = serving(work)
    assert answer.served_by >= Rung.FUSED
    assert answer.degraded == ("deadline",)
    assert answer.items
    assert took < 5


def test_a_model_that_hangs_is_left_behind(serving, monkeypatch):
    """The answer comes by a lower rung at the deadline; the next thread decodes again."""

    async def work(service):
        decode, begun = service.engine._decode, time.monotonic()

        def hang(jobs, todo):
            time.sleep(6)
            return decode(jobs, todo)

        monkeypatch.setattr("crsearch.serve.engine.HUNG_SECONDS", 0.4)
        service.engine._decode = hang
        late = await service.search(ask("phone case", deadline_ms=1_500))
        waited = time.monotonic() - begun
        service.engine._decode = decode
        while service.engine.is_hung:
            await asyncio.sleep(0.02)
        return late, waited, await service.search(ask("phone case", deadline_ms=LONG))

    assert HUNG_SECONDS >= 10
    late, waited, good = serving(work)
    assert late.degraded == ("model_busy",) and late.items
    assert waited < 5
    assert good.served_by <= Rung.DIRECT


def test_a_model_that_breaks_is_not_ready_and_bm25_answers(serving):
    async def work(service):
        broken = service.engine.bundle.model.model.norm.weight
        good = broken.data.clone()
        broken.data.fill_(float("nan"))
        answers = [await service.search(ask(f"phone case {n}", mode="fast")) for n in range(3)]
        unready = service.ready
        broken.data.copy_(good)
        back = await service.search(ask("phone case", mode="fast"))
        return answers, unready, back, service.ready

    answers, unready, back, ready = serving(work)
    assert all(a.degraded == ("model_error",) and a.served_by >= Rung.FUSED and a.items for a in answers)
    assert unready is False
    assert back.served_by is Rung.DIRECT and ready is True


def test_one_request_that_breaks_does_not_take_its_batch_along(serving):
    async def work(service):
        decode = service.engine._decode

        def poison(jobs, todo):
            if any(job.owner == USER for job in jobs):
                raise ValueError("poison")
            return decode(jobs, todo)

        service.engine._decode = poison
        others = [p.user_id for p in await service.users("", 6) if p.user_id != USER]
        asked = [ask(user_id=u, mode="fast") for u in (USER, *others)]
        return await asyncio.gather(*(service.search(a) for a in asked))

    poisoned, *rest = serving(work)
    assert poisoned.degraded == ("model_error",)
    assert {a.served_by for a in rest} == {Rung.DIRECT}


def test_more_than_the_queue_holds_are_refused_with_a_time_to_come_back(serving):
    async def work(service):
        users = [p.user_id for p in await service.users("", 20)]
        found = await asyncio.gather(*(service.search(ask(user_id=u)) for u in users), return_exceptions=True)
        return found, service.metrics.text().decode()

    found, text = serving(work, queue=2, batch=1)
    refused = [f for f in found if isinstance(f, Problem)]
    assert refused and all(p.code == "too_many_requests" and p.retry_after >= 1 for p in refused)
    assert any(isinstance(f, Answer) for f in found)
    assert f"crsearch_rejected_total {len(refused)}.0" in text


def test_filters_hold_on_every_rung(serving):
    async def work(service):
        brand = (await service.facets())["brands"][-1]
        filters = Filters(brands=[brand], price_max=1e6)
        out = []
        for mode in ("think", "fast"):
            out.append(await service.search(ask(user_id=USER, mode=mode, filters=filters.model_dump())))
        service.engine.costs.read.add(1, 1e6)
        out.append(await service.search(ask("case", filters=filters.model_dump())))
        none = await service.search(ask("case", filters={"brands": ["no such brand"]}))
        return brand, out, none

    brand, answers, none = serving(work)
    for answer in answers:
        assert answer.items
        assert {item.brand for item in answer.items} == {brand}
    assert none.items == () and none.degraded == ("filters",)


@pytest.mark.parametrize("rung", RUNG_SYSTEMS)
def test_an_item_of_the_rarest_brand_is_found_however_far_down_a_list_it_stands(serving, rung):
    async def work(service):
        index = service.index
        context = service.contexts.context(ask(user_id=USER), "phone case")
        listed = service.below.ranked(index, context, rung, len(index.catalogue), None).item_ids
        last = index.catalogue[index.catalogue.row(listed[-1])]
        await service.change_items("replace", [replace(last, brand="Rarest")])
        allowed = service.index.allowed(Filters(brands=["rarest"]))
        return listed, [service.below.ranked(service.index, context, rung, k, allowed).item_ids for k in (1, 3)]

    listed, found = serving(work)
    assert len(listed) > 3 * MORE and found == [listed[-1:]] * 2


def test_an_inline_history_takes_the_place_of_the_stored_one(serving):
    async def work(service):
        stored = service.contexts.context(ask(user_id=USER), "case")
        item = service.index.catalogue[0].item_id
        events = [Event(query="phone", clicked=[item, "nobody knows this"], skipped=[])]
        inline = service.contexts.context(ask(user_id=USER, history=[e.model_dump() for e in events]), "case")
        answer = await service.search(ask(user_id=USER, history=[e.model_dump() for e in events]))
        return stored, inline, answer

    stored, inline, answer = serving(work)
    assert inline.profile == stored.profile
    assert [s.query for s in inline.history] == ["phone"] != [s.query for s in stored.history]
    assert answer.truncated["unknown_items"] == 1


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (ask("  \x00 "), "empty_query", "query"),
        (ask("case", user_id="nobody"), "not_found", "user_id"),
        (ask("case", systems=["bm52"]), "unknown_system", "systems"),
        (ask("case", catalogue="v000099"), "catalogue_gone", "catalogue"),
        (ask("case", time="yesterday"), "invalid_request", "time"),
    ],
)
def test_what_cannot_be_answered_says_which_field(serving, request_, code, field):
    async def work(service):
        with pytest.raises(Problem) as problem:
            await service.search(request_)
        return problem.value

    problem = serving(work)
    assert (problem.code, problem.field) == (code, field)
    assert problem.hint or code == "empty_query"


def test_a_stream_begins_with_results_and_ends_with_the_list_of_the_thought(serving):
    async def work(service):
        events = [e async for e in service.stream(ask(user_id=USER, mode="think"))]
        service.engine.cache._kept.clear()
        return events, await service.search(ask(user_id=USER, mode="think"))

    events, whole = serving(work)
    names = [e.name for e in events]
    assert names[0] == "first" and names[-1] == "final" and set(names[1:-1]) == {"thought"}
    assert events[0].data.served_by is Rung.DIRECT
    assert "".join(e.data["text"] for e in events[1:-1]) == whole.reasoning.text
    assert ids(events[-1].data) == ids(whole)


def test_an_item_that_is_removed_during_a_stream_is_not_in_its_final_list(serving):
    async def work(service):
        asked = ask(user_id=USER, mode="think", top_k=5)
        whole = ids(await service.search(asked))
        stream = service.stream(asked)
        assert (await anext(stream)).name == "first"
        await service.remove_items(whole[:1])  # the stream began with the version before
        return whole, [e async for e in stream][-1].data

    whole, final = serving(work)
    assert ids(final)[:4] == whole[1:] and len(ids(final)) == 5 and whole[0] not in ids(final)
    assert [item.rank for item in final.items] == [1, 2, 3, 4, 5]


def test_an_item_that_is_removed_while_a_system_beside_is_asked_is_in_no_list(serving):
    async def work(service):
        asked = ask(user_id=USER, mode="fast", top_k=5, systems=["popularity"])
        whole, beside = await service.search(asked), service.searches._beside

        async def slow(*args):
            found = await beside(*args)
            await service.remove_items([found[0].id, next(i for i in ids(whole) if i != found[0].id)])
            return found

        service.searches._beside = slow
        return whole, await service.search(asked), service.index

    whole, answer, index = serving(work)
    for before, after in ((whole.items, answer.items), (whole.compared["popularity"], answer.compared["popularity"])):
        kept = [item.id for item in before if index.alive_N[index.catalogue.row(item.id)]]
        assert len(kept) < 5 and [(i.id, i.rank) for i in after] == [(i, n) for n, i in enumerate(kept, 1)]


def test_a_reader_who_leaves_frees_the_model(serving):
    async def work(service):
        began = time.monotonic()
        stream = service.stream(ask(user_id=USER, mode="think"))
        assert (await anext(stream)).name == "first"
        assert (await anext(stream)).name in ("thought", "final")
        await stream.aclose()
        await service.search(ask(mode="fast"))
        return time.monotonic() - began, service.engine.waiting

    took, waiting = serving(work)
    assert waiting == 0 and took < 5


def test_the_model_beside_is_one_that_only_decodes(serving):
    async def work(service):
        answer = await service.search(ask(systems=["crs"], mode="think"))
        return answer, service.index.space.builder(service.final).bundle.model

    answer, model = serving(work)
    assert isinstance(model, Qwen3)
    assert [found.id for found in answer.compared["crs"]] == [item.id for item in answer.items]


def test_other_systems_stand_beside(serving):
    async def work(service):
        asked = ask("phone case", user_id=USER, systems=["bm25", "popularity"], top_k=4)
        return await service.search(asked), [e async for e in service.stream(asked)][-1].data

    for answer in serving(work):
        assert set(answer.compared) == {"bm25", "popularity"}
        assert len(answer.compared["popularity"]) == 4


def test_suggestions_begin_with_what_was_typed_and_the_own_history_comes_first(serving):
    async def work(service):
        persona = await service.persona(USER)
        own = persona.history[-1].query
        return own, await service.suggest(own[:2], USER), await service.suggest("zzz"), await service.suggest(own[:2])

    own, mine, nothing, everybody = serving(work)
    assert own in mine and all(s.casefold().startswith(own[:2].casefold()) for s in mine)
    assert nothing == []
    assert set(everybody) != set() or mine


def test_a_query_is_suggested_when_several_users_had_it_and_forgotten_ones_do_not_count(serving):
    async def work(service):
        data = service.space.dataset
        of_user = {search.user_id: search for search in data.training_searches if search.chosen}
        one, other, *_ = sorted(of_user)
        planted = [(one, "zz private"), (one, "ZZ private"), (one, "zz shared"), (other, "Zz  shared")]
        searches = [replace(of_user[user], query=query) for user, query in planted]
        data.__dict__["training_searches"] = (*data.training_searches, *searches)
        before = await service.suggest("zz")
        await service.forget(other)
        return before, await service.suggest("zz")

    assert serving(work) == (["zz shared"], [])


def test_a_forgotten_user_is_a_stranger(serving):
    async def work(service):
        await service.search(ask(user_id=USER, mode="think"))
        await service.forget(USER)
        with pytest.raises(Problem, match="no such user"):
            await service.search(ask(user_id=USER))
        return (
            USER in {p.user_id for p in await service.users("", 100)},
            await service.persona(USER),
            len(service.engine.cache),
        )

    assert serving(work) == (False, None, 0)


def test_nothing_is_kept_of_a_user_who_is_forgotten_during_a_search(serving):
    """While the thought is written, while it waits, and in a stream before it is asked for."""

    async def work(service):
        engine, index, late = service.engine, service.index, time.monotonic() + 60
        close = engine.bundle.close_id
        engine.forbidden = [
            n for n in range(len(service.tokenizer)) if n != close
        ]  # thoughts end by themselves, at once
        contexts = [service.contexts.context(ask(user_id=USER), query) for query in ("case", "phone", "red")]

        async def kept(context, **more):
            trunk = index.prompts.trunk(context).ids
            job = Job(index=index, trunk=trunk, mode="think", deadline=late, owner=USER, **more)
            engine.submit(job)
            if context is contexts[2]:
                engine.drop(USER)
            outcome = await asyncio.to_thread(job.future.result, 30)
            return outcome.rung, len(engine.cache), engine.drop(USER) > 0

        plain = await kept(contexts[0])
        during = await kept(contexts[1], listener=lambda token: engine.drop(USER))
        with engine._lock:  # no job is taken meanwhile
            waiting = await kept(contexts[2])
        stream = service.stream(ask("blue case", user_id=USER, mode="think"))
        assert (await anext(stream)).name == "first"
        await service.forget(USER)
        final = [e async for e in stream][-1].data
        return plain, during, waiting, (final.served_by, len(engine.cache), engine.drop(USER) > 0)

    plain, during, waiting, stream = serving(work)
    assert plain == (Rung.FRESH, 1, True)
    assert during == (Rung.FRESH, 0, False)
    assert waiting == (None, 0, False)
    assert stream[0] >= Rung.FUSED and stream[1:] == (0, False)


def test_a_version_is_never_followed_by_the_one_before(serving):
    """Changes and the look at the disk meet; a look that is out of date must not win."""

    async def work(service):
        seen, stop = [service.index.name], asyncio.Event()

        async def look() -> None:
            while not stop.is_set():
                if seen[-1] != service.index.name:
                    seen.append(service.index.name)
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(look())
        for n in range(6):
            await service.change_items("add", [Item(item_id=f"n{n}", title="phone case glow")])
        await asyncio.sleep(0.6)
        stop.set()
        await watching
        return seen

    seen = serving(work)
    assert seen == sorted(set(seen)) and len(seen) == 7


def test_a_queue_shorter_than_a_batch_is_no_obstacle_to_starting(serving):
    async def work(service):
        return (await service.search(ask(mode="fast"))).served_by

    assert serving(work, queue=3, batch=16) is Rung.DIRECT


def test_the_catalogue_is_looked_at_again_after_a_look_that_broke(serving):
    async def work(service):
        current, broke = service.store.current, []

        def breaks() -> str:
            if not broke:
                broke.append(True)
                raise OSError("the disk is gone for a moment")
            return current()

        service.store.current = breaks
        CatalogueStore(service.run).add([Item(item_id="new", title="phone case glow")])
        for _ in range(60):
            await asyncio.sleep(0.05)
            if service.index.name == "v000002":
                break
        return broke, service.index.name, service.present.last_error

    assert serving(work) == ([True], "v000002", "")


def test_both_lists_of_a_stream_can_be_judged_and_are_one_search(serving):
    async def work(service):
        lists, before = [], service.feedback.counts()  # the run is that of other tests, too
        async for event in service.stream(ask(user_id=USER, mode="think", top_k=5), "r1"):
            if event.name in ("first", "final"):
                lists.append(ids(event.data))
                for item_id in lists[-1]:  # the first list while the thought is being written
                    await service.judge(Judgement(request_id="r1", item_id=item_id, kind="click"))
        after = service.feedback.counts()
        return lists, {kind: after[kind] - before.get(kind, 0) for kind in after}

    (first, final), counts = serving(work)
    assert counts["searches"] == 1
    assert counts["click"] == len({*first, *final}) > 0


def test_equal_contexts_are_one_whatever_form_their_text_is_in(serving):
    """Café composed and decomposed, with a control or a zero-width character: one prompt, which all caches go by."""
    plain = {"query": "case", "place": "Café", "profile": {"città": "Málaga"}, "deadline_ms": 10_000, "mode": "think"}
    history = [{"query": "étui", "place": "Málaga"}]
    twins = [
        {**plain, "history": history},
        {
            **plain,
            "place": "  Cafe\u0301\x00 ",
            "profile": {"citta\u0300": "Ma\u0301laga\u200b", "\u200b": "unseen"},
            "history": [{"query": "e\u0301tui\x1b", "place": "\u202eMa\u0301laga"}],
        },
    ]

    async def work(service):
        answers = [await service.search(SearchRequest.model_validate(body)) for body in twins]
        asked = [service.searches.asked(SearchRequest.model_validate(body), 0.0) for body in twins]
        return answers, asked

    answers, asked = serving(work)
    assert list(asked[0].trunk) == list(asked[1].trunk)
    assert asked[1].context.profile == {"città": "Málaga"} and asked[1].context.place == "Café"
    assert ids(answers[0]) == ids(answers[1])
