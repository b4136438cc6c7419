// Troubles that were told and have not ended, at the head of every page.

import { ago, ask, h, many } from "./common.js";

const place = document.getElementById("alerts");
const EVERY_S = 15;

async function look() {
  try {
    const told = await ask("alerts", {}, {});
    const rows = told.rows.map((one) => h("li", {}, h("span", {}, one.title), one.since_ns ? [" ", h("span", { class: "muted" }, "since ", ago(one.since_ns))] : null));
    place.replaceChildren(...(rows.length ? [h("details", { class: "notice" }, h("summary", {}, `${many(rows.length, "open alert")}: ${told.rows[0].title}`), h("ul", {}, rows))] : []));
  } catch {
    place.replaceChildren(); // the page itself says what does not answer
  }
  setTimeout(look, EVERY_S * 1000);
}

look();
