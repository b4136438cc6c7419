// Airflow around us: addresses that it gives, and links between our pages that let it keep its menu and its address right.

const page = location.pathname.split("/").pop();

function host() {
  try {
    if (window.parent !== window && window.parent.location.pathname.includes("/plugin/")) return window.parent;
  } catch {
    return null;
  }
  return null;
}

// Airflow's address of a page, /plugin/outlap-jobs?job=…, carries the query; we read ours, so it comes along once.
export function query() {
  const around = host();
  const theirs = around ? around.location.search : "";
  const isEntry = around && around.location.pathname.endsWith(`/plugin/outlap-${page}`);
  if (isEntry && !location.search && theirs) history.replaceState(null, "", location.pathname + theirs);
  return new URLSearchParams(location.search);
}

// A page in Airflow. `asked` may hold names with nothing in them.
export function pageUrl(name, asked = {}) {
  const chosen = Object.entries(asked).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = new URLSearchParams(chosen).toString();
  return `../../plugin/outlap-${name}` + (search ? `?${search}` : "");
}

export function runUrl(dag, run) {
  return `../../dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`;
}

// Links marked target=_top load Airflow anew; its router does the same in an instant when it is told.
function follow(event) {
  const link = event.target.closest?.("a[target=_top]");
  const around = host();
  const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !around || !isPlain || event.defaultPrevented) return;
  event.preventDefault();
  const mine = new URL(link.href);
  if (mine.pathname.endsWith(`/plugin/outlap-${page}`)) {
    location.assign(`${page}${mine.search}`);
    return;
  }
  around.history.pushState({}, "", link.href);
  around.dispatchEvent(new around.PopStateEvent("popstate", { state: {} }));
}
document.addEventListener("click", follow);

// Our entry in Airflow's menu, chosen while we show something deeper: Airflow leaves the frame as it is, so we go back ourselves.
const around = host();
if (around) {
  const check = () =>
    setTimeout(() => {
      const isEntry = around.location.pathname.endsWith(`/plugin/outlap-${page}`) && !around.location.search;
      if (isEntry && location.search) location.assign(page);
    }, 50);
  around.document.addEventListener("click", check);
  addEventListener("pagehide", () => around.document.removeEventListener("click", check));
}
for (const link of document.querySelectorAll("nav.pages a"))
  if (link.dataset.page === page) link.setAttribute("aria-current", "page");
