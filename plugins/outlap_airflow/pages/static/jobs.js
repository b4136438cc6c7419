// Warm and free jobs of all IDCs; with ?idc=&job= one of them, node by node.

import { ago, bar, count, duration, durationText, facts, h, id, link, many, moment, order, plainTable, problemBox, rate, say, show, sizeText, state, title, trail } from "./common.js";
import { pageUrl, query } from "./host.js";
import { list } from "./list.js";

const asked = query();
const ENDED = ["done", "failed", "cancelled"];
const jobUrl = (row) => `jobs?${new URLSearchParams({ idc: row.idc, job: row.id })}`;

function progress(row, label) {
  return bar(row.bytes_done, row.bytes_total, label, h("span", { title: `${count(row.bytes_done)} of ${count(row.bytes_total)} bytes` },
    `${sizeText(row.bytes_done)} of ${sizeText(row.bytes_total)}`));
}

function rest(row) {
  if (row.state === "done") return h("span", { class: "muted" }, `took ${durationText((row.ended_ns - row.created_ns) / 1e9)}`);
  if (ENDED.includes(row.state)) return "–";
  return row.eta_s === null ? h("span", { class: "muted", title: "no rate was measured yet" }, "not known yet") : duration(row.eta_s);
}

function allJobs() {
  const { element } = list({
    path: "jobs",
    caption: "jobs",
    unit: ["job"],
    key: (row) => `${row.idc}/${row.id}`,
    filters: [
      { name: "idc", label: "IDC", values: (data) => data.idcs.map((idc) => [idc, idc]) },
      { name: "state", label: "State", values: (data) => [["active", "under way"], ...["queued", "running", "done", "failed", "cancelled"].map((name) => [name, `${name} (${data.counts[name] ?? 0})`])] },
      { name: "kind", label: "Kind", values: () => [["warm", "warm"], ["free", "free"]] },
    ],
    columns: [
      { label: "Job", cell: (row) => [link(`${row.kind} ${row.dataset}@${row.tag}`, jobUrl(row), false), h("br"), h("code", { class: "muted", title: row.id }, row.id.slice(0, 12))] },
      { label: "IDC", sort: "idc", cell: (row) => row.idc },
      { label: "State", sort: "state", cell: (row) => [state(row.state), row.error ? h("div", { class: "muted why", title: row.error }, row.error) : null] },
      { label: "Resident on every node", sort: "bytes_total", cell: (row) => progress(row, `${row.kind} ${row.dataset}@${row.tag}`) },
      { label: "Files", number: true, cell: (row) => h("span", {}, `${count(row.files_done)} of ${count(row.files_total)}`) },
      { label: "Rate", number: true, cell: (row) => (ENDED.includes(row.state) ? "–" : rate(row.rate_bps)) },
      { label: "Left", number: true, sort: "eta_s", cell: rest },
      { label: "Begun", number: true, sort: "created_ns", cell: (row) => ago(row.created_ns) },
    ],
    empty: (data) =>
      data.idcs.length
        ? [h("p", {}, "No version was warmed or freed yet."), h("p", {}, "Next: ", link("run warm_dataset", "../../dags/warm_dataset"), ", or ", h("code", {}, "outlap warm NAME@TAG"), " on the command line.")]
        : [h("p", {}, "The settings name no control service, so there is nothing to warm."), h("p", {}, "Next: set ", h("code", {}, "control"), " in ", h("code", {}, "[idc.NAME]"), " of outlap.toml.")],
    every: (data) => (data.rows.some((row) => !ENDED.includes(row.state)) ? 2 : 5),
    drawn: (data) => {
      const running = data.rows.filter((row) => row.state === "running");
      if (running.length) say(`${many(running.length, "job")} under way; ${running[0].kind} ${running[0].dataset}@${running[0].tag}: ${Math.floor((10 * running[0].bytes_done) / Math.max(1, running[0].bytes_total)) * 10} per cent`);
    },
  });
  show(title("Warm jobs"), element);
}

function oneJob(idc, job) {
  const head = h("div", {});
  const buttons = h("div", { class: "buttons" });
  const after = h("div", {});
  const failures = h("section", {});
  let known = null;
  const nodes = list({
    path: `jobs/${encodeURIComponent(idc)}/${encodeURIComponent(job)}`,
    fixed: ["idc", "job"],
    caption: "nodes of this job",
    unit: ["node"],
    key: (row) => row.node,
    filters: [{ name: "state", label: "State", values: () => Object.entries(known?.node_states ?? {}).map(([name, number]) => [name, `${name} (${number})`]) }],
    columns: [
      { label: "Node", sort: "node", cell: (row) => link(row.node, pageUrl("nodes", { idc, node: row.node })) },
      { label: "State", sort: "state", cell: (row) => state(row.state) },
      { label: "Resident", sort: "bytes_done", cell: (row) => progress(row, row.node) },
      { label: "Files", number: true, cell: (row) => `${count(row.files_done)} of ${count(row.files_total)}` },
      { label: "Rate", number: true, sort: "rate_bps", cell: (row) => rate(row.rate_bps) },
      { label: "Left", number: true, cell: (row) => duration(row.eta_s) },
      { label: "Failures", number: true, sort: "failures", cell: (row) => (row.failures ? state(count(row.failures), "bad") : "0") },
    ],
    empty: () => h("p", {}, "No node was chosen."),
    fetched: (told) => {
      known = told;
      drawJob(told);
      return { ...told.nodes, services: [] };
    },
    every: () => (known && ENDED.includes(known.state) ? 15 : 1.5),
  });

  function drawJob(told) {
    document.querySelector("h1").replaceChildren(`${told.kind === "warm" ? "Warm" : "Free"} ${told.dataset}@${told.tag}`);
    const per = Math.floor((100 * told.bytes_done) / Math.max(1, told.bytes_total));
    say(`${told.state}, ${ENDED.includes(told.state) ? "" : `${Math.floor(per / 5) * 5} per cent`}`);
    head.replaceChildren(
      h("p", { class: "big" }, state(told.state), " ", progress(told, "Resident on every node")),
      told.error ? h("p", { class: "cause" }, told.error) : "",
      told.cause ? h("p", { class: "muted" }, `Begun because: ${told.cause}`) : "",
      facts([
        ["Version", link(`${told.dataset}@${told.tag}`, pageUrl("datasets", { dataset: told.dataset, version: told.version })), " ", id(told.version)],
        ["IDC", told.idc],
        ["Nodes", count(told.node_count)],
        ["Files on every node", `${count(told.files_done)} of ${count(told.files_total)}`],
        ["Rate of all nodes", ENDED.includes(told.state) ? "–" : rate(told.rate_bps)],
        ["Left", rest(told)],
        ["Begun", ago(told.created_ns), " ", h("span", { class: "muted" }, moment(told.created_ns))],
        told.ended_ns && ["Ended", ago(told.ended_ns)],
        ["Job", h("code", { class: "whole" }, told.id)],
      ], true),
    );
    drawButtons(told);
    drawFailures(told);
  }

  function drawButtons(told) {
    const text = JSON.stringify([told.orders, told.may_order]);
    if (buttons.dataset.text === text) return;
    buttons.dataset.text = text;
    const names = { cancel: "Cancel this warm-up", resume: "Resume this warm-up" };
    buttons.replaceChildren(
      ...told.orders.map((name) =>
        h("button", { type: "button", class: name === "cancel" ? "danger" : "primary", disabled: !told.may_order, "aria-describedby": told.may_order ? null : "why-not", onclick: (event) => give(name, event.currentTarget) }, names[name]),
      ),
      told.orders.length && !told.may_order ? h("span", { id: "why-not", class: "muted" }, "Your role may not run warm_dataset.") : "",
    );
  }

  async function give(name, button) {
    if (name === "cancel" && !button.dataset.sure) {
      button.dataset.sure = "yes";
      button.textContent = "Really cancel? What is resident stays";
      return;
    }
    button.disabled = true;
    try {
      const told = await order(`jobs/${encodeURIComponent(idc)}/${encodeURIComponent(job)}/${name}`);
      say(`The job is ${told.state}`);
      after.replaceChildren(h("p", { class: "notice" }, state(told.state), ` ${name === "cancel" ? "Cancelled" : "Resumed"}.`, told.id === job ? "" : [" It goes on as ", link(told.id.slice(0, 12), jobUrl({ idc, id: told.id }), false), "."]));
    } catch (error) {
      after.replaceChildren(problemBox(error.told));
      button.disabled = false;
    }
    nodes.refresh();
  }

  function drawFailures(told) {
    const text = JSON.stringify(told.failures);
    if (failures.dataset.text === text) return;
    failures.dataset.text = text;
    failures.hidden = !told.failures.length;
    const more = told.failures_total - told.failures.length;
    failures.replaceChildren(
      h("h2", {}, `Failures: ${count(told.failures_total)}`),
      plainTable("Failures", [
        { label: "Path", cell: (row) => (row.path ? h("code", { class: "whole" }, row.path) : "the whole version") },
        { label: "Cause", cell: (row) => row.cause },
        { label: "Node", cell: (row) => (row.node ? link(row.node, pageUrl("nodes", { idc, node: row.node })) : "–") },
      ], told.failures),
      more > 0 ? h("p", { class: "muted" }, `and ${count(more)} more`) : "",
    );
  }

  failures.hidden = true;
  show(trail(link("Warm jobs", "jobs", false), job.slice(0, 12)), title("Job"), head, buttons, after, failures, h("h2", {}, "Node by node"), nodes.element);
}

if (asked.get("job") && asked.get("idc")) oneJob(asked.get("idc"), asked.get("job"));
else allJobs();
