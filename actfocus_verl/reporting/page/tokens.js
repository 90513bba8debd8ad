// One episode: the world's state beside each turn, and every token coloured.

const WHITESPACE = { "\n": "↵", "\t": "→" };

/** A word for a token that has no visible text of its own, shown by the style sheet, never part of the text. */
function tokenMark(text) {
  if (text === "") return "·";
  return /^[\n\t]+$/.test(text) ? [...text].map((character) => WHITESPACE[character]).join("") : null;
}

/** Indices of the tokens that hold a part of any place where `wanted` stands in their joined text. */
function tokensOfMatches(texts, wanted) {
  const hits = new Set();
  const whole = texts.join("").toLowerCase();
  if (!wanted) return hits;
  const ends = [];
  let length = 0;
  for (const text of texts) ends.push((length += text.length));
  let token = 0;
  for (let at = whole.indexOf(wanted); at >= 0; at = whole.indexOf(wanted, at + wanted.length)) {
    while (ends[token] <= at) token += 1;
    for (let i = token; i < ends.length && ends[i] - texts[i].length < at + wanted.length; i += 1) hits.add(i);
  }
  return hits;
}

/** What a token is, field by field: for the line below the episode. */
function tokenFields(detail, index) {
  const fields = [["token", detail.tokens ? JSON.stringify(detail.tokens[index]) : "–"]];
  if (detail.ids) fields.push(["id", String(detail.ids[index])]);
  fields.push(["position", String(index)]);
  if (detail.roles) fields.push(["role", DATA.roles[detail.roles[index]]]);
  const sampled = !detail.roles || detail.roles[index] !== 0;
  for (const colouring of DATA.colourings) {
    if (colouring.kind !== "role" && sampled && detail[colouring.key]) {
      fields.push([colouring.label, format(detail[colouring.key][index])]);
    }
  }
  return fields;
}

/** Runs of tokens of one turn: [{turn, from, to}], turn -1 between replies. */
function segments(detail) {
  const found = [];
  const count = detail.tokens ? detail.tokens.length : detail.ids ? detail.ids.length : 0;
  for (let i = 0; i < count; i += 1) {
    const turn = detail.turns ? detail.turns[i] : 0;
    if (!found.length || found.at(-1).turn !== turn) found.push({ turn, from: i, to: i });
    found.at(-1).to = i + 1;
  }
  return found;
}

/** Shows episodes in `root`; tokens are built when an episode is shown, and only repainted for another colouring. */
class EpisodeViewer {
  constructor(root, name) {
    this.root = root;
    this.name = name;
    this.detail = null;
    this.spans = [];
    this.current = null;
    this.inspector = h("div", { class: "inspector", role: "status", "aria-label": "Token" });
  }

  show(entry, detail, colouring, wanted) {
    this.entry = entry;
    this.detail = detail;
    this.spans = [];
    this.current = null;
    this.inspect(null);
    const body = h("div", { class: "turns", role: "region", tabindex: 0, "aria-label": `Turns of the episode, ${this.name}` },
      this.prompt(), this.turns(), this.ending());
    body.addEventListener("pointerover", (event) => {
      if (event.target.dataset.index !== undefined) this.inspect(Number(event.target.dataset.index));
    });
    body.addEventListener("click", (event) => {
      if (event.target.dataset.index !== undefined) this.choose(Number(event.target.dataset.index));
    });
    this.root.replaceChildren(this.heading(), body, this.inspector);
    this.recolour(colouring);
    this.mark(wanted);
  }

  clear(message) {
    this.detail = null;
    this.spans = [];
    this.root.replaceChildren(h("p", { class: "empty" }, message));
  }

  heading() {
    const entry = this.entry;
    const facts = [
      ["return", format(entry.return)],
      ["turns", format(entry.turns)],
      ["sampled tokens", format(entry.tokens)],
      ["group", entry.group === null ? "–" : String(entry.group).slice(0, 8)],
      ["rollout", format(entry.session)],
      ...(entry.calls === null ? [] : [["tool calls", format(entry.calls)]]),
      ...(entry.chains ? [["chain", `${entry.chains.indexOf(entry.number) + 1} of ${entry.chains.length}`]] : []),
    ];
    return h("div", { class: "heading" },
      h("h2", {}, `Step ${entry.step}, episode ${entry.row + 1}`),
      stopBadge(entry),
      h("dl", {}, facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))));
  }

  prompt() {
    const { prompt, prompt_tokens: count } = this.detail;
    if (prompt === null) return null;
    const title = count === null ? "Prompt" : `Prompt, ${plural(count, "token")}`;
    return h("details", { class: "prompt" }, h("summary", {}, title), h("pre", {}, prompt));
  }

  turns() {
    const { tokens, replies } = this.detail;
    const whole = (turn) => (tokens || !replies[turn] ? null : h("p", { class: "whole" }, replies[turn]));
    const parts = segments(this.detail).map((segment) =>
      segment.turn < 0 ? this.between(segment) : this.turn(segment.turn, [whole(segment.turn), this.tokens(segment)]));
    if (!parts.length) parts.push(...replies.map((_, turn) => this.turn(turn, whole(turn))));
    const note = "This run recorded no token texts: replies are shown whole, and below them their tokens by id.";
    return tokens ? parts : [h("p", { class: "note" }, note), ...parts];
  }

  turn(number, reply) {
    const { states, rewards, valid } = this.detail;
    const badge = valid[number] === false ? h("span", { class: "badge bad" }, "invalid") : null;
    return h("section", { class: "turn", "aria-label": `Turn ${number + 1}` },
      h("div", { class: "state" },
        h("h3", {}, `Turn ${number + 1}`, badge),
        this.calls(number) ?? h("pre", {}, states[number] ?? "state not recorded"),
        rewards[number] === undefined ? null : h("p", { class: "reward" }, "reward ", h("b", {}, format(rewards[number])))),
      h("div", { class: "reply" }, reply));
  }

  /** The tool calls of a reply; null in an episode of a world, which has states instead. */
  calls(number) {
    if (!this.detail.calls) return null;
    const made = this.detail.calls[number] ?? [];
    if (!made.length) return h("p", { class: "note" }, "no tool call");
    return h("ul", { class: "calls" }, made.map(([name, given]) => h("li", {}, h("b", {}, name), " ", h("code", {}, given))));
  }

  between(segment) {
    const title = `Between the turns, ${plural(segment.to - segment.from, "token")}`;
    return h("details", { class: "between", open: Boolean(this.detail.calls) }, h("summary", {}, title), this.tokens(segment));
  }

  ending() {
    const { final_state: state } = this.detail;
    return h("section", { class: "turn end", "aria-label": "End" },
      h("div", { class: "state" }, h("h3", {}, "End"), state === null ? null : h("pre", {}, state)),
      h("p", { class: "reply" }, stopBadge(this.entry), " with a return of ", h("b", {}, format(this.entry.return))));
  }

  tokens({ from, to }) {
    const { tokens, ids, roles } = this.detail;
    const spans = [];
    for (let i = from; i < to; i += 1) {
      const text = tokens ? tokens[i] : `${ids[i]} `;
      const mark = tokenMark(text);
      const role = roles ? DATA.roles[roles[i]] : "unknown";
      const span = h("span", { class: `token role-${role}${mark ? " blank" : ""}`, "data-index": i, "data-mark": mark }, text);
      this.spans[i] = span;
      spans.push(span);
    }
    return h("p", { class: "tokens" }, spans);
  }

  recolour(colouring) {
    if (!this.detail) return;
    const { roles } = this.detail;
    const values = this.detail[colouring.key];
    this.root.dataset.colouring = colouring.kind === "role" ? "role" : "value";
    this.spans.forEach((span, i) => paint(span, colouring, values ? values[i] : null, !roles || roles[i] !== 0));
  }

  /** Outline what the reader searched for, and bring the first of it into view. */
  mark(wanted) {
    if (!this.detail) return;
    const hits = tokensOfMatches(this.detail.tokens || [], wanted);
    this.spans.forEach((span, i) => span.classList.toggle("hit", hits.has(i)));
    const first = [...hits].sort((a, b) => a - b).find((i) => this.detail.turns?.[i] !== -1);
    if (first !== undefined) this.spans[first].scrollIntoView({ block: "nearest" });
  }

  inspect(index) {
    const fields = index === null ? [] : tokenFields(this.detail, index);
    this.inspector.replaceChildren(...(fields.length
      ? fields.map(([label, value]) => h("span", {}, h("small", {}, label), " ", h("b", {}, value)))
      : [h("span", { class: "hint" }, "Point at a token, or step through them with ← and →")]));
  }

  choose(index) {
    this.spans[this.current]?.classList.remove("current");
    this.current = index;
    this.spans[index].classList.add("current");
    this.inspect(index);
  }

  /** Go to the next or previous sampled token. */
  step(move) {
    if (!this.spans.length) return;
    const { roles } = this.detail;
    let next = this.current === null ? (move > 0 ? -1 : this.spans.length) : this.current;
    do next += move; while (next >= 0 && next < this.spans.length && roles && roles[next] === 0);
    if (next < 0 || next >= this.spans.length) return;
    this.choose(next);
    this.spans[next].scrollIntoView({ block: "nearest" });
  }
}

function stopBadge(entry) {
  const kind = entry.success === null || entry.success === undefined ? "" : entry.success ? "good" : "bad";
  const sign = { good: "✓ ", bad: "✗ " }[kind] || "";
  return h("span", { class: `badge ${kind}` }, `${sign}${entry.stop ?? "end not recorded"}`);
}
