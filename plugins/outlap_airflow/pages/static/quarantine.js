// Refused drives, and another try; with ?vehicle=&drive= everything that was found in one.

import { ago, ask, count, facts, h, link, live, many, moment, order, plainTable, problemBox, say, show, state, title, trail } from "./common.js";
import { query, runUrl } from "./host.js";
import { list } from "./list.js";

const asked = query();
const UNDERWAY = ["queued", "running"];
const path = (row) => `quarantine/${encodeURIComponent(row.vehicle)}/${encodeURIComponent(row.drive)}`;
const driveUrl = (row) => `quarantine?${new URLSearchParams({ vehicle: row.vehicle, drive: row.drive })}`;

function finding(one) {
  return h("li", {}, state(one.severity), " ", h("code", {}, one.rule), one.file ? [" in ", h("code", { class: "whole" }, one.file)] : null, ": ", one.evidence, one.inferred ? h("span", { class: "muted" }, " (inferred)") : null);
}

function lastTry(run) {
  return run ? [state(run.state), " ", link("run", runUrl(run.dag, run.run)), " ", h("span", { class: "muted" }, ago(run.queued_ns))] : h("span", { class: "muted" }, "none");
}

function again(row, may, done) {
  const isUnderway = row.run && UNDERWAY.includes(row.run.state);
  const button = h("button", { type: "button", disabled: !may || isUnderway, title: may ? null : "Your role may not run ingest_drives", "aria-label": `Try ${row.vehicle}/${row.drive} again` }, isUnderway ? "Being tried" : "Try again");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const run = await order(`${path(row)}/again`);
      say(`${row.vehicle}/${row.drive} is tried again: run ${run.run} is ${run.state}`);
      done({ run });
    } catch (error) {
      button.disabled = false;
      done({ error });
    }
  });
  return button;
}

function dismiss(row, may, done) {
  const name = `${row.vehicle}/${row.drive}`;
  const button = h("button", { type: "button", disabled: !may, title: may ? "Not listed any more, and not tried again until its upload changes" : "Your role may not run ingest_drives", "aria-label": `Dismiss ${name}` }, "Dismiss");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await order(`${path(row)}/dismiss`);
      say(`${name} is dismissed`);
      done({});
    } catch (error) {
      button.disabled = false;
      done({ error });
    }
  });
  return button;
}

function all() {
  const told = h("div", {});
  const known = new Set();
  const refused = list({
    path: "quarantine",
    caption: "refused drives",
    unit: ["drive"],
    key: (row) => `${row.vehicle}/${row.drive}`,
    filters: [
      { name: "rule", label: "Rule", values: (data) => Object.entries(data.rules).map(([name, number]) => [name, `${name} (${number})`]) },
      { name: "vehicle", label: "Vehicle", values: (data) => data.vehicles.map((name) => [name, name]) },
    ],
    columns: [
      { label: "Drive", sort: "drive", cell: (row) => [link(row.drive, driveUrl(row), false), h("br"), h("span", { class: "muted" }, row.vehicle)] },
      { label: "Refused", number: true, sort: "at_ns", cell: (row) => ago(row.at_ns) },
      {
        label: "Why",
        sort: "rule",
        cell: (row) => [
          h("ul", { class: "findings" }, row.first.map(finding)),
          row.findings_total > row.first.length ? link(`all ${count(row.findings_total)} findings`, driveUrl(row), false) : null,
        ],
      },
      { label: "Last try", cell: (row) => lastTry(row.run) },
      { label: "Try again", cell: (row, data) => again(row, data.may_drive_again, (outcome) => answered(row, outcome)) },
      { label: "Dismiss", cell: (row, data) => dismiss(row, data.may_drive_again, (outcome) => dismissed(row, outcome)) },
    ],
    empty: () => [h("p", {}, state("No drive is in quarantine.", "good")), h("p", {}, "A drive that a rule refuses is listed here, with the evidence.")],
    every: (data) => (data.rows.some((row) => row.run && UNDERWAY.includes(row.run.state)) ? 2 : 10),
    drawn: (data) => {
      const there = new Set(data.rows.map((row) => `${row.vehicle}/${row.drive}`));
      const gone = [...known].filter((name) => !there.has(name));
      if (gone.length) say(`${gone.join(", ")}: no longer in quarantine`);
      known.clear();
      for (const row of data.rows) if (row.run && UNDERWAY.includes(row.run.state)) known.add(`${row.vehicle}/${row.drive}`);
    },
  });

  function answered(row, { run, error }) {
    told.replaceChildren(error ? problemBox(error.told) : h("p", { class: "notice" }, state(run.state), ` ${row.vehicle}/${row.drive} is tried again: `, link(run.run, runUrl(run.dag, run.run))));
    refused.refresh();
  }
  function dismissed(row, { error }) {
    told.replaceChildren(error ? problemBox(error.told) : h("p", { class: "notice" }, `${row.vehicle}/${row.drive} is dismissed. outlap quarantine ls --dismissed lists it.`));
    refused.refresh();
  }
  show(title("Quarantine"), told, refused.element);
}

function one(vehicle, drive) {
  const told = h("div", {});
  const place = h("div", {});
  show(trail(link("Quarantine", "quarantine", false), vehicle, drive), title(`${vehicle}/${drive}`), told, place);
  const refresh = live(async (signal) => {
    const row = await ask(path({ vehicle, drive }), {}, { signal });
    const text = JSON.stringify(row);
    if (place.dataset.text === text) return 3;
    place.dataset.text = text;
    const focused = place.contains(document.activeElement) && document.activeElement.tagName === "BUTTON";
    place.replaceChildren(
      facts([
        ["Refused", ago(row.at_ns), " ", h("span", { class: "muted" }, moment(row.at_ns))],
        ["Found", `${many(row.errors, "error")}, ${many(row.warnings, "warning")}`],
        ["Last try", lastTry(row.run)],
        ["Upload", h("code", { class: "whole" }, row.fingerprint)],
      ]),
      h("p", { class: "buttons" }, again(row, row.may_drive_again, ({ run, error }) => {
        told.replaceChildren(error ? problemBox(error.told) : h("p", { class: "notice" }, state(run.state), " It is tried again: ", link(run.run, runUrl(run.dag, run.run))));
        refresh();
      }), row.may_drive_again ? "" : h("span", { class: "muted" }, "Your role may not run ingest_drives.")),
      h("p", {}, "Another try makes sense after a corrected upload, a change of the vehicle's profile, or a new release."),
      h("h2", {}, "Everything that was found"),
      plainTable("Findings", [
        { label: "Severity", cell: (found) => state(found.severity) },
        { label: "Rule", cell: (found) => h("code", {}, found.rule) },
        { label: "File", cell: (found) => (found.file ? h("code", { class: "whole" }, found.file) : "–") },
        { label: "Evidence", cell: (found) => found.evidence },
        { label: "How", cell: (found) => (found.inferred ? "inferred" : "seen") },
      ], row.findings),
    );
    if (focused) place.querySelector("button:not(:disabled)")?.focus();
    return row.run && UNDERWAY.includes(row.run.state) ? 2 : 10;
  });
}

if (asked.get("vehicle") && asked.get("drive")) one(asked.get("vehicle"), asked.get("drive"));
else all();
