// The way of a version: published, synced, warmed, trained. Without ?dataset=&version= it asks for one.

import { ago, ask, bar, h, id, link, live, many, services, show, sizeText, state, title, trail } from "./common.js";
import { pageUrl, query, runUrl } from "./host.js";

const asked = query();
const dataset = asked.get("dataset");
const version = asked.get("version");

function step(name, kind, ...content) {
  return h("li", { class: `step ${kind}` }, h("h3", {}, name), h("div", {}, content));
}

const runLine = (run) => h("p", {}, state(run.state), " ", link(run.run, runUrl(run.dag, run.run)), " ", h("span", { class: "muted" }, `${run.dag}, `, ago(run.started_ns ?? run.queued_ns)));

function published(told) {
  return step("Published", "good", h("p", {}, ago(told.at_ns), ` by ${told.made_by}`, told.run ? [": ", link(told.run.run, runUrl(told.run.dag, told.run.run))] : ""),
    told.announced ? h("p", { class: "muted" }, "announced ", ago(told.announced.at_ns)) : h("p", { class: "muted" }, "not announced by a DAG: nothing follows by itself"));
}

function atIdc(one, told) {
  const jobs = one.jobs.map((job) => h("p", {}, state(job.state), " ", link(`${job.kind} ${job.id.slice(0, 12)}`, pageUrl("jobs", { idc: one.idc, job: job.id })), " ", bar(job.bytes_done, job.bytes_total, `${job.kind} in ${one.idc}`, `${sizeText(job.bytes_done)} of ${sizeText(job.bytes_total)}`)));
  const runs = (dag) => one.runs.filter((run) => run.dag === dag).map(runLine);
  const there = one.available === null ? state("unknown", "warn") : one.available ? state("available", "good") : state("not there yet", "busy");
  return h("section", {},
    h("h2", {}, one.idc, " ", one.is_here ? h("span", { class: "tag" }, "published here") : null),
    h("ol", { class: "way" },
      step(one.is_here ? "In the store" : "Synced", one.available ? "good" : "calm", h("p", {}, there, one.synced ? [" ", h("span", { class: "muted" }, "since ", ago(one.synced.at_ns), one.synced.extra.bytes_copied !== undefined ? `, ${sizeText(one.synced.extra.bytes_copied)} copied` : "")] : ""), runs("sync_dataset")),
      one.has_control
        ? step("Warm", one.nodes_resident ? "good" : one.jobs.some((job) => job.state === "running") ? "busy" : "calm", one.nodes === null ? h("p", {}, state("unknown", "warn"), " its control service does not answer") : h("p", {}, one.nodes_resident ? link(`resident on ${one.nodes_resident} of ${many(one.nodes, "node")}`, pageUrl("nodes", { idc: one.idc, holds: `${dataset}@${told.tag}` })) : `resident on none of ${many(one.nodes, "node")}`, one.mounts ? `, mounted ${many(one.mounts, "time")}` : ""), runs("warm_dataset"), jobs)
        : step("Warm", "calm", h("p", { class: "muted" }, "no control service: there is nothing to warm")),
    ));
}

function way() {
  const place = h("div", {});
  show(trail(link("Datasets", pageUrl("datasets")), link(dataset, pageUrl("datasets", { dataset })), "way"), title(`Way of ${dataset}@${version.slice(0, 12)}`), place);
  live(async (signal) => {
    const told = await ask(`way/${encodeURIComponent(dataset)}/${encodeURIComponent(version)}`, {}, { signal });
    document.querySelector("h1").replaceChildren(`Way of ${dataset}@${told.tag}`);
    const text = JSON.stringify(told);
    if (place.dataset.text === text && Date.now() - place.dataset.at < 10_000) return 3;
    Object.assign(place.dataset, { text, at: Date.now() });
    const focused = place.contains(document.activeElement) ? document.activeElement.href : null;
    place.replaceChildren(
      ...services(told.services),
      h("p", {}, link("All about this version", pageUrl("datasets", { dataset, version: told.version })), " ", id(told.version)),
      h("ol", { class: "way" }, published(told)),
      h("div", { class: "columns" }, told.idcs.map((one) => atIdc(one, told))),
      h("section", {}, h("h2", {}, "Trained on"), told.trainings.length ? told.trainings.map(runLine) : h("p", { class: "muted" }, "No run of scheduled_training names this version.")),
    );
    if (focused) [...place.querySelectorAll("a")].find((one) => one.href === focused)?.focus();
    return 3;
  });
}

function pick() {
  const name = h("input", { id: "dataset", required: true, autocomplete: "off" });
  const tag = h("input", { id: "version", value: "latest", required: true, autocomplete: "off" });
  const go = (event) => {
    event.preventDefault();
    location.assign(`trace?${new URLSearchParams({ dataset: name.value.trim(), version: tag.value.trim() })}`);
  };
  show(
    title("Way of a version"),
    h("p", {}, "From its publish through sync and warm-up to training, step by step. Name a version, or choose one in ", link("Datasets", pageUrl("datasets")), "."),
    h("form", { class: "filters", onsubmit: go },
      h("div", {}, h("label", { for: "dataset" }, "Dataset"), name),
      h("div", {}, h("label", { for: "version" }, "Tag or version id"), tag),
      h("button", { type: "submit", class: "primary" }, "Show its way")),
  );
}

if (dataset && version) way();
else pick();
