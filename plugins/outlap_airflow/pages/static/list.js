// A list that the server narrows, sorts and cuts: filters above, a table, pages below; kept up to date, its state in the address.

import { ask, count, h, live, many, services } from "./common.js";
import { query } from "./host.js";

// spec: {path, caption, unit, columns, filters, key(row), every(data), empty(data), above(data), drawn(data), fixed: names of the address that
// stay, fetched(answer): the list in an answer that holds more}
// columns: [{name, label, number, sort, cell(row)}]; sort: the server's name of the order. filters: [{name, label, values(data)}].
export function list(spec) {
  const asked = query();
  const wanted = { search: "", sort: "", order: "", page: "1", ...Object.fromEntries(asked) };
  for (const name of spec.fixed ?? []) delete wanted[name];
  const above = h("div", { class: "above" });
  const notices = h("div", { "aria-live": "polite" });
  const rows = h("tbody", {});
  const heads = new Map();
  const figure = h("p", { class: "figure", "aria-live": "polite" });
  const pages = h("div", { class: "pager" });
  const nothing = h("div", { class: "empty", hidden: true });
  const shown = new Map();

  const search = h("input", { type: "search", id: "search", autocomplete: "off", value: wanted.search });
  let typing = null;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: search.value, page: "1" }), 250);
  });
  const selects = (spec.filters ?? []).map((filter) => {
    const select = h("select", { id: `filter-${filter.name}` });
    select.addEventListener("change", () => change({ [filter.name]: select.value, page: "1" }));
    return { ...filter, select };
  });

  const table = h(
    "table",
    {},
    h("caption", { class: "unseen" }, spec.caption),
    h("thead", {}, h("tr", {}, spec.columns.map(head))),
    rows,
  );
  const whole = h(
    "section",
    { class: "list", "aria-label": spec.caption },
    above,
    h(
      "form",
      { class: "filters", role: "search", "aria-label": `Narrow ${spec.caption}`, onsubmit: (event) => event.preventDefault() },
      h("div", {}, h("label", { for: "search" }, "Search"), search),
      selects.map((one) => h("div", {}, h("label", { for: `filter-${one.name}` }, one.label), one.select)),
    ),
    notices,
    figure,
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${spec.caption}, table` }, table),
    nothing,
    pages,
  );

  function head(column) {
    const cell = h("th", { scope: "col", class: column.number && "number" });
    if (!column.sort) cell.append(column.label);
    else {
      const button = h("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, column.label, h("span", { "aria-hidden": "true", class: "arrow" }));
      cell.append(button);
      heads.set(column.sort, cell);
    }
    return cell;
  }

  function sortBy(column) {
    const isSame = wanted.sort === column.sort;
    const first = column.number ? "desc" : "asc";
    change({ sort: column.sort, order: isSame ? (wanted.order === "desc" ? "asc" : "desc") : first, page: "1" });
  }

  function change(values) {
    Object.assign(wanted, values);
    const chosen = Object.entries(wanted).filter(([name, value]) => value && !(name === "page" && value === "1"));
    const kept = [...asked].filter(([name]) => (spec.fixed ?? []).includes(name));
    history.replaceState(null, "", `${location.pathname}?${new URLSearchParams([...kept, ...chosen])}`);
    refresh();
  }

  function drawFilters(data) {
    for (const one of selects) {
      const values = one.values(data);
      const text = JSON.stringify(values);
      if (one.select.dataset.values === text) continue;
      one.select.dataset.values = text;
      one.select.replaceChildren(h("option", { value: "" }, "All"), ...values.map(([value, label]) => h("option", { value }, label)));
      one.select.value = wanted[one.name] ?? "";
    }
  }

  function drawRows(data) {
    const focused = document.activeElement?.closest?.("tr")?.dataset.key;
    const place = focused && [...document.activeElement.closest("tr").querySelectorAll("a, button, summary")].indexOf(document.activeElement);
    const keys = new Set();
    const ordered = data.rows.map((row) => {
      const key = spec.key(row);
      const text = JSON.stringify(row);
      keys.add(key);
      const known = shown.get(key);
      // ages grow by themselves, so rows are drawn again now and then even when nothing changed
      if (known && known.text === text && Date.now() - known.at < 10_000) return known.element;
      const element = h(
        "tr",
        { "data-key": key },
        spec.columns.map((column, at) => h(at ? "td" : "th", { scope: at ? null : "row", class: column.number && "number" }, column.cell(row, data))),
      );
      shown.set(key, { text, element, at: Date.now() });
      return element;
    });
    for (const key of [...shown.keys()]) if (!keys.has(key)) shown.delete(key);
    const isSame = rows.children.length === ordered.length && ordered.every((row, at) => rows.children[at] === row);
    if (isSame) return;
    rows.replaceChildren(...ordered);
    if (focused && place >= 0) {
      const row = [...rows.children].find((one) => one.dataset.key === focused);
      row?.querySelectorAll("a, button, summary")[place]?.focus();
    }
  }

  function drawPages(data) {
    const step = (text, page, isOff) =>
      h("button", { type: "button", disabled: isOff, onclick: () => change({ page: String(page) }) }, text);
    const focused = pages.contains(document.activeElement) ? document.activeElement.textContent : null;
    pages.hidden = data.pages < 2;
    pages.replaceChildren(
      step("Previous", data.page - 1, data.page <= 1),
      h("span", {}, `Page ${count(data.page)} of ${count(data.pages)}`),
      step("Next", data.page + 1, data.page >= data.pages),
    );
    if (focused) [...pages.querySelectorAll("button")].find((one) => one.textContent === focused && !one.disabled)?.focus();
  }

  function draw(data) {
    drawFilters(data);
    for (const [name, cell] of heads) {
      const isMine = wanted.sort === name;
      if (isMine) cell.setAttribute("aria-sort", wanted.order === "desc" ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    const down = services(data.services);
    const isOpen = notices.querySelector("details[open]") || notices.contains(document.activeElement);
    if (!(isOpen && down.length)) notices.replaceChildren(...down);
    if (spec.above) above.replaceChildren(...[spec.above(data)].flat(Infinity).filter(Boolean));
    const isNarrowed = wanted.search || selects.some((one) => one.select.value);
    const first = (data.page - 1) * data.limit + 1;
    const text =
      data.pages > 1
        ? `${count(first)} to ${count(first + data.rows.length - 1)} of ${many(data.total, ...spec.unit)}`
        : many(data.total, ...spec.unit);
    if (figure.textContent !== text) figure.textContent = text;
    drawRows(data);
    table.hidden = data.total === 0;
    nothing.hidden = data.total !== 0;
    if (!nothing.hidden)
      nothing.replaceChildren(
        isNarrowed
          ? h("p", {}, "Nothing fits these filters.", " ", h("button", { type: "button", onclick: clear }, "Show everything"))
          : spec.empty(data),
      );
    drawPages(data);
  }

  function clear() {
    search.value = "";
    for (const one of selects) one.select.value = "";
    change({ search: "", page: "1", ...Object.fromEntries(selects.map((one) => [one.name, ""])) });
    search.focus();
  }

  const refresh = live(async (signal) => {
    const told = await ask(spec.path, wanted, { signal });
    const data = spec.fetched ? spec.fetched(told) : told;
    draw(data);
    spec.drawn?.(data);
    return spec.every?.(data) ?? 10;
  });
  return { element: whole, refresh };
}
