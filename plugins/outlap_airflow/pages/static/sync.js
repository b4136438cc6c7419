// How far each destination is behind; with ?to= the versions that one lacks.

import { ago, ask, count, h, id, link, live, many, services, show, size, state, title, trail } from "./common.js";
import { pageUrl, query, runUrl } from "./host.js";
import { list } from "./list.js";

const asked = query();

function lag(row, here) {
  const isLevel = row.versions_missing === 0;
  return h(
    "article",
    { class: "card" },
    h("h2", {}, `${here} → ${row.idc}`),
    row.is_known
      ? h("p", { class: "big" }, isLevel ? state("level: every version is there", "good") : state(`${many(row.versions_missing, "version")} behind`, "warn"))
      : h("p", { class: "big" }, state("unknown: its store does not answer", "warn")),
    h(
      "dl",
      { class: "facts" },
      [
        ["Versions here", count(row.versions)],
        ["Not there yet", row.versions_missing ? link(many(row.versions_missing, "version"), `sync?to=${encodeURIComponent(row.idc)}`, false) : count(row.versions_missing)],
        ["Bytes to copy, at most", row.bytes_missing === null ? (row.is_known ? "being counted…" : "–") : size(row.bytes_missing)],
        ["Oldest published", row.oldest_ns ? ago(row.oldest_ns) : "–"],
        ["Datasets behind", row.datasets_behind.length ? row.datasets_behind.join(", ") : "none"],
        ["Sync runs under way", row.runs_total ? h("ul", { class: "plain" }, row.runs.map((run) => h("li", {}, link(run.run, runUrl(run.dag, run.run)), " ", state(run.state), run.started_ns ? [" ", h("span", { class: "muted" }, "since ", ago(run.started_ns))] : null)), row.runs_total > row.runs.length ? h("li", {}, `and ${row.runs_total - row.runs.length} more`) : null) : "none"],
      ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
  );
}

function links() {
  const place = h("div", {});
  show(title("Sync lag"), place);
  live(async (signal) => {
    const told = await ask("sync", {}, { signal });
    const focused = place.contains(document.activeElement) ? document.activeElement.href : null;
    if (place.querySelector("details[open]")) return 5;
    place.replaceChildren(
      ...services(told.services),
      told.links.length
        ? h("div", { class: "cards" }, told.links.map((row) => lag(row, told.here)))
        : h("div", { class: "empty" }, h("p", {}, `Versions of ${told.here} are synced nowhere: the settings name no other IDC.`), h("p", {}, "Next: describe one in ", h("code", {}, "[idc.NAME]"), " of outlap.toml.")),
      told.runs_unplaced ? h("p", { class: "muted" }, `${many(told.runs_unplaced, "more sync run")} under way to every destination.`) : "",
    );
    if (focused) [...place.querySelectorAll("a")].find((one) => one.href === focused)?.focus();
    return 5;
  });
}

function missing(idc) {
  const { element } = list({
    path: `sync/${encodeURIComponent(idc)}`,
    fixed: ["to"],
    caption: `versions that ${idc} lacks`,
    unit: ["version"],
    key: (row) => `${row.dataset}/${row.version}`,
    columns: [
      { label: "Version", sort: "dataset", cell: (row) => [link(`${row.dataset}@${row.tag}`, pageUrl("datasets", { dataset: row.dataset, version: row.version })), " ", id(row.version)] },
      { label: "Published", number: true, sort: "at_ns", cell: (row) => ago(row.at_ns) },
      { label: "Bytes to copy, at most", number: true, sort: "bytes_missing", cell: (row) => (row.bytes_missing === null ? h("span", { class: "muted" }, "being counted…") : size(row.bytes_missing)) },
      { label: "Sync", cell: (row) => [row.run ? [state(row.run.state), " ", link(row.run.run, runUrl(row.run.dag, row.run.run))] : h("span", { class: "muted" }, "no run under way"), row.dead ? [" ", h("span", { title: row.dead }, state("objects could not be copied", "bad"))] : null] },
    ],
    empty: () => h("p", {}, state("Every version is there.", "good")),
    every: () => 5,
  });
  show(trail(link("Sync lag", "sync", false), idc), title(`What ${idc} lacks`), h("p", {}, link("Run sync_dataset", "../../dags/sync_dataset"), " copies a version by hand; a publish starts it by itself."), element);
}

if (asked.get("to")) missing(asked.get("to"));
else links();
