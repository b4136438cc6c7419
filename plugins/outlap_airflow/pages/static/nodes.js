// Nodes of all IDCs, or versions by how many nodes hold them; with ?idc=&node= one node.

import { ago, ask, bar, count, facts, h, id, link, live, many, part, plainTable, rate, services, show, size, sizeText, state, title, trail } from "./common.js";
import { pageUrl, query } from "./host.js";
import { list } from "./list.js";

const asked = query();
const nodeUrl = (row) => `nodes?${new URLSearchParams({ idc: row.idc, node: row.node })}`;

function full(used, quota, label) {
  return bar(used, quota, label, h("span", { title: `${count(used)} of ${count(quota)} bytes` }, `${sizeText(used)} of ${sizeText(quota)}`));
}

function draining() {
  return h("span", { class: "tag", title: "It hands over its shares of spread versions, and gets no new ones." }, "draining");
}

function pin(row) {
  if (!row.pinned) return null;
  const who = row.pinned_by ? `pinned by ${row.pinned_by}` : "pinned";
  return h("span", { class: "tag", title: "Kept from eviction; only a forced free releases it." }, who, row.pinned_ns ? [" ", ago(row.pinned_ns)] : null);
}

function tabs(chosen) {
  const tab = (name, text) => h("a", { href: name ? `nodes?view=${name}` : "nodes", "aria-current": name === chosen ? "page" : null }, text);
  return h("nav", { class: "tabs", "aria-label": "Views" }, tab("", "Nodes"), tab("residency", "Residency by version"));
}

const idcFilter = { name: "idc", label: "IDC", values: (data) => data.idcs.map((idc) => [idc, idc]) };

function none(data) {
  return data.idcs.length
    ? [h("p", {}, "No node has reported yet."), h("p", {}, "Next: start an agent on each node (", h("code", {}, "python -m cacheengine.agent"), "), or ", h("code", {}, "outlap up"), " on this machine.")]
    : [h("p", {}, "The settings name no control service."), h("p", {}, "Next: set ", h("code", {}, "control"), " in ", h("code", {}, "[idc.NAME]"), " of outlap.toml.")];
}

function allNodes() {
  const { element } = list({
    path: "nodes",
    caption: "nodes",
    unit: ["node"],
    key: (row) => `${row.idc}/${row.node}`,
    filters: [
      idcFilter,
      { name: "state", label: "State", values: (data) => ["alive", "silent", "disk trouble"].map((name) => [name, `${name} (${data.counts[name] ?? 0})`]) },
      { name: "role", label: "Role", values: () => ["gpu", "cache", "client"].map((name) => [name, name]) },
      ...(asked.get("holds") ? [{ name: "holds", label: "Holds", values: () => [[asked.get("holds"), asked.get("holds")]] }] : []),
    ],
    above: (data) =>
      data.total
        ? h("ul", { class: "sums" },
            h("li", {}, h("strong", {}, count(data.counts.alive ?? 0)), " alive"),
            h("li", {}, h("strong", {}, count(data.counts.silent ?? 0)), " silent"),
            h("li", {}, h("strong", {}, count(data.counts["disk trouble"] ?? 0)), " with disk trouble"),
            h("li", {}, h("strong", { title: `${count(data.sum.used)} bytes` }, sizeText(data.sum.used)), ` of ${sizeText(data.sum.quota)} used`),
            h("li", {}, h("strong", {}, part(data.sum.hit_part)), " of bytes read were resident"))
        : null,
    columns: [
      { label: "Node", sort: "node", cell: (row) => [link(row.node, nodeUrl(row), false), h("br"), h("span", { class: "muted", title: row.labels }, row.idc)] },
      { label: "State", sort: "state", cell: (row) => [state(row.state), row.draining ? [" ", draining()] : null, row.state === "silent" ? h("span", { class: "muted" }, " heard ", ago(row.seen_ns)) : null] },
      { label: "Role", sort: "role", cell: (row) => row.role },
      { label: "Cache used", sort: "used_part", cell: (row) => (row.quota ? full(row.used, row.quota, `Cache of ${row.node}`) : h("span", { class: "muted" }, "none")) },
      { label: "Disks", cell: (row) => [`${row.disks} ${row.media.join(", ")}`, row.disks_bad ? [" ", state(`${row.disks_bad} bad`, "bad")] : null] },
      { label: "Hit rate", number: true, sort: "hit_part", cell: (row) => h("span", { title: `${count(row.hit_bytes)} bytes resident, ${count(row.miss_bytes)} fetched` }, part(row.hit_part)) },
      { label: "Fetches at", number: true, sort: "fetch_bps", cell: (row) => rate(row.fetch_bps) },
      { label: "From store", number: true, cell: (row) => size(row.store_bytes) },
      { label: "Versions", number: true, sort: "versions", cell: (row) => count(row.versions) },
      { label: "Pinned", number: true, sort: "pinned", cell: (row) => count(row.pinned) },
      { label: "Mounts", number: true, cell: (row) => count(row.mounts) },
    ],
    empty: none,
    every: () => 3,
  });
  show(title("Nodes and residency"), tabs(""), element);
}

function residency() {
  const { element } = list({
    path: "residency",
    fixed: ["view"],
    caption: "versions on nodes",
    unit: ["version"],
    key: (row) => [row.idc, row.dataset, row.version, row.list_id].join("/"),
    filters: [idcFilter],
    columns: [
      { label: "Version", sort: "dataset", cell: (row) => [link(`${row.dataset}@${row.tag}`, pageUrl("datasets", { dataset: row.dataset, version: row.version })), " ", id(row.version), row.list_id ? h("span", { class: "tag", title: `file list ${row.list_id}` }, "some files") : null] },
      { label: "IDC", cell: (row) => row.idc },
      { label: "Resident on", number: true, sort: "resident", cell: (row) => link(many(row.resident, "node"), `nodes?${new URLSearchParams({ idc: row.idc, holds: `${row.dataset}@${row.tag}` })}`, false) },
      { label: "On its way", number: true, sort: "underway", cell: (row) => (row.underway ? state(count(row.underway), "busy") : "0") },
      { label: "Failed", number: true, sort: "failed", cell: (row) => (row.failed ? state(count(row.failed), "bad") : "0") },
      { label: "Mounted on", number: true, sort: "mounted", cell: (row) => many(row.mounted, "node") },
      { label: "Pinned on", number: true, sort: "pinned", cell: (row) => many(row.pinned, "node") },
      { label: "Size", number: true, sort: "bytes_total", cell: (row) => size(row.bytes_total) },
      { label: "Held in all", number: true, sort: "bytes_resident", cell: (row) => size(row.bytes_resident) },
    ],
    empty: (data) => [h("p", {}, "No node holds a version."), h("p", {}, "Next: ", link("run warm_dataset", "../../dags/warm_dataset"), data.idcs.length ? "." : ", once the settings name a control service.")],
    every: () => 5,
  });
  show(title("Nodes and residency"), tabs("residency"), element);
}

function oneNode(idc, node) {
  const place = h("div", {});
  show(trail(link("Nodes", "nodes", false), idc, node), title(node), place);
  live(async (signal) => {
    const told = await ask(`nodes/${encodeURIComponent(idc)}/${encodeURIComponent(node)}`, {}, { signal });
    const text = JSON.stringify({ ...told, seen_ns: 0, services: 0 });
    if (place.dataset.text === text) return 3;
    place.dataset.text = text;
    place.replaceChildren(
      ...services(told.services),
      facts([
        ["State", state(told.state), " ", told.draining ? [draining(), " "] : "", h("span", { class: "muted" }, "heard ", ago(told.seen_ns))],
        ["IDC", told.idc],
        ["Role", told.role],
        ["Labels", told.labels || "–"],
        ["Agent", h("code", {}, told.address)],
        ["Hit rate", part(told.hit_part), " ", h("span", { class: "muted" }, `${sizeText(told.hit_bytes)} resident, ${sizeText(told.miss_bytes)} fetched while read`)],
        ["From the store", size(told.store_bytes), " ", h("span", { class: "muted" }, `in ${many(told.store_requests, "request")}`)],
        ["Fetches at", rate(told.fetch_bps)],
      ], true),
      h("h2", {}, "Cache directories"),
      told.dirs.length ? plainTable("Cache directories", [
        { label: "Directory", cell: (row) => h("code", {}, row.path) },
        { label: "Medium", cell: (row) => row.medium },
        { label: "State", cell: (row) => state(row.state) },
        { label: "Quota used", cell: (row) => full(row.used, row.quota, row.path) },
        { label: "Free on the disk", number: true, cell: (row) => size(row.free_on_disk) },
      ], told.dirs) : h("p", {}, "None: it reads and keeps nothing."),
      h("h2", {}, `Versions: ${count(told.holds.length)}`),
      told.holds.length ? plainTable("Versions", [
        { label: "Version", cell: (row) => [link(`${row.dataset}@${row.tag}`, pageUrl("datasets", { dataset: row.dataset, version: row.version })), " ", id(row.version), row.list_id ? h("span", { class: "tag" }, "some files") : null, pin(row)] },
        { label: "State", cell: (row) => [state(row.state), row.failures.length ? h("span", { class: "muted", title: row.failures[0].path }, ` ${row.failures[0].cause}`) : null] },
        { label: "Resident", cell: (row) => full(row.bytes_resident, row.bytes_total, `${row.dataset}@${row.tag}`) },
        { label: "Files", number: true, cell: (row) => `${count(row.files_resident)} of ${count(row.files_total)}` },
        { label: "Rate", number: true, cell: (row) => rate(row.rate_bps) },
      ], told.holds) : h("p", {}, "None."),
      h("h2", {}, `Mounts: ${count(told.mounts.length)}`),
      told.mounts.length ? plainTable("Mounts", [
        { label: "Folder", cell: (row) => h("code", {}, row.target) },
        { label: "Version", cell: (row) => `${row.dataset}@${row.tag}` },
        { label: "Served by", cell: (row) => row.backend },
      ], told.mounts) : h("p", {}, "None."),
    );
    return 3;
  });
}

if (asked.get("node") && asked.get("idc")) oneNode(asked.get("idc"), asked.get("node"));
else if (asked.get("view") === "residency") residency();
else allNodes();
