// Datasets; with ?dataset= its versions; with &version= one of them.

import { ago, ask, count, facts, h, id, link, live, moment, plainTable, show, size, sizeText, state, title, trail } from "./common.js";
import { pageUrl, query, runUrl } from "./host.js";
import { list } from "./list.js";

const asked = query();
const dataset = asked.get("dataset");
const version = asked.get("version");

function where(available, here) {
  const names = Object.keys(available);
  const there = names.filter((idc) => available[idc]);
  const text = (idc) => (available[idc] === null ? "unknown" : available[idc] ? "available" : "not there");
  const pill = (idc) => (available[idc] ? state(idc, "good") : available[idc] === null ? state(`${idc}: unknown`, "warn") : state(`${idc}: not there`, "calm"));
  return h(
    "ul",
    { class: "idcs", "aria-label": `Available in ${there.length} of ${names.length} IDCs` },
    names.map((idc) => h("li", { title: `${idc}${idc === here ? " (here)" : ""}: ${text(idc)}` }, pill(idc), available[idc] ? h("span", { class: "unseen" }, "available") : null)),
  );
}

function grown(row) {
  if (row.files_grown === null || row.files_grown === undefined) return null;
  const sign = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±");
  return h("span", { class: "muted", title: `${count(row.bytes_grown)} bytes` }, `${sign(row.bytes_grown)}${sizeText(Math.abs(row.bytes_grown))}`);
}

function changes(row) {
  const told = row.changes;
  if (told.state === "first") return h("span", { class: "muted" }, "first version");
  if (told.state === "counting") return h("span", { class: "muted" }, "counting…");
  if (told.state === "large") return h("span", { class: "muted", title: `${count(told.rows)} rows lie in parts that differ` }, "many: see the version");
  if (told.state === "unknown") return state("unknown", "warn");
  const kinds = [
    ["added", "+"],
    ["removed", "−"],
    ["changed", "~"],
  ];
  const some = kinds.filter(([kind]) => told[kind].files);
  if (!some.length) return h("span", { class: "muted" }, "the same files");
  return h(
    "ul",
    { class: "changes" },
    some.map(([kind, sign]) =>
      h("li", { title: `${count(told[kind].files)} files, ${count(told[kind].bytes)} bytes ${kind}` }, `${sign}${count(told[kind].files)} `, h("span", { class: "muted" }, `${kind}, ${sizeText(told[kind].bytes)}`)),
    ),
  );
}

const versionUrl = (name, of) => `datasets?${new URLSearchParams({ dataset: name, version: of })}`;
const datasetUrl = (name) => `datasets?${new URLSearchParams({ dataset: name })}`;

function allDatasets() {
  const { element } = list({
    path: "datasets",
    caption: "datasets",
    unit: ["dataset"],
    key: (row) => row.dataset,
    columns: [
      { label: "Dataset", sort: "dataset", cell: (row) => link(row.dataset, datasetUrl(row.dataset), false) },
      { label: "Newest version", cell: (row) => [link(row.tag, versionUrl(row.dataset, row.version), false), " ", id(row.version)] },
      { label: "Published", sort: "at_ns", number: true, cell: (row) => ago(row.at_ns) },
      { label: "Files", sort: "files", number: true, cell: (row) => count(row.files) },
      { label: "Size", sort: "bytes", number: true, cell: (row) => size(row.bytes) },
      { label: "Versions", sort: "versions", number: true, cell: (row) => count(row.versions) },
      { label: "Available in", cell: (row, data) => where(row.available, data.here) },
    ],
    empty: (data) => [
      h("p", {}, `No dataset is published in ${data.here} yet.`),
      h("p", {}, "Next: ", link("run publish_dataset", "../../dags/publish_dataset"), ", or ", h("code", {}, "outlap publish NAME --query …"), " on the command line."),
    ],
    every: () => 10,
  });
  show(title("Datasets"), element);
}

function allVersions() {
  const { element } = list({
    path: `datasets/${encodeURIComponent(dataset)}`,
    fixed: ["dataset"],
    caption: `versions of ${dataset}`,
    unit: ["version"],
    key: (row) => row.version,
    columns: [
      {
        label: "Version",
        cell: (row) => [link(row.tag, versionUrl(dataset, row.version), false), " ", id(row.version), h("div", { class: "tags" }, row.tags.map((tag) => h("span", { class: "tag" }, tag)))],
      },
      { label: "Published", number: true, sort: "at_ns", cell: (row) => ago(row.at_ns) },
      { label: "Changed against the one before", cell: changes },
      { label: "Files", number: true, cell: (row) => count(row.files) },
      { label: "Size", number: true, cell: (row) => [size(row.bytes), h("br"), grown(row)] },
      { label: "Made by", cell: (row) => [row.made_by, row.query ? h("code", { class: "query", title: row.query }, row.query) : null] },
      { label: "Available in", cell: (row, data) => where(row.available, data.here) },
    ],
    empty: () => h("p", {}, "This dataset has no version any more."),
    every: (data) => (data.rows.some((row) => row.changes.state === "counting" || row.bytes === null) ? 1 : 10),
  });
  show(trail(link("Datasets", "datasets", false), dataset), title(dataset), element);
}

async function oneVersion() {
  const counting = { now: false };
  const place = h("div", {});
  show(trail(link("Datasets", "datasets", false), link(dataset, datasetUrl(dataset), false), version), title(`${dataset}@${version.slice(0, 12)}`), place);
  const refresh = live(async (signal) => {
    const told = await ask(`datasets/${encodeURIComponent(dataset)}/${encodeURIComponent(version)}`, { count: counting.now || "" }, { signal });
    place.parentElement.querySelector("h1").replaceChildren(`${dataset}@${told.tag} `, ...told.tags.flatMap((tag) => [h("span", { class: "tag" }, tag), " "]));
    place.parentElement.querySelector(".trail li:last-child").textContent = told.tag;
    const holds = told.holds;
    const drives = holds?.drives;
    const text = JSON.stringify(told);
    if (place.dataset.text === text) return told.changes.state === "counting" ? 1 : 20;
    place.dataset.text = text;
    place.replaceChildren(
      h(
        "div",
        { class: "columns" },
        h("section", {}, h("h2", {}, "What it is"), facts([
          ["Version id", h("code", { class: "whole" }, told.version)],
          ["Published", ago(told.at_ns), " ", h("span", { class: "muted" }, moment(told.at_ns))],
          ["Files", holds ? count(holds.files) : "being read…"],
          ["Size", holds ? size(holds.bytes) : "being read…"],
          ["Packs", holds ? count(holds.packs) : "–"],
          ["Parts of the manifest", holds ? count(holds.parts) : "–"],
          ["Before it", told.before ? link(told.before.tag, versionUrl(dataset, told.before.version), false) : "nothing: it is the first"],
          ["After it", told.after ? link(told.after.tag, versionUrl(dataset, told.after.version), false) : "nothing: it is the newest"],
        ])),
        h("section", {}, h("h2", {}, "What made it"), facts([
          ["By", told.made_by],
          told.run && ["Run", link(told.run.run, runUrl(told.run.dag, told.run.run))],
          told.origin.idc && ["In", told.origin.idc],
          ...Object.entries(told.origin).filter(([name]) => !["by", "dag", "run", "idc", "query"].includes(name)).map(([name, value]) => [name, h("code", { class: "whole" }, String(value))]),
          told.origin.query && ["Query", h("pre", { tabindex: "0" }, told.origin.query)],
        ])),
      ),
      h("div", { class: "columns" }, h("section", {}, h("h2", {}, "What changed"), change(told, () => { counting.now = true; refresh(); })),
      h("section", {}, h("h2", {}, "Where it is"), where(told.available, told.here), h("p", {},
        link("Its way: published, synced, warmed, trained", pageUrl("trace", { dataset, version: told.version })), " · ",
        link("Nodes that hold it", pageUrl("nodes", { holds: `${dataset}@${told.tag}` })), " · ",
        link("Its jobs", pageUrl("jobs", { search: told.version.slice(0, 12) }))))),
      drives ? h("section", {}, h("h2", {}, `Drives: ${count(drives.total)}`), drivesTable(drives)) : "",
      holds ? h("section", {}, h("h2", {}, "Columns"), h("p", { class: "wrap" }, holds.columns.map((one) => [h("code", {}, one.name), h("span", { class: "muted" }, ` ${one.type}  `)]))) : "",
    );
    return told.changes.state === "counting" || !holds ? 1 : 20;
  });
}

function change(told, countAll) {
  const it = told.changes;
  if (it.state === "first") return h("p", {}, "Nothing: no version came before it.");
  if (it.state === "counting") return h("p", {}, "Being counted…");
  if (it.state === "unknown") return h("p", {}, state("unknown", "warn"), ` ${it.problem.what}: ${it.problem.why}`);
  if (it.state === "large")
    return h("p", {}, `${count(it.rows)} rows lie in parts that differ from ${told.before.tag}; to count them takes a while. `, h("button", { type: "button", onclick: countAll }, "Count them"));
  const rows = ["added", "removed", "changed"].map((kind) => ({ kind, ...it[kind] }));
  return plainTable(`Changes against ${told.before.tag}`, [
    { label: `Against ${told.before.tag}`, cell: (row) => row.kind },
    { label: "Files", number: true, cell: (row) => count(row.files) },
    { label: "Size", number: true, cell: (row) => size(row.bytes) },
  ], rows, { class: "small" });
}

function drivesTable(drives) {
  const less = drives.total > drives.rows.length ? h("p", { class: "muted" }, `The ${count(drives.rows.length)} largest are shown.`) : null;
  return [less, plainTable("Drives", [
    { label: "Drive", cell: (row) => row.drive },
    { label: "Vehicle", cell: (row) => row.vehicle ?? "–" },
    { label: "Files", number: true, cell: (row) => count(row.files) },
    { label: "Size", number: true, cell: (row) => size(row.bytes) },
  ], drives.rows, { class: "small" })];
}

if (dataset && version) oneVersion();
else if (dataset) allVersions();
else allDatasets();
