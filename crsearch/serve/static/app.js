// The search page made livelier: streamed thoughts, moves of ranks, an editable history, a tree to browse.
// Without this file the same page works by forms and links. Foreign text enters the document as text nodes only.

// -- small tools -----------------------------------------------------------------------------------------------------
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let t = {};
const fill = (text, values) => Object.entries(values).reduce((out, [name, value]) => out.replaceAll(`{${name}}`, value), text);

/** An element with attributes and children; strings become text. */
function h(tag, attributes = {}, ...children) {
  const made = ["svg", "rect"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const SPACE = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gu;
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/gu;
/** Foreign text on one line without characters that act instead of being seen; as report.render.shown. */
function clean(value, longest = 512) {
  const text = String(value).replace(SPACE, " ").replace(/^ | $/g, "").replace(UNSEEN, "\ufffd"); // trim() would take U+FEFF too
  if (text.length <= longest) return text;
  const points = Array.from(text);
  return points.length <= longest ? text : points.slice(0, longest).join("") + " …";
}
const bdi = (value, longest) => h("bdi", { dir: "auto" }, clean(value, longest));
/** Milliseconds as seconds, short ones with a digit more. */
const seconds = (ms) => (ms / 1000).toFixed(ms < 95 ? 2 : 1);
const soft = (...children) => h("span", { class: "soft" }, ...children);
const code = (token) => clean(String(token).replace(/^[<>]+|[<>]+$/g, ""), 40);
const price = (value) => value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const day = (time) => { const text = clean(time ?? "", 40); return /^\d{4}-\d\d-\d\d(T|\s|$)/.test(text) ? text.slice(0, 10) : text; };
const interleave = (nodes, between) => nodes.flatMap((node, place) => (place ? [between(), node] : [node]));

/** A title in text and marks, words of the query told from words of the rest of the context. */
function marked(title, asked, known) {
  const whole = (word) => (/^[A-Za-z0-9]/.test(word) ? "(?<![A-Za-z0-9])" : "") + word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&") + (/[A-Za-z0-9]$/.test(word) ? "(?![A-Za-z0-9])" : "");
  const found = [...asked, ...known].filter(Boolean).sort((a, b) => b.length - a.length).map(whole).join("|");
  const out = h("bdi", { dir: "auto" });
  const pieces = found ? clean(title).split(new RegExp(`(${found})`, "giu")) : [clean(title)];
  const ofQuery = new Set(asked.map((word) => word.toLowerCase()));
  pieces.forEach((piece, place) => piece && out.append(place % 2 ? h("mark", { class: ofQuery.has(piece.toLowerCase()) ? "query" : "context" }, piece) : piece));
  return out;
}

// -- the state is the address ----------------------------------------------------------------------------------------
const MODES = ["auto", "think", "fast"];
let state, persona = null, answer = null, before = null, running = null, attempts = 0;
const titles = new Map(), answers = new Map(), judged = new Map(), nodes = new Map();

function readAddress() {
  const from = new URLSearchParams(location.search);
  const last = (name) => from.getAll(name).at(-1) ?? "";
  const whole = (text, low, high) => (/^\d{1,9}$/.test(text) && +text >= low && +text <= high ? +text : null);
  const bound = (text) => (text !== "" && Number.isFinite(+text) && +text >= 0 ? +text : null);
  const listed = (name) => [...new Set(from.getAll(name).filter(Boolean))].slice(0, 50);
  const user = last("as").trim() || last("user").trim();
  const edited = last("of") === user;
  const [queries, items] = [from.getAll("addq"), from.getAll("add")];
  return {
    q: last("q"), user, mode: MODES.includes(last("mode")) ? last("mode") : "auto", k: whole(last("k"), 1, 100) ?? 10,
    systems: listed("system").slice(0, 4), brands: listed("brand"), categories: listed("category"), min: bound(last("min")), max: bound(last("max")),
    cold: last("cold") === "1", drop: edited ? from.getAll("drop").map((n) => whole(n, 0, 9999)).filter((n) => n !== null) : [],
    added: edited ? queries.map((query, n) => [query, items[n]]).filter((pair) => pair[1]) : [],
    find: last("find"), sid: from.has("sid") ? last("sid") : null, lang: last("lang"),
  };
}

function address(of = state, path = "/") {
  const to = new URLSearchParams();
  const put = (name, value) => { if (value !== "" && value !== null) to.append(name, value); };
  put("q", of.q); put("user", of.user); put("mode", of.mode === "auto" ? "" : of.mode); put("k", of.k === 10 ? "" : of.k);
  for (const [name, values] of [["system", of.systems], ["brand", of.brands], ["category", of.categories]]) values.forEach((value) => put(name, value));
  put("min", of.min); put("max", of.max); put("cold", of.cold ? "1" : ""); put("find", of.find); put("lang", of.lang);
  if (of.drop.length || of.added.length) to.append("of", of.user);
  of.drop.forEach((n) => to.append("drop", n));
  of.added.forEach(([query, item]) => { to.append("addq", query); to.append("add", item); });
  if (of.sid !== null) to.append("sid", of.sid);
  return to.size ? `${path}?${to}` : path;
}
/** What the answer depends on. */
const asked = () => address({ ...state, sid: null, find: "", lang: "" });
const filtered = () => state.brands.length + state.categories.length + (state.min !== null) + (state.max !== null);

/** Form -> state, but for the user, who is switched by itself. */
function readForm() {
  const data = new FormData($("search"));
  const bound = (name) => { const text = data.get(name) ?? ""; return text !== "" && +text >= 0 ? +text : null; };
  Object.assign(state, {
    q: data.get("q"), mode: data.get("mode") ?? "auto", k: +data.get("k"), systems: data.getAll("system").slice(0, 4),
    brands: data.getAll("brand"), categories: data.getAll("category"), min: bound("min"), max: bound("max"), cold: data.has("cold"),
  });
}

/** State -> form and links. */
function writeForm() {
  const form = $("search");
  if (form.elements.q.value !== state.q) form.elements.q.value = state.q;
  for (const box of form.elements) {
    if (box.name === "mode") box.checked = box.value === state.mode;
    if (box.name === "user") box.checked = box.value === (persona ? persona.user_id : "");
    if (["system", "brand", "category"].includes(box.name)) box.checked = { system: state.systems, brand: state.brands, category: state.categories }[box.name].includes(box.value);
    if (box.name === "system") box.disabled = !box.checked && state.systems.length >= 4;
  }
  if (![...form.elements.k.options].some((option) => option.text === String(state.k))) form.elements.k.append(h("option", {}, String(state.k)));
  form.elements.k.value = String(state.k);
  form.elements.min.value = state.min ?? "";
  form.elements.max.value = state.max ?? "";
  $("cold").checked = state.cold;
  $("edits").replaceChildren();
  for (const [id, count] of [["filters", filtered()], ["beside", state.systems.length]]) {
    const summary = $(id)?.querySelector("summary");
    summary?.replaceChildren(t[id], ...(count ? [" ", h("b", {}, String(count))] : []));
  }
  $("as-who").replaceChildren(bdi(persona ? persona.user_id : t.stranger, 80));
  for (const link of document.querySelectorAll("[data-language]")) link.href = address({ ...state, lang: link.dataset.language });
  document.title = (state.q ? `${clean(state.q, 80)} – ` : "") + "crsearch";
}

// -- asking the server -----------------------------------------------------------------------------------------------
const KEY = "crsearch.key";
class Fault extends Error {
  constructor(kind, { seconds = null, more = "", again = true } = {}) { super(kind); Object.assign(this, { kind, seconds, more, again }); }
}

async function ask(path, { body, signal, accept = "application/json" } = {}) {
  const headers = { Accept: accept };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new Fault("fault_down");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

async function refused(response) {
  const problem = (await response.json().catch(() => ({}))).error ?? {};
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  return fault(problem, response.status, Number.isFinite(seconds) ? Math.min(seconds, 300) : null);
}

function fault(problem, status, seconds = null) {
  const more = clean([problem.message, problem.hint].filter(Boolean).join(". "), 300);
  if (status === 429 || problem.code === "too_many_requests") return new Fault("fault_busy", { seconds });
  if (status === 401 || status === 403) return new Fault("fault_key", { again: false });
  if (status === 503 || problem.code === "not_ready") return new Fault("fault_down", { seconds, more });
  if (status >= 500 || problem.code === "internal") return new Fault("fault_internal", { seconds });
  return Object.assign(new Fault("", { more: more || t.fault_internal, again: false }), { status });
}
const askJson = async (path, options) => (await ask(path, options)).json();

function requestBody() {
  const body = { query: state.q, top_k: state.k, mode: state.mode, filters: { brands: state.brands, categories: state.categories, price_min: state.min, price_max: state.max }, systems: state.systems };
  if (persona) body.user_id = persona.user_id;
  if (state.cold) body.history = [];
  else if (state.drop.length || state.added.length) {
    const ids = (pairs) => pairs.map(([id]) => id);
    const kept = (persona?.history ?? []).filter((_, place) => !state.drop.includes(place));
    body.history = [
      ...kept.map((event) => ({ query: event.query, clicked: ids(event.clicked), skipped: ids(event.skipped), time: event.time, place: event.place })),
      ...state.added.map(([query, item]) => ({ query, clicked: [item] })),
    ];
  }
  return body;
}

/** Server-sent events of a response: [name, data]; ``alive`` is called for every piece. */
async function* events(response, alive) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    held += value.replaceAll("\r\n", "\n");
    for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
      const block = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      const name = block.find((line) => line.startsWith("event:"))?.slice(6).trim() ?? "message";
      const data = block.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      if (data) yield [name, JSON.parse(data)];
    }
  }
}

// -- one search ------------------------------------------------------------------------------------------------------
const SLOW_MS = 1000, STALL_MS = 15000, WAITS = [2, 4, 8, 15, 30];

function go({ push = true } = {}) {
  const url = asked();
  if (push) {
    const whole = address();
    if (whole !== location.pathname + location.search) history.pushState(null, "", whole);
  }
  writeForm();
  drawContext();
  if (running?.url === url) return;
  attempts = 0;
  search(url);
}

function cancel() {
  running?.abort.abort(new Fault("cancelled"));
  running = null;
}

async function search(url) {
  cancel();
  hideNotice();
  if (!state.q.trim()) return;
  const me = (running = { url, abort: new AbortController(), first: null, began: 0 });
  const mine = () => running === me;
  $("answer").classList.add("stale");
  $("answer").classList.toggle("waiting", !answer); // what stands below makes room at once, not when results come
  $("main").setAttribute("aria-busy", "true");
  say(t.searching);
  const slow = setTimeout(() => mine() && !me.first && notice(t.slow, { mild: true, actions: [[t.cancel, stopped]] }), SLOW_MS);
  let stall;
  const alive = () => { clearTimeout(stall); stall = setTimeout(() => me.abort.abort(new Fault("fault_stall")), STALL_MS); };
  const stopped = () => { cancel(); settled(slow, stall); notice(t.cancelled, { mild: true }); };
  alive();
  try {
    const think = state.mode !== "fast";
    const response = await ask(think ? "/v1/search/stream" : "/v1/search", { body: requestBody(), signal: me.abort.signal, accept: think ? "text/event-stream" : "application/json" });
    if (!response.headers.get("Content-Type")?.includes("event-stream")) {
      const final = await response.json();
      if (mine()) finish(me, final);
    } else {
      let final = null;
      for await (const [name, data] of events(response, alive)) {
        if (!mine()) return;
        if (name === "first") begin(me, data, slow);
        else if (name === "thought") thought(me, data.text);
        else if (name === "final") finish(me, (final = await withBeside(me, data)));
        else if (name === "error") throw fault(data.error ?? {}, 0, data.error?.retry_after ?? null);
      }
      if (!final && mine()) throw new Fault("fault_cut");
    }
    if (mine()) { attempts = 0; settled(slow, stall); running = null; hideNotice({ keep: "offer" }); }
  } catch (error) {
    if (!mine()) return;
    settled(slow, stall);
    running = null;
    const known = error instanceof Fault ? error : me.first ? new Fault("fault_cut") : new Fault("fault_down");
    if (me.first) endThought(me);
    failed(known, url);
  } finally {
    clearTimeout(slow);
    clearTimeout(stall);
  }
}

function settled(...timers) {
  timers.forEach(clearTimeout);
  $("answer").classList.remove("stale", "waiting");
  $("main").removeAttribute("aria-busy");
}

/** An answer with the lists of the systems that were asked for, where the stream left them out. */
async function withBeside(me, final) {
  const missing = state.systems.some((name) => !final.compared?.[name]);
  if (!missing || !final.items.length) return final;
  try {
    const other = await askJson("/v1/search", { body: { ...requestBody(), mode: "fast" }, signal: me.abort.signal });
    return { ...final, compared: other.compared };
  } catch {
    return final;
  }
}

/** First results: drawn at once. */
function begin(me, data, slow) {
  me.first = data;
  settled(slow);
  hideNotice();
  baseline(data.query);
  me.pending = state.mode !== "fast";
  draw(data, { pending: me.pending });
  me.shown = performance.now();
  say(`${counted(data)}. ${me.pending ? t.first : ""}`);
}

function thought(me, piece) {
  me.began ||= performance.now();
  const place = document.querySelector("#answer .thought bdi");
  place?.append(String(piece).replace(UNSEEN, "\ufffd"));
  const timer = document.querySelector("#answer .note summary .soft");
  if (timer) timer.textContent = fill(t.thought_for, { s: seconds(performance.now() - me.began) });
}

function endThought() {
  document.querySelector("#answer .thinking")?.classList.remove("thinking");
  const timer = document.querySelector("#answer .note summary .soft");
  if (timer?.textContent === t.thinking) timer.textContent = "";
}

/** The last answer: shown, or offered where the reader is busy with the list. */
function finish(me, final) {
  keep(me.url, final);
  if (!me.first) {
    baseline(final.query);
    draw(final);
    say(counted(final));
    return remember(final);
  }
  const order = (data) => data.items.map((item) => item.id);
  const [old, now] = [order(me.first), order(final)];
  const moved = now.filter((id, place) => old[place] !== id).length;
  before ??= { query: final.query, ids: old };
  if (before.query !== final.query) before = { query: final.query, ids: old };
  const apply = () => {
    if (answer !== me.first && answer !== final) return;
    hideNotice();
    draw(final, { flow: true });
    remember(final);
    say(moved ? fill(t.shown_reasoned, { n: moved }) : t.reasoned_same);
  };
  if (!moved || !reading(me.shown)) return apply();
  drawHead(final, true);
  say(fill(t.reasoned_ready, { n: moved }));
  notice("", { mild: true, kind: "offer", actions: [[fill(t.reasoned_ready, { n: moved }), () => { apply(); $("main").focus({ preventScroll: true }); }]] });
}

let scrolled = -1e9;
/** Whether somebody points at the list, is within it, or has scrolled since it was there. */
const reading = (since) => {
  const list = document.querySelector("#answer .lists");
  return Boolean(list && (list.matches(":hover") || list.contains(document.activeElement))) || scrolled > since + 100;
};

/** What moves are counted from: the answer before, for the same words. */
function baseline(query) {
  if (before && before.query !== query) before = null;
  if (answer && answer.query === query && !running?.first_drawn) before = { query, ids: answer.items.map((item) => item.id) };
  if (running) running.first_drawn = true;
}
const remember = (final) => { try { sessionStorage.setItem("crsearch.before", JSON.stringify({ query: final.query, ids: final.items.map((item) => item.id) })); } catch { /* a full or closed store: moves start anew */ } };
function keep(url, final) {
  answers.delete(url);
  answers.set(url, final);
  if (answers.size > 20) answers.delete(answers.keys().next().value);
}
const counted = (data) => `${data.items.length ? fill(t.num_results, { n: data.items.length }) : t.zero} ${t.results_for} ${clean(data.query, 80)}`;

// -- messages --------------------------------------------------------------------------------------------------------
let ticking = 0;
const say = (text) => { $("said").textContent = text; };

function notice(text, { mild = false, kind = "", actions = [], more = null } = {}) {
  clearInterval(ticking);
  const box = $("notice");
  box.hidden = false;
  box.dataset.kind = kind;
  box.classList.toggle("mild", mild);
  $("notice-text").replaceChildren(text, ...(more ? [" ", soft(more)] : []));
  $("notice-do").replaceChildren(...actions.map(([label, act]) => { const button = h("button", { type: "button" }, label); button.addEventListener("click", act); return button; }));
}
function hideNotice({ keep: kept = null } = {}) {
  const box = $("notice");
  if (kept && box.dataset.kind === kept) return;
  clearInterval(ticking);
  box.hidden = true;
  $("notice-text").replaceChildren();
  $("notice-do").replaceChildren();
}

function failed(error, url) {
  say("");
  if (error.kind === "fault_key") return askKey(() => search(url));
  const text = error.kind ? t[error.kind] : "";
  const kept = answer ? t.kept : "";
  const again = () => { clearInterval(ticking); search(url); };
  if (!error.again) return notice(error.more, { more: kept });
  const auto = attempts < WAITS.length;
  let left = error.seconds ?? WAITS[Math.min(attempts, WAITS.length - 1)];
  attempts += 1;
  const count = h("span", { "aria-hidden": "true" }, fill(t.retry_in, { s: left }));
  notice(text, { more: [error.more, kept].filter(Boolean).join(" "), actions: [[t.retry, again], ...(auto ? [[t.stop, () => { clearInterval(ticking); count.remove(); }]] : [])] });
  if (!auto) return;
  $("notice-do").prepend(count);
  ticking = setInterval(() => {
    left -= 1;
    count.textContent = fill(t.retry_in, { s: Math.max(left, 0) });
    if (left <= 0) again();
  }, 1000);
}

function askKey(then) {
  notice(t.fault_key, { more: answer ? t.kept : "" });
  const box = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": t.key });
  const form = h("form", {}, box, " ", h("button", {}, t.unlock));
  form.addEventListener("submit", (event) => { event.preventDefault(); sessionStorage.setItem(KEY, box.value); hideNotice(); then(); });
  $("notice-do").append(form);
  box.focus();
}

// -- drawing an answer -----------------------------------------------------------------------------------------------
function draw(data, { pending = false, flow = false } = {}) {
  answer = data;
  streamed ||= pending; // a note that grew keeps its room
  data.items.forEach((item) => titles.set(item.id, item.title));
  const was = flow && !calm.matches ? places() : null;
  const head = headOf(data, pending);
  const body = data.items.length ? listsOf(data) : zeroOf(data);
  $("answer").replaceChildren(head, body);
  if (was) glide(was);
}
/** Only what stands above the list, which is ``held`` as it was. */
function drawHead(data, held) {
  const head = headOf(data, false);
  if (held) head.querySelector(".rung").append(" ", h("span", { class: "flag" }, t.held));
  document.querySelector("#answer .head")?.replaceWith(head);
}

function headOf(data, pending) {
  const head = h("div", { class: "head" }, h("p", { class: "sum" }, h("b", {}, fill(t.num_results, { n: data.items.length })), ` ${t.results_for} `, h("q", {}, bdi(data.query, 160))));
  const rung = h("p", { class: "rung" }, h("b", {}, data.served_by), " ", pending ? t.first : (t[`rung_${data.served_by}`] ?? ""));
  rung.append(soft(` · ${fill(t.budget, { ms: document.body.dataset.deadline })} · `, h("span", { lang: "en" }, clean(data.why_rung, 160))));
  for (const name of data.degraded ?? []) rung.append(" ", h("span", { class: "flag" }, t[`degraded_${name}`] ?? clean(name, 40)));
  for (const [name, n] of Object.entries(data.truncated ?? {})) if (n && t[`truncated_${name}`]) rung.append(" ", h("span", { class: "flag" }, fill(t[`truncated_${name}`], { n })));
  head.append(rung);
  const bar = barOf(data.timings_ms ?? {});
  if (bar) head.append(bar);
  const note = data.reasoning;
  if (note || pending) {
    const think = data.timings_ms?.think;
    const said = pending ? t.thinking : [think ? fill(t.thought_for, { s: seconds(think) }) : "", note.cut ? ` · ${t.note_cut}` : "", note.cached ? ` · ${t.note_cached}` : ""].join("");
    head.append(h("details", { class: "note", open: noteOpen }, h("summary", {}, `${t.note} `, soft(said)), h("p", { class: `thought${pending ? " thinking" : streamed ? " kept" : ""}` }, bdi(note ? note.text : "", 4000)), h("p", { class: "soft small" }, t.note_what)));
  }
  return head;
}
let noteOpen = true, streamed = false;

const PARTS = ["queue", "prompt", "think", "beam", "hydrate"];
function barOf(timings) {
  const known = PARTS.filter((name) => timings[name]).map((name) => [name, timings[name]]);
  const sum = known.reduce((all, [, ms]) => all + ms, 0);
  const total = Math.max(timings.total ?? 0, sum);
  if (total <= 0) return null;
  if (total - sum > total / 200) known.push(["other", total - sum]);
  const svg = h("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  let at = 0;
  for (const [name, ms] of known) {
    svg.append(h("rect", { class: `part-${name}`, x: at.toFixed(2), width: ((100 * ms) / total).toFixed(2), height: 1 }));
    at += (100 * ms) / total;
  }
  const list = h("ul", {}, ...known.map(([name, ms]) => h("li", { class: `part-${name}` }, `${t[`part_${name}`]} ${ms.toFixed(0)}`)), h("li", { class: "total" }, `${t.part_total} ${(timings.total ?? 0).toFixed(0)} ms`));
  return h("div", { class: "time", role: "group", "aria-label": t.latency }, svg, list);
}

function listsOf(data) {
  const beside = Object.entries(data.compared ?? {});
  const many = beside.length > 0;
  const first = h("section", { class: "list", "aria-label": t.this_answer }, h("h2", { class: many ? null : "unseen" }, `${t.this_answer} `, soft(data.served_by)), h("ol", { class: "cards" }, ...data.items.map((item) => cardOf(item))));
  const lists = h("div", { class: `lists${many ? " many" : ""}` }, first, ...beside.map(([name, items]) => columnOf(name, items, data)));
  equip(lists);
  return lists;
}

function columnOf(name, items, data) {
  const ranks = new Map(data.items.map((item) => [item.id, item.rank]));
  const shared = items.filter((item) => ranks.has(item.id)).length;
  const rows = items.map((item) => {
    const move = ranks.has(item.id) ? moveOf(ranks.get(item.id) - item.rank) : h("span", { class: "move" }, t.only_here);
    return h("li", { "data-id": item.id, class: ranks.has(item.id) ? null : "lone" }, h("span", { class: "place" }, String(item.rank)), " ", bdi(item.title, 160), " ", move);
  });
  return h("section", { class: "list other", "aria-label": clean(name, 64) }, h("h2", {}, bdi(name, 64), " ", soft(fill(t.shared, { n: shared, of: items.length }))), h("ol", { class: "rows" }, ...(rows.length ? rows : [h("li", { class: "soft" }, t.empty_list)])));
}

function moveOf(n) {
  const [kind, sign, text] = n > 0 ? ["up", `▲${n}`, fill(t.move_up, { n })] : n < 0 ? ["down", `▼${-n}`, fill(t.move_down, { n: -n })] : ["", "=", t.move_same];
  return h("span", { class: `move ${kind}`.trim() }, h("span", { "aria-hidden": "true" }, sign), h("span", { class: "unseen" }, text));
}

/** The move of an item of the answer against the answer before. */
function movedFrom(item) {
  if (!before || before.query !== answer.query) return h("span", { class: "move" });
  const was = before.ids.indexOf(item.id);
  if (was < 0) return h("span", { class: "move new" }, t.move_new);
  return was + 1 === item.rank ? h("span", { class: "move" }) : moveOf(was + 1 - item.rank);
}

function cardOf(item) {
  const why = (item.why?.matched_context ?? []).slice(0, 4).map((match) => ({ ...match, words: match.words.slice(0, 8) }));
  const rung = clean(item.why?.rung ?? "", 4);
  const asked = [...new Set(why.filter((match) => match.where === "query").flatMap((match) => match.words))];
  const known = [...new Set(why.flatMap((match) => match.words).flatMap((words) => words.split(" ")))].filter((word) => !asked.includes(word));
  const facts = h("p", { class: "facts" });
  if (item.price !== null && item.price !== undefined) facts.append(h("b", { class: "price" }, price(item.price)), " ");
  if (item.brand) facts.append(h("span", { class: "brand" }, bdi(item.brand, 80)), " ");
  if (item.category?.length) facts.append(h("span", { class: "category" }, ...interleave(item.category.map((name) => bdi(name, 80)), () => h("span", { "aria-hidden": "true" }, " › "))));
  const reasons = h("ul", { class: "why", "aria-label": t.why }, ...(why.length ? why.map(reasonOf) : [h("li", { class: "soft" }, t.why_none)]));
  const path = item.sid.map((token, place) => {
    const prefix = item.sid.slice(0, place + 1).map(code).join(".");
    return h("a", { href: `${address({ ...state, sid: prefix })}#tree`, "data-sid": prefix }, code(token));
  });
  const sid = h("span", { class: "sid" }, soft(t.sid), " ", ...interleave(path, () => h("span", { class: "soft", "aria-hidden": "true" }, "›")));
  const score = h("span", { class: "score" }, soft(["L0", "L1", "L2", "L3"].includes(rung) ? t.log_p : t.score), ` ${item.score.toFixed(2).replace("-", "−")}`);
  const added = { ...state, added: [...state.added.filter(([query, id]) => query !== state.q || id !== item.id), [state.q, item.id]], find: "" };
  return h(
    "li", { class: "card", "data-id": item.id },
    h("p", { class: "rank" }, h("span", { class: "place" }, String(item.rank)), " ", movedFrom(item)),
    h("div", { class: "what" }, h("h3", {}, marked(item.title, asked, known)), facts, reasons, h("p", { class: "fine" }, sid, " ", score, ...(rung ? [" ", soft(rung)] : []))),
    h("p", { class: "do" }, h("span", { class: "judge scripted" }), h("a", { class: "quiet edit", href: address(added), "data-add": item.id }, t.add_to_history)),
  );
}

function reasonOf(match) {
  const line = h("li", {}, soft(t[`why_${match.where}`] ?? clean(match.where, 20)));
  const [query, anchor] = eventOf(match.item_id);
  if (anchor) line.append(" ", h("a", { href: `#${anchor}` }, "“", bdi(query, 80), "”"));
  else if (["clicked", "skipped"].includes(match.where)) line.append(" ", soft(t.why_event));
  for (const word of match.words) line.append(" ", h("b", {}, bdi(word, 60)));
  return line;
}
function eventOf(item) {
  if (!item) return ["", ""];
  const mine = state.added.findIndex(([, id]) => id === item);
  if (mine >= 0) return [state.added[mine][0], `added-${mine}`];
  const past = persona?.history ?? [];
  const place = past.findLastIndex((event) => [...event.clicked, ...event.skipped].some(([id]) => id === item));
  return place < 0 ? ["", ""] : [past[place].query, `event-${place}`];
}

function zeroOf(data) {
  const why = data.degraded?.includes("empty_catalogue") ? t.zero_catalogue : filtered() ? t.zero_filters : t.zero_words;
  const list = h("ul");
  const offer = (label, attributes, changes) => list.append(h("li", {}, h("a", { href: address({ ...state, ...changes }), ...attributes }, label)));
  const lexical = document.body.dataset.lexical;
  if (filtered()) offer(t.zero_wider, { "data-clear": "filters" }, { brands: [], categories: [], min: null, max: null });
  if (lexical && !state.systems.includes(lexical) && state.systems.length < 4) offer(`${t.zero_lexical} (${lexical})`, { "data-beside": lexical }, { systems: [...state.systems, lexical] });
  if (persona && !state.cold) offer(t.zero_cold, { "data-cold": "" }, { cold: true });
  const box = h("div", { class: "zero" }, h("h2", {}, t.zero), h("p", {}, why), list);
  for (const [name, items] of Object.entries(data.compared ?? {})) if (items.length) box.append(columnOf(name, items, data));
  instead(data.query).then((found) => {
    if (answer !== data || !found.length) return;
    const links = found.map((text) => h("a", { href: address({ ...state, q: text }), "data-q": text }, bdi(text, 80)));
    list.before(h("p", {}, `${t.zero_did_you} `, ...interleave(links, () => ", "), "?"));
  });
  return box;
}
async function instead(query) {
  for (const length of new Set([query.length, Math.floor((query.length * 2) / 3), Math.floor(query.length / 3), 1])) {
    if (!length) continue;
    const found = await suggestions(query.slice(0, length)).catch(() => []);
    const other = found.filter((text) => text !== query).slice(0, 5);
    if (other.length) return other;
  }
  return [];
}

// -- cards that glide to their new place -----------------------------------------------------------------------------
const places = () => new Map([...document.querySelectorAll(".card")].map((card) => [card.dataset.id, card.getBoundingClientRect().top]));
function glide(was) {
  for (const card of document.querySelectorAll(".card")) {
    const from = was.get(card.dataset.id);
    const by = from === undefined ? 0 : from - card.getBoundingClientRect().top;
    if (by) card.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 260, easing: "ease-out" });
    else if (from === undefined) card.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 260 });
  }
}

// -- judging ---------------------------------------------------------------------------------------------------------
/** Gives the cards of a list their buttons. */
function equip(root) {
  for (const place of root.querySelectorAll(".judge:empty")) {
    const id = place.closest(".card").dataset.id;
    const title = clean(titles.get(id) ?? id, 120);
    for (const kind of ["good", "bad"]) place.append(h("button", { type: "button", "data-judge": kind, "aria-pressed": String(judged.get(`${id} ${kind}`) !== undefined && judged.get(`${id} ${kind}`).query === answer?.query), "aria-label": `${t[kind]}: ${title}` }, t[kind]));
    place.append(h("button", { type: "button", "data-details": id, "aria-expanded": "false", "aria-label": `${t.details}: ${title}` }, t.details));
  }
}

function judge(id, kind) {
  if (!answer) return;
  const item = answer.items.find((found) => found.id === id);
  judged.set(`${id} ${kind}`, { query: answer.query, user_id: answer.user_id ?? null, request_id: answer.request_id, item_id: id, rank: item?.rank ?? null, kind, served_by: answer.served_by, time: new Date().toISOString() });
  showJudged();
  askJson("/v1/feedback", { body: { request_id: answer.request_id, item_id: id, kind } }).catch(() => say(t.judge_failed));
}
function showJudged() {
  $("judged").hidden = !judged.size;
  $("judged-count").textContent = fill(t.judged, { n: judged.size });
}
function exportJudged() {
  const lines = [...judged.values()].map((line) => JSON.stringify(line)).join("\n") + "\n";
  const url = URL.createObjectURL(new Blob([lines], { type: "application/x-ndjson" }));
  h("a", { href: url, download: "judgements.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
async function details(button) {
  const card = button.closest(".card");
  const open = card.querySelector(".details");
  button.setAttribute("aria-expanded", String(!open));
  if (open) return open.remove();
  const list = h("dl", { class: "details" });
  card.querySelector(".what").append(list);
  judge(button.dataset.details, "click");
  const item = await askJson(`/v1/items/${encodeURIComponent(button.dataset.details)}`).catch(() => ({}));
  const pairs = { id: button.dataset.details, ...(item.attributes ?? {}), ...(item.description ? { "": item.description } : {}) };
  for (const [name, value] of Object.entries(pairs)) list.append(h("div", {}, h("dt", {}, bdi(name, 40)), h("dd", {}, bdi(value, 1000))));
}

// -- the context -----------------------------------------------------------------------------------------------------
function drawContext() {
  const past = persona?.history ?? [];
  $("profile").replaceChildren(...Object.entries(persona?.profile ?? {}).map(([name, value]) => h("div", {}, h("dt", {}, bdi(name, 40)), h("dd", {}, bdi(value, 80)))));
  $("num-searches").textContent = persona ? fill(t.num_searches, { n: persona.events }) : "";
  $("past").classList.toggle("unread", state.cold);
  $("past-note").textContent = state.cold ? t.cold_on : !past.length && !state.added.length ? t.history_empty : persona && persona.events > past.length ? fill(t.newest_shown, { n: past.length, of: persona.events }) : "";
  const rows = past.map((event, place) => [pastOf(event, place), state.drop.includes(place)]);
  const mine = state.added.map(([query, id], place) =>
    h("li", { id: `added-${place}`, class: "mine" }, h("p", { class: "asked" }, h("q", {}, bdi(query, 120)), " ", soft(t.added)), h("p", { class: "chose" }, `${t.chosen} `, bdi(titles.get(id) ?? id, 160)), h("a", { class: "quiet", href: address({ ...state, added: state.added.filter((_, n) => n !== place) }), "data-less": place }, t.remove)));
  $("kept").replaceChildren(...rows.filter(([, away]) => !away).map(([row]) => row), ...mine);
  $("away").replaceChildren(...rows.filter(([, away]) => away).map(([row]) => row));
  $("aside").hidden = !past.length;
  $("aside-note").hidden = state.drop.length > 0;
  $("restore").hidden = !(state.drop.length || state.added.length);
}

function pastOf(event, place) {
  const away = state.drop.includes(place);
  const names = (pairs) => interleave(pairs.map(([id, title]) => bdi(title || id, 160)), () => "; ");
  const drop = away ? state.drop.filter((n) => n !== place) : [...state.drop, place].sort((a, b) => a - b);
  return h(
    "li", { id: `event-${place}`, "data-place": place, draggable: "true" },
    h("p", { class: "asked" }, h("q", {}, bdi(event.query, 120)), " ", soft(day(event.time), ...(event.place ? [" ", bdi(event.place, 60)] : []))),
    h("p", { class: "chose" }, ...(event.clicked.length ? [`${t.chosen} `, ...names(event.clicked)] : [soft(t.nothing_chosen)])),
    event.skipped.length > 0 && h("p", { class: "chose soft" }, `${t.passed} `, ...names(event.skipped)),
    h("a", { class: "quiet", href: address({ ...state, drop }), [away ? "data-back" : "data-drop"]: place }, away ? t.put_back : t.set_aside),
  );
}

function drop(place, away) {
  state.drop = away ? [...new Set([...state.drop, place])].sort((a, b) => a - b) : state.drop.filter((n) => n !== place);
  go();
  document.querySelector(`#event-${place} .quiet`)?.focus();
}

/** Takes over a user: the profile and history come from the server. */
async function become(user, { then = () => go() } = {}) {
  state.user = user;
  state.drop = [];
  state.added = [];
  await meet(user);
  then();
}
async function meet(user) {
  persona = null;
  $("unknown").hidden = true;
  if (!user) return;
  try {
    persona = await askJson(`/v1/users/${encodeURIComponent(user)}`);
    offerUser(persona);
  } catch (error) {
    if (error.status === 404) $("unknown").hidden = false;
    else location.assign(address()); // the page itself says what is wrong
  }
}
function offerUser(known) {
  const boxes = [...document.querySelectorAll("input[name=user]")];
  if (boxes.some((box) => box.value === known.user_id)) return;
  const values = Object.values(known.profile).map((value) => bdi(value, 40));
  boxes.at(-1).closest("label").before(h("label", {}, h("input", { type: "radio", name: "user", form: "search", value: known.user_id }), h("span", {}, h("b", {}, bdi(known.user_id, 40)), " ", h("small", {}, ...interleave(values, () => ", ")))));
}

async function find() {
  state.find = $("find").value.trim();
  history.replaceState(null, "", address());
  if (!state.find) return $("picks").replaceChildren();
  try {
    const found = await askJson("/v1/search", { body: { query: state.find, top_k: 5, mode: "fast" } });
    if (!found.items.length) return $("picks").replaceChildren(h("li", { class: "soft" }, t.zero_words));
    $("picks").replaceChildren(...found.items.map((item) => {
      titles.set(item.id, item.title);
      return h("li", {}, h("a", { class: "edit", href: address({ ...state, added: [...state.added, [state.find, item.id]], find: "" }), "data-add": item.id, "data-pick": true, "aria-label": `${t.add}: ${clean(item.title, 120)}` }, t.add), " ", bdi(item.title, 160));
    }));
    say(fill(t.num_results, { n: found.items.length }));
  } catch (error) {
    $("picks").replaceChildren(h("li", { class: "fault" }, t[error.kind] ?? t.fault_down));
  }
}

// -- suggestions: the combobox pattern of ARIA -----------------------------------------------------------------------
let typed = 0, chosen = -1, waiting = null;
async function suggestions(text) {
  const user = persona ? `&user_id=${encodeURIComponent(persona.user_id)}` : "";
  const found = await askJson(`/v1/suggest?q=${encodeURIComponent(text)}${user}`);
  return (Array.isArray(found) ? found : (found.suggestions ?? [])).map((each) => (typeof each === "string" ? each : each.query));
}
function closeList() {
  clearTimeout(waiting);
  typed += 1;
  chosen = -1;
  $("suggested").hidden = true;
  $("q").setAttribute("aria-expanded", "false");
  $("q").removeAttribute("aria-activedescendant");
}
function offerList(found) {
  chosen = -1;
  $("q").removeAttribute("aria-activedescendant");
  $("suggested").replaceChildren(...found.map((text, place) => h("li", { role: "option", id: `option-${place}`, "aria-selected": "false", "data-text": text }, bdi(text, 120))));
  $("suggested").hidden = !found.length;
  $("q").setAttribute("aria-expanded", String(found.length > 0));
  if (found.length) say(fill(t.num_suggestions, { n: found.length }));
}
function suggestSoon() {
  const mine = ++typed;
  clearTimeout(waiting);
  const text = $("q").value.trim();
  if (!text) return closeList();
  waiting = setTimeout(async () => {
    const found = await suggestions(text).catch(() => []);
    if (mine === typed && document.activeElement === $("q")) offerList(found.filter((each) => each !== text));
  }, 90);
}
function point(by) {
  const options = [...$("suggested").children];
  if (!options.length) return;
  chosen = chosen < 0 && by < 0 ? options.length - 1 : (chosen + by + options.length + 1) % (options.length + 1);
  if (chosen === options.length) chosen = -1;
  options.forEach((option, place) => option.setAttribute("aria-selected", String(place === chosen)));
  if (chosen < 0) return $("q").removeAttribute("aria-activedescendant");
  $("q").setAttribute("aria-activedescendant", options[chosen].id);
  options[chosen].scrollIntoView({ block: "nearest" });
}
function comboKeys(event) {
  if (event.isComposing) return;
  const open = !$("suggested").hidden;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (open) point(event.key === "ArrowDown" ? 1 : -1);
    else if ($("q").value.trim()) suggestSoon();
    else offerList([...new Set((persona?.history ?? []).map((past) => past.query).reverse())].slice(0, 8));
  } else if (event.key === "Escape" && open) {
    event.preventDefault();
    closeList();
  } else if (event.key === "Enter" && open && chosen >= 0) {
    event.preventDefault();
    take($("suggested").children[chosen].dataset.text);
  } else if (event.key === "Tab") closeList();
}
function take(text) {
  $("q").value = text;
  closeList();
  submit();
}
function submit() {
  closeList();
  readForm();
  go();
}

// -- the tree of semantic IDs ----------------------------------------------------------------------------------------
const MOST_CHILDREN = 24;
let opener = null;
async function node(prefix) {
  const key = prefix.join(".");
  if (!nodes.has(key)) {
    try {
      nodes.set(key, await askJson(key ? `/v1/sids/${encodeURIComponent(key)}` : "/v1/sids"));
    } catch (error) {
      if (error.status !== 404) throw error;
      return null;
    }
  }
  return nodes.get(key);
}
async function openTree(text, { focus = true } = {}) {
  const prefix = text.split(".").filter(Boolean);
  state.sid = text;
  history.replaceState(null, "", address());
  let found;
  try {
    found = await Promise.all(Array.from({ length: prefix.length + 1 }, (_, depth) => node(prefix.slice(0, depth))));
  } catch (error) {
    return notice(t[error.kind] ?? t.fault_down, { more: error.more });
  }
  if (state.sid === text) drawTree(prefix, found, focus);
}
const link = (prefix, label, attributes = {}) => h("a", { href: `${address({ ...state, sid: prefix.join(".") })}#tree`, "data-sid": prefix.join("."), ...attributes }, ...[label].flat());
function drawTree(prefix, found, focus) {
  const tree = h("section", { id: "tree", class: "tree sheet", "aria-labelledby": "tree-title", tabindex: "-1" }, h("h2", { id: "tree-title" }, t.tree), h("a", { class: "quiet close", href: address({ ...state, sid: null }), "data-close": "" }, t.close), h("p", { class: "soft" }, t.tree_what));
  tree.append(h("ol", { class: "crumbs" }, h("li", {}, link([], t.root)), ...prefix.map((token, place) => h("li", {}, link(prefix.slice(0, place + 1), token, place === prefix.length - 1 ? { "aria-current": "true" } : {})))));
  const last = found.at(-1);
  if (!last) tree.append(h("p", {}, t.no_node));
  found.every((level, depth) => {
    if (!level?.children.length) return false;
    const first = level.children.find(([token]) => code(token) === prefix[depth]);
    let offered = level.children.slice(0, MOST_CHILDREN);
    if (first && !offered.includes(first)) offered = [first, ...offered.slice(0, -1)];
    const most = Math.max(...offered.map(([, count]) => count));
    const above = prefix.slice(0, depth);
    tree.append(h("h3", {}, fill(t.layer, { n: depth + 1 })), h("ul", { class: "codes" }, ...offered.map(([token, count]) =>
      h("li", {}, link([...above, code(token)], [h("span", {}, code(token)), " ", h("span", { class: "count" }, count.toLocaleString("en-US")), h("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, h("rect", { width: ((100 * count) / most).toFixed(1), height: 1 }))], code(token) === prefix[depth] ? { "aria-current": "true" } : {})))));
    if (level.children.length > offered.length) tree.append(h("p", { class: "soft" }, fill(t.and_more, { n: level.children.length - offered.length })));
    return true;
  });
  if (last) tree.append(h("h3", {}, `${t.here} `, soft(fill(t.num_items, { n: last.items }))), h("ul", { class: "examples" }, ...last.examples.map(([, title]) => h("li", {}, bdi(title, 160)))));
  const within = $("tree-place").contains(document.activeElement) ? document.activeElement.dataset.sid : null;
  $("tree-place").replaceChildren(tree);
  const again = within === null ? null : [...tree.querySelectorAll(".codes a")].find((each) => each.dataset.sid === within);
  if (again) again.focus();
  else if (focus) { tree.focus({ preventScroll: true }); tree.scrollIntoView({ block: "nearest" }); }
}
function closeTree() {
  state.sid = null;
  history.replaceState(null, "", address());
  $("tree-place").replaceChildren();
  if (opener?.isConnected) opener.focus();
  opener = null;
}

// -- what the user does ----------------------------------------------------------------------------------------------
/** Links that change the state: their data says how. */
function follow(target) {
  const on = (name) => target.dataset[name];
  if (on("sid") !== undefined) { if (!$("tree-place").contains(target)) opener = target; openTree(on("sid")); }
  else if (on("close") !== undefined) closeTree();
  else if (on("drop") !== undefined) drop(+on("drop"), true);
  else if (on("back") !== undefined) drop(+on("back"), false);
  else if (on("less") !== undefined) { state.added.splice(+on("less"), 1); go(); $("kept").querySelector(".quiet")?.focus(); }
  else if (on("restore") !== undefined) { state.drop = []; state.added = []; go(); $("kept").querySelector(".quiet")?.focus(); }
  else if (on("add") !== undefined) {
    const query = target.closest("#picks") ? state.find : (answer?.query ?? state.q);
    state.added = [...state.added.filter(([q, id]) => q !== query || id !== on("add")), [query, on("add")]];
    if (target.closest("#picks")) { state.find = ""; $("find").value = ""; $("picks").replaceChildren(); $("find").focus(); }
    go();
  } else if (on("clear") !== undefined) { Object.assign(state, { brands: [], categories: [], min: null, max: null }); go(); }
  else if (on("beside") !== undefined) { state.systems = [...state.systems, on("beside")]; go(); }
  else if (on("cold") !== undefined) { state.cold = true; go(); }
  else if (on("user") !== undefined) { state.q = on("q"); $("q").value = state.q; become(on("user")); }
  else if (on("q") !== undefined) { state.q = on("q"); go(); }
  else return false;
  return true;
}

function listen() {
  document.addEventListener("click", (event) => {
    if (event.target.closest("#unlock, [data-admin]") || document.body.dataset.admin) return;
    const target = event.target.closest("a, button, [role=option]");
    if (!target || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    if (target.role === "option" || target.getAttribute("role") === "option") return take(target.dataset.text);
    if (target.id === "export") return exportJudged();
    if (target.dataset.judge) {
      const [card, kind] = [target.closest(".card"), target.dataset.judge];
      for (const button of card.querySelectorAll("[data-judge]")) { button.setAttribute("aria-pressed", String(button === target)); if (button !== target) judged.delete(`${card.dataset.id} ${button.dataset.judge}`); }
      return judge(card.dataset.id, kind);
    }
    if (target.dataset.details) return details(target);
    if (target.tagName === "A" && follow(target)) event.preventDefault();
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id === "unlock") { event.preventDefault(); sessionStorage.setItem(KEY, $("key").value); return unlock(); }
    if (event.target.id !== "search") return;
    event.preventDefault();
    if (event.submitter?.id === "find-go") return find();
    const other = $("as").value.trim();
    if (other && other !== state.user) { readForm(); $("as").value = ""; return become(other); }
    submit();
  });
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.form?.id !== "search" || ["q", "as", "find"].includes(box.name)) return;
    if (box.name === "user") return become(box.value);
    readForm();
    go();
  });
  document.addEventListener("input", (event) => {
    if (event.target.id === "q") suggestSoon();
    if (event.target.id === "as") offerIds(event.target.value.trim());
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "q") comboKeys(event);
    else if (event.target.id === "find" && event.key === "Enter" && !event.isComposing) { event.preventDefault(); find(); }
    else if (event.key === "Escape" && event.target.closest?.("#tree")) closeTree();
  });
  document.addEventListener("focusout", (event) => { if (event.target.id === "q") closeList(); });
  document.addEventListener("pointerdown", (event) => { if (event.target.closest("#suggested")) event.preventDefault(); });
  document.addEventListener("toggle", (event) => { if (event.target.classList?.contains("note")) noteOpen = event.target.open; }, true);
  addEventListener("scroll", () => { scrolled = performance.now(); }, { passive: true });
  addEventListener("popstate", async () => {
    const user = state?.user;
    if (!state) return;
    state = readAddress();
    cancel();
    hideNotice();
    settled();
    if (state.user !== user) await meet(state.user);
    writeForm();
    drawContext();
    const known = answers.get(asked());
    if (known) { before = null; draw(known); say(counted(known)); }
    else if (state.q.trim()) search(asked());
    else location.reload();
  });
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, (event) => {
    if (!$("answer")) return;
    const id = event.target.closest?.(".many [data-id]")?.dataset.id;
    for (const other of document.querySelectorAll(".many [data-id]")) other.classList.toggle("same", id !== undefined && other.dataset.id === id);
    const anchor = event.target.closest?.(".why a")?.hash.slice(1);
    for (const past of document.querySelectorAll(".events li")) past.classList.toggle("lit", past.id === anchor);
  });
  // drag an event out of the history, or in again
  let dragged = null;
  document.addEventListener("dragstart", (event) => {
    dragged = event.target.closest?.(".events [data-place]");
    if (dragged) event.dataTransfer.setData("text/plain", dragged.dataset.place);
  });
  document.addEventListener("dragover", (event) => {
    const list = event.target.closest?.(".events, #past");
    for (const each of document.querySelectorAll(".events")) each.classList.toggle("over", Boolean(dragged) && each === list);
    if (dragged && list) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const list = event.target.closest?.(".events");
    if (!dragged || !list) return;
    event.preventDefault();
    if ((list.id === "away") !== state.drop.includes(+dragged.dataset.place)) drop(+dragged.dataset.place, list.id === "away");
  });
  document.addEventListener("dragend", () => { dragged = null; for (const each of document.querySelectorAll(".events")) each.classList.remove("over"); });
}

let named = 0;
async function offerIds(prefix) {
  const mine = ++named;
  if (!prefix) return;
  const found = await askJson(`/v1/users?prefix=${encodeURIComponent(prefix)}`).catch(() => []);
  const users = Array.isArray(found) ? found : (found.users ?? []);
  if (mine === named) $("users").replaceChildren(...users.slice(0, 8).map((user) => h("option", { value: user.user_id })));
}

// -- the admin page --------------------------------------------------------------------------------------------------
function figure(value, digits, unit) {
  if (value === null || value === undefined) return "–";
  const places = digits === "" ? {} : { minimumFractionDigits: +digits, maximumFractionDigits: +digits };
  return (unit === "%" ? 100 * value : value).toLocaleString("en-US", places) + (unit ?? "");
}
function watch() {
  const seen = [];
  const look = async () => {
    if (document.hidden) return;
    try {
      const now = await askJson("/v1/admin/status");
      for (const place of document.querySelectorAll("[data-live]")) {
        const value = place.dataset.live.split(".").reduce((at, name) => at?.[name], now);
        place.textContent = figure(value, place.dataset.digits ?? "", place.dataset.unit);
      }
      const all = (now.rungs ?? []).reduce((sum, rung) => sum + (rung.answers ?? 0), 0) || 1;
      for (const place of document.querySelectorAll("[data-share]")) place.textContent = figure((now.rungs[place.dataset.share]?.answers ?? 0) / all, "0", "%");
      seen.push(now.metrics?.per_second ?? 0);
      if (seen.length > 60) seen.shift();
      const most = Math.max(...seen, 1e-9);
      document.querySelector("#spark polyline").setAttribute("points", seen.map((value, n) => `${((300 * n) / 59).toFixed(1)},${(38 - (36 * value) / most).toFixed(1)}`).join(" "));
      $("lost").hidden = true;
    } catch { $("lost").hidden = false; }
  };
  setInterval(look, 2000);
  look();
  const button = $("roll-back");
  let sure = false;
  button?.addEventListener("click", async () => {
    if (!sure) { sure = true; button.textContent = fill(t.roll_back_sure, { v: clean(button.dataset.version, 64) }); return; }
    button.disabled = true;
    try {
      await askJson("/v1/admin/catalogue/rollback", { body: {} });
      say(t.rolled_back);
      sessionStorage.getItem(KEY) ? unlock() : location.reload();
    } catch (error) { button.textContent = error.more || t[error.kind] || t.fault_down; button.disabled = false; sure = false; }
  });
  const test = $("self-test");
  test?.addEventListener("click", async () => {
    test.disabled = true;
    test.textContent = t.self_test_runs;
    say(t.self_test_runs);
    try {
      await askJson("/v1/admin/self-test", { body: {} });
      say(t.self_test_done);
      sessionStorage.getItem(KEY) ? unlock() : location.reload();
    } catch (error) { test.textContent = error.more || t[error.kind] || t.fault_down; test.disabled = false; }
  });
}

// -- beginning -------------------------------------------------------------------------------------------------------
/** With a key the same address has the page; its own markup takes the place of the form that asked. */
async function unlock() {
  try {
    const response = await ask(location.pathname + location.search, { accept: "text/html" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    document.title = page.title;
    document.body.replaceWith(document.adoptNode(page.body));
    start();
  } catch (error) {
    if (error.kind === "fault_key") sessionStorage.removeItem(KEY);
    if ($("key-fault")) $("key-fault").textContent = [t[error.kind] ?? "", error.more].filter(Boolean).join(" ");
    $("key")?.focus();
  }
}

function start() {
  const told = document.body.dataset;
  t = JSON.parse(told.words);
  document.documentElement.classList.remove("plain");
  if (told.locked) return sessionStorage.getItem(KEY) ? unlock() : $("key").focus();
  if (told.admin) return watch();
  state = readAddress();
  const context = $("context").dataset;
  persona = context.persona ? JSON.parse(context.persona) : null;
  for (const [, id, title] of JSON.parse(context.added)) titles.set(id, title);
  const box = $("q");
  for (const [name, value] of Object.entries({ role: "combobox", "aria-expanded": "false", "aria-controls": "suggested", "aria-autocomplete": "list" })) box.setAttribute(name, value);
  writeForm();
  for (const row of document.querySelectorAll(".events [data-place]")) row.draggable = true;
  const drawn = $("answer").dataset.answer;
  if (drawn) {
    answer = JSON.parse(drawn);
    answer.items.forEach((item) => titles.set(item.id, item.title));
    keep(asked(), answer);
    try { before = JSON.parse(sessionStorage.getItem("crsearch.before")); } catch { before = null; }
    for (const card of document.querySelectorAll(".card")) {
      const item = answer.items.find((each) => each.id === card.dataset.id);
      if (item) card.querySelector(".move").replaceWith(movedFrom(item));
    }
    remember(answer);
    equip($("answer"));
    say(counted(answer));
  } else if (state.q.trim() && !$("notice").hidden) search(asked());
  if (state.sid !== null) openTree(state.sid, { focus: false });
}
listen();
start();
