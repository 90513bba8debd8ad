// Puts the page together: names, views, keys, help.

const VIEWS = ["curves", "episodes", "run"];
const KEYS = [
  ["1 2 3", "curves, episodes, the run"],
  ["j k ↓ ↑", "next and previous episode (↓ ↑ scroll where the turns have the focus)"],
  ["Home End", "first and last episode"],
  ["← →", "previous and next sampled token; in a chart, steps"],
  ["c C", "next and previous colouring"],
  ["/", "search; Escape leaves the field"],
  ["x", "clear the filters"],
  ["t", "dark or light"],
  ["?", "this help"],
];
const TWO_RUN_KEYS = [["o", "the other run's list"], ["b", "the same board in the other run"]];

let browser = null;

function showView(name) {
  for (const view of VIEWS) {
    const chosen = view === name;
    document.getElementById(view).hidden = !chosen;
    const tab = document.getElementById(`tab-${view}`);
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  document.body.dataset.view = name;
  if (name === "episodes" && !browser) browser = new EpisodeBrowser(document.getElementById("episodes"));
  history.replaceState(null, "", `#view-${name}`); // no element's id: the browser must not scroll to it
}

function facts(rows) {
  return h("dl", { class: "facts" }, rows.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))));
}

function buildRun(root) {
  DATA.runs.forEach((run, number) => {
    root.append(h("section", { class: "card" }, h("h2", {}, runName(number)), facts(run.facts),
      run.notes.length ? h("div", { class: "note" }, h("h3", {}, "Left out"), h("ul", {}, run.notes.map((note) => h("li", {}, note)))) : null));
  });
  if (TWO_RUNS) {
    const cells = (tag, values) => h("tr", {}, values.map((value) => h(tag, {}, value)));
    root.append(h("section", { class: "card wide" }, h("h2", {}, "Settings that differ"),
      DATA.differences.length
        ? h("table", {}, h("thead", {}, cells("th", ["key", "A", "B"])), h("tbody", {}, DATA.differences.map((row) => cells("td", row))))
        : h("p", {}, "None: both runs have the same configuration.")));
  }
  root.append(h("p", { class: "hint" }, `Written ${DATA.created} by actfocus_verl ${DATA.version}.`));
}

function buildHelp(dialog) {
  const keys = TWO_RUNS ? [...KEYS, ...TWO_RUN_KEYS] : KEYS;
  dialog.append(h("h2", { id: "help-title" }, "Keys"),
    h("dl", { class: "facts" }, keys.map(([key, text]) => h("div", {}, h("dt", {}, key.split(" ").map((part) => [h("kbd", {}, part), " "])), h("dd", {}, text)))),
    h("form", { method: "dialog" }, h("button", {}, "Close")));
}

/** What a key does, where no field wants it. */
function keyAction(event) {
  const inList = document.body.dataset.view === "episodes";
  const always = {
    1: () => showView("curves"), 2: () => showView("episodes"), 3: () => showView("run"),
    t: () => theme.toggle(), "?": () => document.getElementById("help").showModal(),
    "/": () => { showView("episodes"); browser.search.focus(); },
  };
  const scrolls = document.activeElement?.classList.contains("turns");
  const episodes = {
    j: () => browser.active.move(1), k: () => browser.active.move(-1),
    Home: () => browser.active.move(-Infinity), End: () => browser.active.move(Infinity),
    ArrowDown: scrolls ? null : () => browser.active.move(1), ArrowUp: scrolls ? null : () => browser.active.move(-1),
    ArrowRight: () => browser.active.viewer.step(1), ArrowLeft: () => browser.active.viewer.step(-1),
    c: () => browser.nextColouring(1), C: () => browser.nextColouring(-1),
    x: () => browser.reset(), o: () => browser.otherPane(), b: () => browser.sameBoard(),
  };
  return always[event.key] || (inList ? episodes[event.key] : null);
}

function onKey(event) {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  const field = target.matches("input, select");
  if (field && event.key === "Escape") {
    event.preventDefault(); // Chromium would empty a search field, and leave the filter as it was
    target.blur();
  }
  const arrow = event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End";
  if (field && (arrow || !["radio", "range"].includes(target.type))) return; // the field's own keys
  if (target.matches("[role=tab]") && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const place = VIEWS.indexOf(target.id.slice(4)) + (event.key === "ArrowRight" ? 1 : -1);
    showView(VIEWS[(place + VIEWS.length) % VIEWS.length]);
    document.querySelector("[role=tab][aria-selected=true]").focus();
    event.preventDefault();
    return;
  }
  const action = keyAction(event);
  if (!action) return;
  event.preventDefault();
  action();
}

document.getElementById("run-names").textContent = DATA.runs.map((_, run) => runName(run)).join("  ·  ");
document.title = `${DATA.runs.map((run) => run.name).join(" and ")}: run report`;
buildCurves(document.getElementById("curves"), (step) => {
  showView("episodes");
  browser.showStep(step);
});
buildRun(document.getElementById("run"));
buildHelp(document.getElementById("help"));
for (const view of VIEWS) document.getElementById(`tab-${view}`).addEventListener("click", () => showView(view));
document.getElementById("theme").addEventListener("click", () => theme.toggle());
document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());
document.addEventListener("keydown", onKey);
theme.query.addEventListener("change", () => theme.changed());
theme.changed();
showView(VIEWS.find((view) => location.hash === `#view-${view}`) || "curves");
