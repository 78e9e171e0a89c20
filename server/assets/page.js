// What the page does better with a script: forms are sent without a reload, what is shown renews itself, and what was typed
// survives. It draws nothing itself: every answer is a page like the one that was loaded, of which it takes over the parts.

const page = document.getElementById("page");
const title = document.getElementById("title");
const ANSWER_LIMIT = 15_000; // milliseconds; above every deadline of the server
const PAUSE_MAX = 60_000; // milliseconds between two looks at a server that does not answer
const WAITING_PAUSE = 4_000; // milliseconds between two looks while something is known to wait
const REMEMBERED_MAX = 50; // changes that wait
const STATUS_AT_ONCE_MAX = 5; // questions about them in one look

let refresh = Number(page.dataset.refresh);
let tag = null;
let timer = null;
let lookedAt = Date.now();
let seenAt = new Date(); // when the list on the page came
let failures = 0;
// Counts what the user sent: what was asked for before is not shown after it.
let turn = 0;
let sending = 0;

// --- what survives a reload, for this user and this tab alone ---

const memory = {
  name: (what) => `${what} ${page.dataset.whose}`,
  get(what) {
    try {
      return JSON.parse(sessionStorage.getItem(this.name(what)));
    } catch {
      return null;
    }
  },
  set(what, value) {
    try {
      if (value) sessionStorage.setItem(this.name(what), JSON.stringify(value));
      else sessionStorage.removeItem(this.name(what));
    } catch {
      // Storage is full or switched off: then nothing survives.
    }
  },
};

// Changes that were accepted and wait, by item: another replica that answers later may not know of them.
const waiting = new Map(memory.get("waiting") ?? []);
const keepWaiting = () => memory.set("waiting", waiting.size ? [...waiting].slice(-REMEMBERED_MAX) : null);

// --- asking ---

async function ask(address, options = {}) {
  const headers = { Accept: "text/html", ...options.headers };
  const answer = await fetch(address, {
    ...options,
    headers,
    cache: "no-store",
    signal: AbortSignal.timeout(ANSWER_LIMIT),
  });
  if (answer.status === 401) {
    location.assign("/sign-in");
    throw new Error("sign in first");
  }
  return answer;
}

async function documentOf(answer) {
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (next.getElementById("page")) return next;
  // Refused before anybody looked at the list: too much to do, too many requests.
  const refusal = new Error("not the list");
  refusal.said = next.getElementById("trouble")?.textContent.replace(/\s+/g, " ").trim();
  refusal.wait = Number(answer.headers.get("retry-after")) * 1_000;
  throw refusal;
}

function remember(answer) {
  refresh = Number(answer.headers.get("ridethrough-refresh")) || refresh;
  tag = answer.headers.get("etag");
}

// --- looking again, as often as the server says, and only while somebody sees it ---

// What waits at another replica is asked about more often than that.
const pause = () => (waiting.size ? Math.min(refresh, WAITING_PAUSE * (1 + Math.random() / 2)) : refresh);

function plan(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(look, milliseconds);
}

async function look() {
  if (document.hidden) return;
  if (sending) return;
  const began = turn;
  lookedAt = Date.now();
  try {
    const answer = await ask(location.pathname + location.search, tag ? { headers: { "If-None-Match": tag } } : {});
    // What is remembered may end elsewhere without a change of this list.
    const next = answer.status === 304 ? (waiting.size ? document : null) : await documentOf(answer);
    const ended = next ? await statusOfWaiting(next) : [];
    if (began !== turn) return plan(pause());
    failures = 0;
    if (answer.status !== 304) {
      remember(answer);
      show(next, ended);
    } else {
      seenAt = new Date();
      refresh = Number(answer.headers.get("ridethrough-refresh")) || refresh;
      // Then the list is shown anew, with nothing laid over it.
      if (ended.length) {
        tag = null;
        return plan(0);
      }
    }
    plan(pause());
  } catch (error) {
    failures += 1;
    // Whatever comes next is taken over as a whole.
    tag = null;
    outOfTouch(error.said);
    const wait = Math.max(error.wait || 0, Math.min(PAUSE_MAX, refresh * 2 ** failures));
    plan(wait * (1 + Math.random() / 2));
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) plan(Math.max(0, lookedAt + pause() - Date.now()) + Math.random() * 500);
});
addEventListener("online", () => plan(Math.random() * 2_000));

// --- what waits, also at another replica ---

// Asks about remembered changes that the list does not show as waiting; gives those that came to an end.
async function statusOfWaiting(next) {
  const unsure = [...waiting].filter(([id]) => !isWaiting(next, id) || rowOf(next, id).hasAttribute("data-elsewhere"));
  const ended = [];
  await Promise.all(
    unsure.slice(0, STATUS_AT_ONCE_MAX).map(async ([id, { key }]) => {
      try {
        const answer = await fetch(`/api/writes/${encodeURIComponent(key)}`, { signal: AbortSignal.timeout(ANSWER_LIMIT) });
        const { status } = answer.ok ? await answer.json() : {};
        if (["applied", "superseded", "rejected"].includes(status)) ended.push([id, key, status]);
      } catch {
        // Nobody can say: it waits on.
      }
    }),
  );
  return ended;
}

const rowOf = (where, id) => where.getElementById(`todo-${id}`);
const isWaiting = (where, id) => rowOf(where, id)?.hasAttribute("data-waiting") ?? false;

function forgetEnded(ended) {
  for (const [id, key, status] of ended) {
    if (waiting.get(id)?.key !== key) continue;
    waiting.delete(id);
    if (status !== "applied") notify(page.dataset.notKept);
  }
  keepWaiting();
}

// Lays over a list what another replica has accepted and this one does not know.
function layOver(next) {
  for (const [id, { row }] of waiting) {
    if (isWaiting(next, id)) continue;
    const known = rowOf(next, id);
    if (!row) {
      known?.remove();
      continue;
    }
    const mine = next.adoptNode(new DOMParser().parseFromString(row, "text/html").body.firstElementChild);
    // Here nothing more can be done with it: this replica would put it before what waits at the other.
    mine.querySelector(".acts")?.remove();
    mine.setAttribute("data-elsewhere", "");
    if (known) known.replaceWith(mine);
    else {
      const list = next.getElementById("list");
      if (!list.querySelector("ul")) {
        const rows = next.createElement("ul");
        rows.setAttribute("aria-labelledby", "list-heading");
        list.replaceChildren(rows);
      }
      list.querySelector("ul").prepend(mine);
    }
  }
}

// Remembers what a form has left waiting.
function rememberWaiting(form, next, key) {
  const id = form.action.split("/todos/")[1]?.split("/")[0];
  for (const row of id ? [] : next.querySelectorAll("#list [data-waiting]")) {
    const added = row.id.slice("todo-".length);
    if (!waiting.has(added) && !isWaiting(document, added)) waiting.set(added, { key, row: row.outerHTML });
  }
  if (id) waiting.set(id, { key, row: rowOf(next, id)?.outerHTML ?? null });
  keepWaiting();
}

// --- showing ---

const say = (text) => (document.getElementById("said").textContent = text);
const sentences = (where) => [...where.querySelectorAll("#state .say")].map((one) => one.textContent).join(" ");
const countOfWaiting = (where) => Number(where.getElementById("state").dataset.waiting);

function notify(text) {
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  document.getElementById("notice").replaceChildren(...(text ? [paragraph] : []));
}

function show(next, ended = []) {
  forgetEnded(ended);
  layOver(next);
  const [before, after] = [sentences(document), sentences(next)];
  const isOver = countOfWaiting(document) > 0 && countOfWaiting(next) === 0;
  const focused = placeOfFocus();
  const keeps = keepsList(next);
  for (const part of keeps ? ["state"] : ["state", "list", "pages"]) {
    const [mine, theirs] = [document.getElementById(part), next.getElementById(part)];
    if (part === "state") mine.dataset.waiting = theirs.dataset.waiting;
    mine.replaceChildren(...theirs.childNodes);
  }
  if (keeps) addSentence(page.dataset.keptList);
  else seenAt = new Date();
  tellTimes();
  putFocusBack(focused);
  if (after && after !== before) say(after);
  else if (isOver) say(page.dataset.allStored);
}

// Where a replica has no list, what is on the page is better than none. What waits there is put in.
function keepsList(next) {
  const rows = document.querySelector("#list ul");
  if (!next.getElementById("state").hasAttribute("data-unavailable") || !rows) return false;
  for (const row of [...next.querySelectorAll("#list .item")].reverse()) {
    const known = document.getElementById(row.id);
    if (known) known.replaceWith(row);
    else rows.prepend(row);
  }
  return true;
}

function addSentence(text) {
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  document.querySelector("#state section")?.append(paragraph);
}

// The server itself does not answer, or refuses to say how the list is.
function outOfTouch(said) {
  const section = document.createElement("section");
  section.className = "note";
  section.setAttribute("aria-label", page.dataset.state);
  document.getElementById("state").replaceChildren(section);
  const time = new Intl.DateTimeFormat(language(), { timeStyle: "short" }).format(seenAt);
  const text = said || page.dataset.outOfTouch.replace("{time}", time);
  addSentence(text);
  if (failures === 1) say(text);
}

function placeOfFocus() {
  const active = document.activeElement;
  const row = active?.closest("#list .item");
  if (!row) return active?.closest("#state, #pages") ? { id: null, row: -1 } : null;
  return { id: active.id, row: [...row.parentElement.children].indexOf(row) };
}

// On the same button; where its item is gone, on that of the one in its place.
function putFocusBack(focused) {
  if (!focused) return;
  const same = focused.id ? document.getElementById(focused.id) : null;
  const rows = document.querySelectorAll("#list .item");
  const next = rows[Math.min(focused.row, rows.length - 1)]?.querySelector(".acts form:last-child button");
  (same ?? next ?? title).focus();
}

// An Australian reads English pages, and times as in Australia.
function language() {
  const written = document.documentElement.lang;
  return navigator.languages.find((one) => one.split("-")[0] === written) ?? written;
}

// In the reader's own time zone, which the server does not know.
function tellTimes() {
  const day = (time) => new Date(time.getFullYear(), time.getMonth(), time.getDate());
  for (const element of document.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    if (Number.isNaN(time.getTime())) continue;
    const days = Math.round((day(time) - day(new Date())) / 86_400_000);
    const clock = new Intl.DateTimeFormat(language(), { timeStyle: "short" }).format(time);
    const near = new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(days, "day");
    const date = new Intl.DateTimeFormat(language(), { dateStyle: "medium" }).format(time);
    element.textContent = `${days === 0 || days === -1 ? near : date}, ${clock}`;
  }
}

// --- sending ---

function markSending(form) {
  const mark = document.createElement(form.id === "add" ? "p" : "span");
  mark.className = "sending";
  mark.textContent = page.dataset.sending;
  (form.id === "add" ? form : form.closest(".item").querySelector(".marks")).append(mark);
  form.setAttribute("aria-busy", "true");
  return () => {
    mark.remove();
    form.removeAttribute("aria-busy");
  };
}

function complain(form, text) {
  if (form.id !== "add") return notify(text);
  document.getElementById("add-error").textContent = text;
  if (text) title.setAttribute("aria-invalid", "true");
  else title.removeAttribute("aria-invalid");
}

async function send(form) {
  const body = new URLSearchParams(new FormData(form));
  const typed = title.value;
  const unmark = markSending(form);
  notify("");
  complain(form, "");
  sending += 1;
  turn += 1;
  try {
    const headers = { Prefer: "return=representation" };
    const answer = await ask(form.action, { method: "POST", headers, body });
    const next = await documentOf(answer);
    unmark();
    const outcome = answer.headers.get("ridethrough-outcome");
    const key = answer.headers.get("idempotency-key");
    if (outcome === "journaled" && key) rememberWaiting(form, next, key);
    remember(answer);
    if (form.id === "add") {
      form.elements.key.value = next.getElementById("add").elements.key.value;
      if (answer.ok && title.value === typed) {
        title.value = "";
        memory.set("typed", null);
      }
      complain(form, next.getElementById("add-error").textContent);
      // What is new stands on the first page.
      if (answer.ok && new URLSearchParams(location.search).has("after")) return location.assign("/");
    }
    notify(next.getElementById("notice").textContent.trim());
    show(next);
    if (answer.ok) say(outcome === "journaled" ? page.dataset.waits : page.dataset.stored);
  } catch (error) {
    // The key stays with the form: sent again, it has its effect once.
    unmark();
    complain(form, error.said || page.dataset.noAnswer);
  } finally {
    sending -= 1;
    plan(pause());
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.id === "sign-out") {
    sessionStorage.clear();
    return;
  }
  event.preventDefault();
  if (form.getAttribute("aria-busy") !== "true") send(form);
});

// --- the beginning ---

title.addEventListener("input", () => {
  memory.set("typed", title.value);
  complain(title.form, "");
});
if (!title.value) title.value = memory.get("typed") ?? "";
if (waiting.size) layOver(document);
tellTimes();
plan(pause());
