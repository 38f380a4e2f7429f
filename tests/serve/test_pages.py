"""The pages as a browser without scripts gets them: escaped, whole, in both languages, nothing inline, one address."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from fake_service import HOSTILE, FakeService, fake_app
from starlette.testclient import TestClient

from crsearch.serve.charts import chart
from crsearch.serve.contract import Persona
from crsearch.serve.pages import STATIC, admin_view, bar, marked, with_chosen
from crsearch.serve.state import State, language
from crsearch.serve.words import LANGUAGES, WORDS

VOID = {"meta", "link", "input", "img", "br", "hr", "base"}


class Tree(HTMLParser):
    """A page as a list of (tag, attributes) and the text of each element, seen as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.raw = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or (self.open and self.open[-1] == tag):
            self.open = self.open[: None if tag in VOID else -1]
        else:
            raise AssertionError(f"</{tag}> closes {self.open[-3:]}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Elements with these attributes; ``_`` stands for ``-``, a last one for nothing."""
        names = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        return [a for t, a in self.found if t == tag and all(a.get(name) == value for name, value in names.items())]


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service):
    with TestClient(fake_app(service), base_url="http://127.0.0.1", headers={"Accept": "text/html"}) as client:
        yield client


def page(client: TestClient, url: str, **headers: str) -> Tree:
    response = client.get(url, headers=headers)
    assert response.status_code == 200, response.text[:300]
    return Tree(response.text)


EVERY = [
    "/",
    "/?lang=zh",
    "/?q=phone+case&user=u00001",
    "/?q=phone+case&user=u00001&system=bm25&system=tfidf&sid=a_0.b_1&lang=zh",
    "/?q=scarf&user=u00005&of=u00005&drop=1&addq=phone&add=i00003&find=kettle&brand=Tonobi&min=5&max=100&cold=1&k=7",
    "/?q=zzz",
    "/?q=phone&user=nobody",
    "/admin",
    "/admin?lang=zh",
]


# -- what a page is ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("url", EVERY)
def test_every_page_is_well_formed_with_nothing_inline_and_nothing_from_elsewhere(client, url):
    response = client.get(url)
    tree = Tree(response.text)
    assert tree.open == []
    for tag, attributes in tree.found:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag != "style"
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
            assert not (attributes.get(name) or "").startswith("//")
    scripts = tree.all("script")
    assert [s["type"] for s in scripts] == ["module"] and scripts[0]["src"].startswith("/static/app.js?v=")
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("url", EVERY)
def test_ids_are_unique_and_every_label_and_description_points_at_one(client, url):
    tree = page(client, url)
    ids = [a["id"] for _, a in tree.found if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in tree.found:
        for name in ("for", "form", "aria-labelledby", "aria-describedby", "aria-controls", "list"):
            assert set((attributes.get(name) or "").split()) <= set(ids), (name, attributes)


@pytest.mark.parametrize(
    ("url", "accepted", "tag"),
    [
        ("/", "zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"),
        ("/", "de, en;q=0.5", "en"),
        ("/", "", "en"),
        ("/?lang=zh", "en", "zh-Hans"),
        ("/?lang=en", "zh", "en"),
        ("/?lang=<b>", "zh", "zh-Hans"),
        ("/admin?lang=zh", "en", "zh-Hans"),
    ],
)
def test_the_language_is_that_of_the_address_or_of_the_browser(client, url, accepted, tag):
    tree = page(client, url, **{"Accept-Language": accepted})
    assert tree.all("html")[0]["lang"] == tag
    shown = WORDS[next(key for key, value in LANGUAGES.items() if value == tag)]
    assert shown["live" if "admin" in url else "history"] in tree.text


def test_both_languages_say_everything_with_the_same_places_to_fill():
    for key, text in WORDS["en"].items():
        assert text.strip() and WORDS["zh"][key].strip()
        places = re.findall(r"\{\w+\}", text)
        assert sorted(places) == sorted(re.findall(r"\{\w+\}", WORDS["zh"][key])), key


def test_the_script_names_only_words_that_exist():
    script = page_file("app.js")
    for key in set(re.findall(r"\bt\.(\w+)", script)) | set(re.findall(r'Fault\("(\w+)"', script)):
        assert key in WORDS["en"], key
    for prefix in set(re.findall(r"t\[`(\w+_)\$", script)):
        assert any(key.startswith(prefix) for key in WORDS["en"]), prefix


def page_file(name: str) -> str:
    return resources.files("crsearch.serve").joinpath("static", name).read_text(encoding="utf-8")


def test_the_script_makes_no_markup_and_runs_no_text():
    script = page_file("app.js")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "localStorage",
        "cookie",
    ):
        assert word not in script, word
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


def test_the_whole_page_weighs_less_than_60_kb_packed(client):
    sizes = {}
    for url in ("/?q=phone+case&user=u00001", *(f"/static/{name}" for name in STATIC)):
        response = client.get(url, headers={"Accept-Encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        sizes[url] = int(response.headers["content-length"])
    assert sum(sizes.values()) < 60_000, sizes


def test_files_are_sent_with_their_type_for_ever_by_their_hash_and_nothing_else_is_sent(client):
    for name, kind in STATIC.items():
        url = f"/static/{name}"
        plain = client.get(url, headers={"Accept-Encoding": "identity"})
        assert plain.headers["content-type"] == kind and plain.headers["cache-control"] == "no-cache"
        packed = client.get(url, headers={"Accept-Encoding": "gzip"})
        assert packed.content == plain.content
    used = re.search(r"/static/app\.js\?v=\w+", client.get("/").text)[0]
    assert "immutable" in client.get(used).headers["cache-control"]
    for name in ("../pages.py", "..%2fpages.py", "%2e%2e/pages.py", "app.js%00", "APP.JS", "nothing"):
        assert client.get(f"/static/{name}").status_code == 404


# -- what it shows ----------------------------------------------------------------------------------------------------
def test_results_are_there_without_a_script(client):
    tree = page(client, "/?q=phone+case&user=u00001")
    assert len(tree.all("li", class_="card")) == 10
    for words in (
        "10 results",
        "40.30",
        "Tonobi",
        "electronics",
        "L0 fresh thought",
        "total 278 ms",
        "Often chose",
        "500 ms budget",
    ):
        assert words in tree.text, words
    paths = [a["data-sid"] for tag, a in tree.found if tag == "a" and "data-sid" in a]
    assert "a_0.b_0.c_8.d_0" in paths and "a_0" in paths


def test_why_an_item_names_the_event_of_the_history_that_it_links_to(client):
    response = client.get("/?q=phone+case&user=u00001")
    tree = Tree(response.text)
    anchors = {a["href"][1:] for tag, a in tree.found if tag == "a" and (a.get("href") or "").startswith("#event-")}
    assert anchors and anchors <= {a["id"] for _, a in tree.found if "id" in a}


def test_words_of_the_query_are_marked_apart_from_those_of_the_context(client):
    raw = page(client, "/?q=phone+case&user=u00001").raw
    assert '<mark class="query">phone</mark>' in raw and '<mark class="context">Tonobi</mark>' in raw


def test_without_a_query_the_page_offers_people_and_searches_nothing(client, service):
    tree = page(client, "/")
    assert len([a for tag, a in tree.found if tag == "a" and "data-user" in a]) == 6
    assert service.searched == []


def test_systems_stand_beside_with_their_moves_and_overlap(client, service):
    tree = page(
        client, "/?q=phone+case&user=u00001&system=bm25&system=tfidf&system=dense&system=popularity&system=crs-direct"
    )
    assert service.searched[-1].systems == ["bm25", "tfidf", "dense", "popularity"]
    assert [a["aria-label"] for a in tree.all("section", class_="list other")] == [
        "bm25",
        "tfidf",
        "dense",
        "popularity",
    ]
    assert "of 10 shared" in tree.text and "only here" in tree.text and re.search("▲\\d", tree.text)


def test_the_tree_shows_the_siblings_of_every_layer(client):
    tree = page(client, "/?sid=a_0.b_1")
    assert {"layer 1", "layer 2", "layer 3"} <= set(re.findall(r"layer \d", tree.text))
    current = [a["data-sid"] for tag, a in tree.found if a.get("aria-current") == "true"]
    assert set(current) == {"a_0", "a_0.b_1"}
    assert "No item has this prefix." in page(client, "/?sid=a_99").text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/?q=zzz", "No item fits these words."),
        ("/?q=phone&brand=nothing", "No item passes the filters."),
        ("/?q=phone&max=1", "Search without filters"),
        ("/?q=phonx", "Did you mean"),
        ("/?q=zzz", "Search by words alone (bm25)"),
        ("/?q=phone&user=nobody", "No user has this id"),
    ],
)
def test_what_finds_nothing_says_why_and_what_else_to_do(client, url, said):
    assert said in page(client, url).text


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [("busy", 429, "Too many searches at once."), ("boom", 500, "The server failed.")],
)
def test_a_refused_search_is_a_page_that_says_so(client, service, fault, status, said):
    service.fault = fault
    response = client.get("/?q=phone")
    assert response.status_code == status
    tree = Tree(response.text)
    assert said in tree.text and "Try now" in tree.text and "secret detail" not in response.text
    assert response.headers.get("retry-after") == ("2" if status == 429 else None)
    assert ("Wait 2 s before the next try." in response.text) == (status == 429)
    assert tree.all("input", id="q", value="phone")


@pytest.mark.parametrize(("fault", "status"), [("busy", 429), ("boom", 500)])
def test_who_wants_no_html_is_refused_in_the_one_shape(client, service, fault, status):
    service.fault = fault
    response = client.get("/?q=phone", headers={"Accept": "*/*"})
    assert response.status_code == status and set(response.json()["error"]) >= {"code", "message", "hint", "request_id"}
    service.fault = None
    long = client.get("/?q=phone&brand=" + "x" * 600, headers={"Accept": "application/json"})
    assert long.status_code == 422 and long.json()["error"]["code"] == "invalid_request"
    assert client.get("/?q=phone", headers={"Accept": "*/*"}).headers["content-type"].startswith("text/html")


def test_a_value_longer_than_the_contract_allows_is_refused_not_an_error(client):
    assert client.get("/?q=phone&brand=" + "x" * 600).status_code == 422
    assert client.get("/?q=phone&find=" + "x" * 600).status_code == 200


# -- the form, without a script ---------------------------------------------------------------------------------------
def sent_by(tree: Tree) -> list[tuple[str, str]]:
    """What a browser sends for the form as it stands."""
    pairs = []
    for tag, a in tree.found:
        if tag != "input" or not a.get("name") or a.get("type") in ("submit", "password"):
            continue
        if a.get("type") in ("checkbox", "radio") and "checked" not in a:
            continue
        pairs.append((a["name"], a.get("value") or ""))
    selected = re.search(r"<option selected>(\d+)", tree.raw)
    return [*pairs, ("k", selected[1] if selected else "10")]


@pytest.mark.parametrize("url", [url for url in EVERY if "nobody" not in url and "admin" not in url])
def test_the_form_sends_the_state_that_the_page_was_made_from(client, url):
    response = client.get(url)
    tree = Tree(response.text)
    before = State.read(list(dict_pairs(url)))
    after = State.read(sent_by(tree))
    assert after == replace(before, sid=None)


def dict_pairs(url: str) -> list[tuple[str, str]]:
    return parse_qsl(url.partition("?")[2], keep_blank_values=True)


def test_events_are_set_aside_put_back_and_added_by_links(client, service):
    tree = page(client, "/?q=phone+case&user=u00001")
    aside = next(a["href"] for tag, a in tree.found if a.get("data-drop") == "2")
    tree = page(client, aside)
    request = service.searched[-1]
    assert request.user_id == "u00001" and len(request.history) == 5
    back = next(a["href"] for tag, a in tree.found if a.get("data-back") == "2")
    page(client, back)
    assert service.searched[-1].history is None
    more = next(a["href"] for tag, a in tree.found if a.get("data-add"))
    tree = page(client, more)
    assert len(service.searched[-1].history) == 6 and service.searched[-1].history[-1].query == "phone case"
    assert "added by you" in tree.text
    less = next(a["href"] for tag, a in tree.found if a.get("data-less") == "0")
    page(client, less)
    assert len(service.searched[-1].history) == 5


def test_edits_of_one_user_do_not_pass_to_the_next(client, service):
    page(client, "/?q=phone&user=u00002&of=u00001&drop=0&addq=x&add=i00001")
    assert service.searched[-1].history is None


def test_without_history_the_profile_is_still_the_users(client, service):
    page(client, "/?q=phone&user=u00001&cold=1")
    assert service.searched[-1].history == [] and service.searched[-1].user_id == "u00001"


# -- the address ------------------------------------------------------------------------------------------------------
def test_the_address_gives_back_the_state_that_it_was_made_of():
    state = State(
        q="a & b?#%é 手机", user="u+1/2", mode="think", k=33, systems=("bm25", "x y"), brands=("杭织", "&"),
        categories=("a=b",), price_min=1.5, price_max=20.0, cold=True, drop=(0, 3), added=(("q1", "i=1"), ("", "i2")),
        find="f", sid=("<a_1>", "<b_2>"), lang="zh",
    )  # fmt: skip
    assert State.read(dict_pairs(state.url())) == state
    assert State.read([]) == State() and State().url() == "/"
    assert State.read(dict_pairs(State(sid=()).url())) == State(sid=())


@pytest.mark.parametrize(
    ("pairs", "name", "value"),
    [
        ([("k", "0")], "k", 10),
        ([("k", "101")], "k", 10),
        ([("k", "１２")], "k", 10),
        ([("k", "-5")], "k", 10),
        ([("mode", "FAST")], "mode", "auto"),
        ([("min", "nan")], "price_min", None),
        ([("min", "inf")], "price_min", None),
        ([("max", "-1")], "price_max", None),
        ([("drop", "1"), ("drop", "x"), ("drop", "0"), ("drop", "1"), ("of", "")], "drop", (0, 1)),
        ([("add", "i1")], "added", ()),
        ([("brand", "")], "brands", ()),
        ([("as", " u2 "), ("user", "u1")], "user", "u2"),
        ([("sid", "..a_1..")], "sid", ("<a_1>",)),
        ([("system", f"s{n}") for n in range(9)], "systems", ("s0", "s1", "s2", "s3")),
    ],
)
def test_values_that_do_not_fit_fall_back(pairs, name, value):
    assert getattr(State.read(pairs), name) == value


def test_the_browsers_languages_are_read_in_its_order():
    assert language("", "en;q=0.1, zh;q=0.2", LANGUAGES) == "zh"
    assert language("", ";;q=x,,zh;q=", LANGUAGES) == "zh"


# -- foreign text -----------------------------------------------------------------------------------------------------
HOSTILE_URLS = [
    "/?q={}",
    "/?q=phone+case&user={}",
    "/?q=phone&brand={}&category={}&system={}&k={}&mode={}&min={}&max={}&lang={}",
    "/?q=phone&find={}&sid={}",
    "/?q=phone&of=&addq={}&add={}&drop={}",
    "/admin?lang={}",
]


@pytest.mark.parametrize("url", HOSTILE_URLS)
@pytest.mark.parametrize(
    "payload", [*HOSTILE, "'\" autofocus onfocus=window.__hit=1 x='", "</script>", "javascript:alert(1)"]
)
def test_what_an_address_says_never_becomes_markup(client, url, payload):
    response = client.get(url.replace("{}", quote(payload)))
    assert response.status_code in (200, 422)
    tree = Tree(response.text)
    assert tree.open == []
    assert not {"img", "i", "b-x"} & {tag for tag, _ in tree.found}
    assert len(tree.all("script")) == 1
    for _, attributes in tree.found:
        assert not any(name.startswith("on") for name in attributes), attributes
        assert not (attributes.get("href") or "").lower().startswith("javascript")


def test_hostile_titles_and_users_are_shown_as_text_without_what_acts(client):
    response = client.get("/?q=phone+case&user=u6%3Cb%3E%E2%80%AE&k=100")
    tree = Tree(response.text)
    assert not {"img", "i"} & {tag for tag, _ in tree.found}
    assert "<img src=x onerror=window.__hit=1>" in " ".join("".join(tree.texts).split())
    without_data = re.sub(r' data-(answer|persona|words|added)="[^"]*"', "", response.text)
    without_values = re.sub(r' (value|href|data-user|data-id|data-add)="[^"]*"', "", without_data)
    for character in "\u202e\u2066\x00\x1b\ufeff":
        assert character not in without_values, ascii(character)


def test_the_data_for_the_script_is_what_was_answered(client):
    tree = page(client, "/?q=phone+case&user=u6%3Cb%3E%E2%80%AE&k=100")
    holder = next(a for _, a in tree.found if "data-answer" in a)
    titles = [item["title"] for item in json.loads(holder["data-answer"])["items"]]
    assert HOSTILE[3] in titles
    persona = next(a for _, a in tree.found if "data-persona" in a)
    assert json.loads(persona["data-persona"])["user_id"] == "u6<b>\u202e"


def test_lone_halves_of_characters_do_no_harm(client, service):
    service.items["i00000"]["title"] = "phone case \ud800"
    assert client.get("/?q=phone+case&k=50").status_code == 200


@pytest.mark.parametrize("word", ["(", "[a-z]+", "\\", "a|b", "^$", "."])
def test_words_to_mark_are_words_and_no_patterns(word):
    assert "".join(piece for piece, _ in marked(f"x {word} y abc", (word,))) == f"x {word} y abc"


# -- keys -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["/?q=phone&user=u00001", "/admin"])
def test_with_keys_a_page_without_one_asks_for_it_and_holds_no_data(url, monkeypatch, service):
    monkeypatch.setenv("CRSEARCH_SEARCH_KEY", "s3cret-s3cret-s3cret")
    monkeypatch.setenv("CRSEARCH_ADMIN_KEY", "boss-boss-boss-boss")
    client = TestClient(fake_app(service), base_url="http://127.0.0.1", headers={"Accept": "text/html"})
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "s3cret-s3cret-s3cret"},
        {"Authorization": "Bearer "},
    ):
        response = client.get(url, headers=headers)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert "u00001" not in Tree(response.text).text and "unlock" in response.text
        assert "s3cret-s3cret-s3cret" not in response.text
    assert client.get(url, headers={"Accept": "*/*"}).json()["error"]["code"] == "unauthorized"
    assert client.get("/static/nothing").status_code == 401 and client.get("/static/app.js").status_code == 200
    assert service.searched == []
    assert client.get(url, headers={"Authorization": "Bearer boss-boss-boss-boss"}).status_code == 200
    own = client.get(url, headers={"Authorization": "Bearer s3cret-s3cret-s3cret"}).status_code
    assert own == (401 if url == "/admin" else 200)


# -- the admin page ---------------------------------------------------------------------------------------------------
def test_the_admin_page_shows_versions_load_rungs_metrics_and_curves(client):
    tree = page(client, "/admin")
    for words in ("v4", "in use", "refused", "a_0", "0.667", "388", "301 ms", "36%", "align", "ready", "9f2c41d0"):
        assert words in tree.text, words
    assert len(tree.all("svg", role="img")) == 2
    assert tree.all("button", id="roll-back", data_version="v3")


def test_an_admin_page_of_nothing_known_still_stands(client, service):
    async def nothing() -> dict[str, Any]:
        return {}

    service.admin = nothing
    tree = page(client, "/admin")
    assert "–" in tree.text and "not ready" in tree.text and tree.open == []


def test_rows_of_which_only_some_values_are_known_are_shown(client, service):
    async def some() -> dict[str, Any]:
        return {
            "health": {"checks": [{"name": "model"}]},
            "catalogue": {"versions": [{"name": "v000001"}], "previous": None},
            "sids": {"buckets": [{"token": "<a_1>", "items": 3}]},
            "rungs": [{"rung": "L0"}, {"rung": "L9"}],
            "metrics": {"parts": {"beam": {}, "new": {"p50_ms": 1.0}}},
            "slow": [{"query": "ab"}],
            "curves": [{"title": "t", "lines": []}],
        }

    service.admin = some
    tree = page(client, "/admin")
    assert "v000001" in tree.text and "L9" in tree.text and tree.open == []


def test_shares_of_rungs_add_up_and_buckets_are_measured_by_the_fullest():
    view = admin_view({
        "rungs": [{"rung": "L0", "answers": 1}, {"rung": "L3", "answers": 3}],
        "sids": {"buckets": [{"token": "<a_0>", "items": 4}, {"token": "<a_1>", "items": 1}]},
    })  # fmt: skip
    assert [rung["share"] for rung in view["rungs"]] == [0.25, 0.75]
    assert [bucket["width"] for bucket in view["sids"]["buckets"]] == [100.0, 25.0]


@pytest.mark.parametrize(
    "points",
    [
        [[0, 1.0]],
        [[0, 2.0], [1, 2.0]],
        [[0, float("nan")], [1, 3.0]],
        [[0, -1e9], [5, 1e-9]],
        [[n, n] for n in range(999)],
    ],
)
def test_a_chart_stays_in_its_frame(points):
    drawn = chart({"title": "t", "x": "", "y": "", "lines": [{"name": "a", "points": points}]})
    pairs = [tuple(map(float, pair.split(","))) for pair in drawn.curves[0].points.split()]
    assert 1 <= len(pairs) <= 200
    assert all(0 <= x <= 360 and 0 <= y <= 180 for x, y in pairs)
    assert len(drawn.y_ticks) >= 2


def test_a_chart_without_a_finite_point_is_none():
    assert chart({"title": "t", "lines": [{"name": "a", "points": [[0, float("nan")]]}]}) is None
    assert chart({"title": "t", "lines": []}) is None


def test_the_bar_of_times_is_never_wider_than_itself():
    for timings in (
        {},
        {"total": 0.0},
        {"beam": 5.0},
        {"beam": 5.0, "total": 3.0},
        {"queue": 1e-9, "beam": 1.0, "total": 9.0},
    ):
        parts = bar(timings)
        assert sum(part["width"] for part in parts) == pytest.approx(100 if parts else 0, abs=0.05)


def test_a_persona_is_offered_once():
    a, b = (Persona(user_id=name, profile={}, events=0) for name in "ab")
    assert with_chosen([a], a) == [a] and with_chosen([a], b) == [a, b] and with_chosen([a], None) == [a]


def test_packed_pages_are_the_same_pages(client):
    plain = client.get("/", headers={"Accept-Encoding": "identity"})
    packed = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert plain.text == packed.text and "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < len(plain.content)


def test_the_admin_page_shows_a_run_beside_and_what_the_self_test_found(client, service):
    tree = page(client, "/admin?run=no%20%3Cb%3Enoise")
    assert "simulate.analyst_noise" in tree.text and "--resume" in tree.text and HOSTILE[0] in tree.text
    assert "Not run since this process began." in tree.text
    assert [a["aria-current"] for a in tree.all("a") if "aria-current" in a] == ["true"]
    assert "There is no such run here." in page(client, "/admin?run=..").text
    client.post("/v1/admin/self-test", json={})
    tree = page(client, "/admin?lang=zh")
    assert "1 个不符合预期" in tree.text and "A7-<b>" in tree.text
    assert any("run=demo" in (a["href"] or "") and "lang=zh" in a["href"] for a in tree.all("a"))
