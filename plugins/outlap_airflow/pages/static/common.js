// Elements, figures, questions to the server, and pages that stay up to date.

const main = document.getElementById("main");

// h("td", {class: "number"}, text, node, [more]): text is always text, never markup.
export function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function show(...content) {
  main.replaceChildren(...content.flat(Infinity).filter(Boolean));
}

// Said to who listens instead of looks.
export function say(text) {
  const said = document.getElementById("said");
  if (said.textContent !== text) said.textContent = text;
}

export function title(text) {
  document.title = `${text} · Outlap`;
  return h("h1", {}, text);
}

// ---- figures: short for the eye, exact in the title

const NONE = "–";
const whole = new Intl.NumberFormat("en");

export function count(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

export function many(value, one, more = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : more}`;
}

export function sizeText(value) {
  let left = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]) {
    if (left < 1024 || unit === "PiB") return `${sign}${unit === "B" ? left : left.toFixed(left < 10 ? 2 : 1)} ${unit}`;
    left /= 1024;
  }
  return "";
}

export function size(value) {
  if (value === null || value === undefined) return NONE;
  return h("span", { title: `${count(value)} bytes` }, sizeText(value));
}

export function rate(value) {
  return value ? h("span", { title: `${count(Math.round(value))} bytes a second` }, `${sizeText(value)}/s`) : NONE;
}

export function part(value) {
  return value === null || value === undefined ? NONE : `${(value * 100).toFixed(value >= 0.9995 || value === 0 ? 0 : 1)} %`;
}

export function durationText(seconds) {
  const steps = [
    [86400, "d", 3600, "h"],
    [3600, "h", 60, "min"],
    [60, "min", 1, "s"],
  ];
  for (const [unit, name, under, small] of steps)
    if (seconds >= unit) {
      const rest = Math.floor((seconds % unit) / under);
      return `${Math.floor(seconds / unit)} ${name}` + (rest ? ` ${rest} ${small}` : "");
    }
  return seconds < 1 ? "under 1 s" : `${Math.round(seconds)} s`;
}

export function duration(seconds) {
  return seconds === null || seconds === undefined ? NONE : durationText(seconds);
}

export function ago(ns) {
  if (!ns) return NONE;
  const at = new Date(ns / 1e6);
  const seconds = (Date.now() - at.getTime()) / 1000;
  const text = seconds < 5 ? "just now" : `${durationText(seconds).split(" ").slice(0, 2).join(" ")} ago`;
  return h("time", { datetime: at.toISOString(), title: moment(ns) }, text);
}

export function moment(ns) {
  return new Date(ns / 1e6).toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
}

// A version id, cut for the eye; the whole of it in the title and to who copies.
export function id(text) {
  return h("code", { title: text }, text.slice(0, 12));
}

// ---- states: a sign and a word, so that no meaning is in the colour alone

const SIGNS = {
  good: ["✓", "good"],
  bad: ["✕", "bad"],
  warn: ["!", "warn"],
  busy: ["◔", "busy"],
  calm: ["○", "calm"],
};
const KINDS = {
  ...{ done: "good", resident: "good", alive: "good", success: "good", available: "good", normal: "good" },
  ...{ failed: "bad", silent: "bad", error: "bad", down: "bad" },
  ...{ warning: "warn", unstable: "warn", "disk trouble": "warn", "not there": "warn", unknown: "warn" },
  ...{ running: "busy", fetching: "busy", queued: "busy", waiting: "busy", freeing: "busy", counting: "busy" },
};

export function state(text, kind = KINDS[text] ?? "calm") {
  const [sign, name] = SIGNS[kind];
  return h("span", { class: `state ${name}` }, h("span", { class: "sign", "aria-hidden": "true" }, sign), text);
}

// How much of something: a bar, the share in words, and what `text` adds.
export function bar(done, total, label, text) {
  const filled = total > 0 ? Math.min(1, done / total) : 0;
  return h(
    "span",
    { class: "bar" },
    h("span", { class: "filled" }, h("progress", { max: 1, value: filled, "aria-label": label }), h("span", { class: "share" }, `${Math.floor(filled * 100)} %`)),
    text ? h("span", { class: "of" }, text) : null,
  );
}

export function link(text, href, top = true) {
  return h("a", { href, target: top ? "_top" : null }, text);
}

// Names and what stands for them, one a line.
export function facts(pairs, isWide = false) {
  return h(
    "dl",
    { class: isWide ? "facts wide" : "facts" },
    pairs.filter(Boolean).map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

export function trail(...steps) {
  return h(
    "nav",
    { class: "trail", "aria-label": "Where this is" },
    h("ol", {}, steps.map((step) => h("li", {}, step))),
  );
}

// A plain table that is small enough to be whole. columns: [{label, number, cell(row)}].
export function plainTable(caption, columns, rows, more = {}) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      more,
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, columns.map((one) => h("th", { scope: "col", class: one.number && "number" }, one.label)))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            columns.map((one, place) =>
              h(place ? "td" : "th", { scope: place ? null : "row", class: one.number && "number" }, one.cell(row)),
            ),
          ),
        ),
      ),
    ),
  );
}

// ---- questions to the server

export class Problem extends Error {
  constructor(told) {
    super(told.what);
    this.told = told;
  }
}

export async function ask(path, params = {}, options = {}) {
  const url = new URL(`data/${path}`, location.href);
  for (const [name, value] of Object.entries(params)) if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  let answer;
  try {
    answer = await fetch(url, { ...options, headers: { Accept: "application/json", "X-Outlap": "pages", ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ what: "Airflow's API server", why: "it does not answer", fix: "it is asked again" });
  }
  const told = await answer.json().catch(() => null);
  if (answer.ok) return told;
  if (answer.status === 401) throw new Problem({ what: "You are logged out", why: "", fix: "load Airflow again and log in" });
  if (answer.status === 403)
    throw new Problem({ what: "This is not for you", why: "your role in Airflow does not allow it", fix: "ask whoever administers Airflow" });
  throw new Problem(told?.what ? told : { what: `the answer was HTTP ${answer.status}`, why: "", fix: "see the log of the API server" });
}

export function order(path) {
  return ask(path, {}, { method: "POST" });
}

export function problemBox(told) {
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("strong", {}, told.what),
    told.why ? h("p", {}, told.why) : null,
    told.fix ? h("p", {}, `Next: ${told.fix}.`) : null,
  );
}

// What stands behind a page and does not answer: named, with how old the shown is.
export function services(listed) {
  const down = (listed ?? []).filter((one) => one.problem);
  return down.map((one) =>
    h(
      "details",
      { class: "notice" },
      h(
        "summary",
        {},
        state(`${one.idc} does not answer`, "warn"),
        one.at_ns ? [" What is shown of it was heard ", ago(one.at_ns), "."] : " Nothing was heard of it yet.",
      ),
      h("p", {}, `${one.problem.what}: ${one.problem.why}.`),
      one.problem.fix ? h("p", {}, `Next: ${one.problem.fix}.`) : null,
    ),
  );
}

// Load now and then again: `load(signal)` gives the seconds until the next time. Nothing is asked while nobody looks.
export function live(load) {
  let timer = null;
  let asking = null;
  let failures = 0;
  const failed = h("div", {});
  const again = (seconds) => {
    clearTimeout(timer);
    timer = setTimeout(run, seconds * 1000);
  };
  async function run() {
    if (document.hidden) return again(1);
    asking?.abort();
    const mine = (asking = new AbortController());
    try {
      const next = await load(mine.signal);
      failures = 0;
      failed.replaceChildren();
      if (mine === asking && next) again(next);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      failures += 1;
      if (!failed.isConnected) main.prepend(failed);
      failed.replaceChildren(problemBox(error.told));
      again(Math.min(30, 2 ** failures));
    }
  }
  run();
  return run;
}
