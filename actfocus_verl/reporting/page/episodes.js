// The browser of sampled episodes: one list and one viewer a run, and the filters and the colouring they share.

const ORDERS = {
  step: ["step", (a, b) => a.step - b.step || a.row - b.row],
  best: ["return, highest first", (a, b) => (b.return ?? -Infinity) - (a.return ?? -Infinity)],
  worst: ["return, lowest first", (a, b) => (a.return ?? Infinity) - (b.return ?? Infinity)],
  longest: ["length, longest first", (a, b) => b.tokens - a.tokens],
  shortest: ["length, shortest first", (a, b) => a.tokens - b.tokens],
};
const RANGES = [["return", "Return"], ["tokens", "Tokens"], ["step", "Step"]];

/** The text of an episode that a search looks through: states and tokens, in lower case. */
function searchableText(detail) {
  const reply = detail.tokens ? detail.tokens.join("") : detail.replies.join("\n");
  return [reply, ...detail.states, detail.final_state ?? ""].join("\n").toLowerCase();
}

/** Whether an episode passes the filters; `text` gives its searchable text and is asked only when it matters. */
function passes(entry, filters, text) {
  if (filters.stop && entry.stop !== filters.stop) return false;
  for (const [key, [low, high]] of Object.entries(filters.ranges)) {
    if (low !== null && !(entry[key] !== null && entry[key] >= low)) return false;
    if (high !== null && !(entry[key] !== null && entry[key] <= high)) return false;
  }
  return !filters.text || text().includes(filters.text);
}

/** One run's list and viewer. */
class EpisodePane {
  constructor(run, browser) {
    this.run = run;
    this.browser = browser;
    this.entries = DATA.runs[run].episodes.map((entry, number) => ({ ...entry, number }));
    this.texts = new Map();
    this.shown = [];
    this.selected = null;
    this.count = h("p", { class: "count", role: "status" });
    this.list = h("ul", {
      class: "list", role: "listbox", tabindex: 0, "aria-label": `Episodes, ${runName(run)}`,
      click: (event) => {
        const option = event.target.closest("[role=option]");
        if (option) this.select(Number(option.dataset.place));
      },
    });
    const viewer = h("article", { class: "episode" });
    this.viewer = new EpisodeViewer(viewer, runName(run));
    this.others = [];
    this.chains = h("div", { class: "chains" }, viewer);
    this.root = h("section", { class: "pane", "aria-label": runName(run), focusin: () => this.activate(), pointerdown: () => this.activate() },
      TWO_RUNS ? h("h2", { class: "pane-name" }, runName(run)) : null,
      h("div", { class: "side" }, this.count, this.list), this.chains);
  }

  activate() {
    this.browser.active = this;
    for (const pane of this.browser.panes) pane.root.classList.toggle("active", pane === this);
  }

  text(entry) {
    if (!this.texts.has(entry.number)) {
      this.texts.set(entry.number, searchableText(episodeDetail(this.run, entry.number)));
    }
    return this.texts.get(entry.number);
  }

  /** Apply filters and order; the selected episode stays selected where it passes. */
  filter(filters) {
    const kept = this.selected;
    this.shown = this.entries
      .filter((entry) => passes(entry, filters, () => this.text(entry)))
      .sort(ORDERS[filters.order][1]);
    const { sampled, episodes } = DATA.runs[this.run];
    const part = sampled > episodes.length ? ` (${format(sampled)} were sampled, evenly chosen)` : "";
    this.count.textContent = `${format(this.shown.length)} of ${plural(this.entries.length, "episode")}${part}`;
    this.list.replaceChildren(...this.shown.map((entry, place) => this.option(entry, place)));
    this.selected = null;
    const place = this.shown.indexOf(kept);
    if (this.shown.length) this.select(Math.max(0, place), kept);
    else {
      this.list.removeAttribute("aria-activedescendant");
      this.showOthers(null);
      this.viewer.clear(this.entries.length ? "No episode passes the filters." : "This run kept no episodes: see run.rollouts_a_step and run.rollouts_every.");
    }
  }

  option(entry, place) {
    return h("li", {
      role: "option", id: `option-${this.run}-${entry.number}`, "data-place": place, "aria-selected": "false",
      "aria-posinset": place + 1, "aria-setsize": this.shown.length,
    },
      h("span", { class: "row" }, h("b", {}, `Step ${entry.step}`), stopBadge(entry)),
      h("span", { class: "row" },
        h("span", {}, `return ${format(entry.return)}`), h("span", {}, plural(entry.turns, "turn")),
        h("span", {}, plural(entry.tokens, "token"))),
      entry.chains ? h("span", { class: "row" }, h("span", {}, `chain ${entry.chains.indexOf(entry.number) + 1} of ${entry.chains.length}`)) : null,
      roleStrip(entry));
  }

  /** Show the episode at a place of the list. */
  select(place, shownBefore = null) {
    const entry = this.shown[place];
    if (!entry) return;
    const option = this.list.children[place];
    this.list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    option.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
    this.selected = entry;
    if (shownBefore === entry && this.viewer.detail) this.viewer.mark(this.browser.filters.text);
    else {
      const detail = episodeDetail(this.run, entry.number);
      this.viewer.show(entry, detail, this.browser.colouring, this.browser.filters.text);
      this.showOthers(entry);
    }
  }

  /** The other chains of an episode's conversation, side by side with it in the order in which they began. */
  showOthers(entry) {
    this.others = [];
    const roots = (entry?.chains ?? []).map((number) => {
      if (number === entry.number) return this.viewer.root;
      const viewer = new EpisodeViewer(h("article", { class: "episode other" }), runName(this.run));
      viewer.show(this.entries[number], episodeDetail(this.run, number), this.browser.colouring, this.browser.filters.text);
      this.others.push(viewer);
      return viewer.root;
    });
    this.chains.replaceChildren(...(roots.length ? roots : [this.viewer.root]));
  }

  move(by) {
    const place = this.shown.indexOf(this.selected);
    this.select(Math.min(this.shown.length - 1, Math.max(0, place + by)));
  }

  /** Select an episode that began as this text describes, at the nearest step; false where there is none. */
  selectBoard(state, step) {
    const same = this.shown.filter((entry) => episodeDetail(this.run, entry.number).states[0] === state);
    if (!state || !same.length) return false;
    const nearest = same.reduce((best, entry) => (Math.abs(entry.step - step) < Math.abs(best.step - step) ? entry : best));
    this.select(this.shown.indexOf(nearest));
    return true;
  }
}

/** Shares of the roles among an episode's sampled tokens. */
function roleStrip(entry) {
  if (!entry.roles) return null;
  const parts = DATA.roles.map((role, number) => [role, entry.roles[number]]).filter(([role, count]) => role !== "environment" && count);
  return h("span", { class: "strip", "aria-hidden": "true", title: parts.map(([role, count]) => `${count} ${role}`).join(", ") },
    parts.map(([role, count]) => {
      const part = h("span", { class: `fill-${role}` });
      part.style.flexGrow = count;
      return part;
    }));
}

class EpisodeBrowser {
  constructor(root) {
    this.colouring = DATA.colourings[0];
    this.filters = { text: "", stop: "", order: "step", ranges: {} };
    this.panes = DATA.runs.map((_, run) => new EpisodePane(run, this));
    this.active = this.panes[0];
    this.legend = h("div", { class: "legend-place" });
    this.message = h("span", { class: "hint", role: "status" });
    root.append(this.filterBar(), this.colourBar(),
      h("div", { class: `panes${TWO_RUNS ? " two" : ""}` }, this.panes.map((pane) => pane.root)));
    theme.listeners.push(() => this.recolour());
    this.active.activate();
    this.recolour();
    this.apply();
  }

  filterBar() {
    const changed = () => this.read();
    this.search = h("input", { type: "search", id: "search", placeholder: "text of states and replies", autocomplete: "off", size: 26, input: changed });
    const stops = [...new Set(DATA.runs.flatMap((run) => run.episodes.map((entry) => entry.stop)))].filter(Boolean).sort();
    this.stop = h("select", { id: "stop", change: changed }, h("option", { value: "" }, "any"), stops.map((stop) => h("option", { value: stop }, stop)));
    this.order = h("select", { id: "order", change: changed }, Object.entries(ORDERS).map(([value, [label]]) => h("option", { value }, label)));
    this.ranges = RANGES.map(([key, label]) => {
      const ends = ["from", "to"].map((end) => h("input", { type: "number", step: "any", id: `${key}-${end}`, "aria-label": `${label} ${end}`, input: changed }));
      return [key, ends, h("span", { class: "range", role: "group", "aria-label": label }, label, " ", ends[0], " to ", ends[1])];
    });
    const reset = h("button", { type: "button", id: "reset", click: () => this.reset() }, "Clear");
    return h("form", { class: "bar", role: "search", submit: (event) => event.preventDefault() },
      h("label", {}, "Search ", this.search), h("label", {}, "Stop ", this.stop),
      this.ranges.map(([, , element]) => element), h("label", {}, "Order ", this.order), reset);
  }

  colourBar() {
    const choices = DATA.colourings.map((colouring, place) => h("label", { class: "choice" },
      h("input", { type: "radio", name: "colouring", value: colouring.key, checked: place === 0, change: () => this.colourBy(colouring) }),
      colouring.label));
    const board = TWO_RUNS ? h("button", { type: "button", id: "same-board", click: () => this.sameBoard() }, "Same board in the other run ", h("kbd", {}, "b")) : null;
    return h("div", { class: "bar colours" }, h("fieldset", {}, h("legend", {}, "Colour by"), choices), this.legend, board, this.message);
  }

  read() {
    const number = (input) => (input.value === "" || Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber);
    this.filters = {
      text: this.search.value.toLowerCase(),
      stop: this.stop.value,
      order: this.order.value,
      ranges: Object.fromEntries(this.ranges.map(([key, ends]) => [key, ends.map(number)])),
    };
    this.apply();
  }

  apply() {
    for (const pane of this.panes) pane.filter(this.filters);
  }

  reset() {
    for (const input of [this.search, this.stop, ...this.ranges.flatMap(([, ends]) => ends)]) input.value = "";
    this.order.value = "step";
    this.read();
  }

  /** Filter to the sampled step nearest to one. */
  showStep(step) {
    const steps = [...new Set(this.panes.flatMap((pane) => pane.entries.map((entry) => entry.step)))];
    if (!steps.length) return;
    const nearest = steps.reduce((best, value) => (Math.abs(value - step) < Math.abs(best - step) ? value : best));
    this.reset();
    for (const [key, ends] of this.ranges) if (key === "step") for (const end of ends) end.value = nearest;
    this.read();
  }

  colourBy(colouring) {
    this.colouring = colouring;
    this.recolour();
  }

  nextColouring(move) {
    const place = DATA.colourings.indexOf(this.colouring);
    this.colourBy(DATA.colourings[(place + move + DATA.colourings.length) % DATA.colourings.length]);
    document.querySelector(`input[name=colouring][value=${this.colouring.key}]`).checked = true;
  }

  recolour() {
    this.legend.replaceChildren(legend(this.colouring));
    for (const pane of this.panes) for (const viewer of [pane.viewer, ...pane.others]) viewer.recolour(this.colouring);
  }

  otherPane() {
    const other = this.panes.find((pane) => pane !== this.active);
    if (other) other.list.focus();
  }

  sameBoard() {
    const { active } = this;
    const other = this.panes.find((pane) => pane !== active);
    if (!other || !active.selected) return;
    const found = other.selectBoard(active.viewer.detail.states[0], active.selected.step);
    this.message.textContent = found ? "" : "No episode shown there began in this state.";
  }
}
