from crsearch.evaluate.groups import head_items, query_groups
from crsearch.records.types import Context, Example, Search


def example(search_id, searches, target):
    history = tuple(Search(search_id=f"{search_id}-{n}", user_id="u", time=n, query="q") for n in range(searches))
    context = Context(search_id=search_id, user_id="u", query="q", history=history)
    return Example(context=context, target=target, part="test")


def test_queries_are_grouped_by_history_target_and_kind():
    examples = [example("s1", 0, "a"), example("s2", 1, "b"), example("s3", 5, "a"), example("s4", 6, "never")]
    assert query_groups(examples, {"a": 6, "b": 5}, {"s1": "bare", "s2": "full", "s3": "full"}) == {
        "history": ("cold", "medium", "medium", "warm"),
        "target": ("head", "tail", "head", "tail"),
        "query_kind": ("bare", "full", "full", "unknown"),
    }


def test_without_kinds_there_is_no_such_column():
    assert list(query_groups([], {})) == ["history", "target"]


def test_head_items_are_the_fewest_that_hold_half_of_the_choices():
    assert head_items({"a": 2, "b": 2, "c": 2, "d": 1}) == {"a", "b"}
    assert head_items({"b": 1, "a": 1}) == {"a"}
    assert head_items({"a": 3, "b": 0}, share=1.0) == {"a"}
