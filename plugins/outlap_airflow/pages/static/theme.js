// Light or dark, as Airflow shows itself; by itself, as the system does. It runs before the first paint, so it is no module.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let host = null;
  try {
    if (window.parent !== window) host = window.parent.document.documentElement;
  } catch {
    host = null; // another origin frames us: it tells nothing
  }
  const follow = () => {
    const told = host && ["dark", "light"].find((name) => host.classList.contains(name));
    document.documentElement.dataset.theme = told || (system.matches ? "dark" : "light");
  };
  follow();
  system.addEventListener("change", follow);
  if (host) {
    const watch = new MutationObserver(follow);
    watch.observe(host, { attributes: true, attributeFilter: ["class"] });
    addEventListener("pagehide", () => watch.disconnect());
  }
})();
