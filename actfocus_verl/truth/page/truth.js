// The page of a measurement: its figures as tables, and M_t of single episodes as a line over their tokens.

const KINDS = DATA.kinds;
const SCALE = { low: -0.25, high: 1.25, width: 150, height: 14 };
const PATH = { width: 960, height: 210, left: 46, right: 12, top: 16, bottom: 26 };

function interval(figure) {
  return figure.low === null ? "" : `[${figure.low.toFixed(3)}, ${figure.high.toFixed(3)}]`;
}

function number(value, digits = 3) {
  return value === null ? "–" : value.toFixed(digits);
}

function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

/** A share as a point with its interval, between SCALE.low and SCALE.high; a line marks 0 and 1. */
function whisker(figure, kind) {
  const x = (value) => ((Math.min(SCALE.high, Math.max(SCALE.low, value)) - SCALE.low) / (SCALE.high - SCALE.low)) * SCALE.width;
  const middle = SCALE.height / 2;
  const svg = s("svg", { class: `whisker kind-${kind}`, viewBox: `0 0 ${SCALE.width} ${SCALE.height}`, "aria-hidden": "true" },
    [0, 1].map((value) => s("line", { class: "zero", x1: x(value), x2: x(value), y1: 0, y2: SCALE.height })));
  if (figure.low !== null) svg.append(s("line", { class: "reach", x1: x(figure.low), x2: x(figure.high), y1: middle, y2: middle }));
  if (figure.estimate !== null) svg.append(s("circle", { cx: x(figure.estimate), cy: middle, r: 3.5 }));
  return svg;
}

function table(heads, rows) {
  return h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))));
}

function card(title, hint, ...content) {
  return h("section", { class: "card wide" }, h("h2", {}, title), hint ? h("p", { class: "hint" }, hint) : null, content);
}

function kindName(kind) {
  return h("b", { class: `kind-${kind}` }, kind);
}

function shareRow(name, figure, kind) {
  return [name, number(figure.estimate), interval(figure), whisker(figure, kind)];
}

/** A cell for each kind: the share, and its interval below it. */
function shareCells(shares) {
  return KINDS.map((kind) => [number(shares[kind].estimate, 2), h("small", {}, interval(shares[kind]))]);
}

function buildFigures(root) {
  const { found } = DATA;
  root.append(
    h("section", { class: "card" }, h("h2", {}, "Shares of the return's variance"),
      h("p", { class: "hint" }, `Var(return | board) = ${number(found.variance, 4)}; ${plural(found.episodes, "episode")} on ${plural(found.boards, "board")}, `,
        `${plural(found.continuations, "continuation")} per boundary. Intervals are 95 %, a bootstrap over boards. Luck is what the world draws: no weighting of tokens can reach it.`),
      DATA.remarks.map((remark) => h("p", { class: "note" }, remark)),
      table(["kind", "share", "95 % interval", ""], KINDS.map((kind) => shareRow(kindName(kind), found.shares[kind], kind)))),
    h("section", { class: "card" }, h("h2", {}, "Checks"),
      h("p", { class: "hint" }, "No results: they say whether the shares can be believed."),
      table(["check", "value", "95 % interval", "expected"],
        DATA.checks.map(({ name, figure, expected }) => [name, number(figure.estimate), interval(figure), expected]))),
    card("Shares by turn", "In the variance of all boards; reached: the fraction of episodes that have the turn.",
      table(["turn", "reached", ...KINDS], found.by_turn.map((turn) => [String(turn.turn), number(turn.reached, 2), ...shareCells(turn)]))),
  );
  if (found.tokens) {
    const { tokens } = found;
    root.append(card("Single tokens", `${plural(tokens.tokens, "token")} of ${plural(tokens.segments, `${tokens.kind} segment`)}, drawn at random: the share of all their squared changes. The sum over the segments' own squared changes, a check, is ${number(tokens.sum.estimate)} ${interval(tokens.sum)}; 1 is expected.`,
      table(["token", "times", "share", "95 % interval", ""],
        tokens.top.map((token) => [JSON.stringify(token.token), format(token.count), number(token.estimate), interval(token), whisker(token, tokens.kind)]))));
  }
  const strata = Object.entries(found.strata);
  if (strata.length > 1) {
    root.append(card("By stratum", "The boards' difficulty; each in the variance of its own boards. A single board has no interval.",
      table(["stratum", "boards", "episodes", "Var(return)", ...KINDS],
        strata.map(([name, part]) => [name, format(part.boards), format(part.episodes), number(part.variance, 4), ...shareCells(part)]))));
  }
  if (found.judged) root.append(judgedCard(found.judged));
  root.append(card("Measurement", null,
    h("dl", { class: "facts" }, DATA.facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))))));
}

/** A figure that may be undefined, with its interval below it. */
function judgedCell(figure) {
  return figure ? [number(figure.estimate, 2), h("small", {}, interval(figure))] : "–";
}

/** Every method's credit of turns and its gradient. */
function judgedCard(judged) {
  const rows = Object.entries(judged.methods).map(([name, method]) => [
    method.remark ? [name, h("small", {}, `uses ${method.remark}`)] : name,
    ...["correlation", "sign", "luck"].map((key) => judgedCell(method.turns && method.turns[key])),
    judgedCell(method.segments),
    number(method.mass.action, 2),
    ...["gradient", "adam"].flatMap((kind) => [judgedCell(method[kind].alignment), judgedCell(method[kind].gain)]),
  ]);
  const left = Object.entries(judged.left_out).map(([name, reason]) => `${name} (${reason})`);
  return card("Who finds it", `Credit of turns against their true advantages, and gradients of ${plural(judged.batch_boards, "board")} ` +
    `against the policy gradient of ${plural(judged.reference.episodes, "other episode")}. Minus: ${judged.base} subtracted.`,
    table(["method", "correlation of turns", "right sign", "correlation with luck", "segments", "mass on actions",
      "alignment", "minus", "Adam's alignment", "minus"], rows),
    left.length ? h("p", { class: "hint" }, `Not judged: ${left.join("; ")}`) : null);
}

/** Where the boundaries of an episode lie on the axis of tokens, the end included; luck takes room, but no tokens. */
function places(segments) {
  const tokens = segments.reduce((sum, segment) => sum + segment.tokens, 0);
  const luck = Math.max(1, tokens / 30);
  const found = [0];
  for (const segment of segments) found.push(found.at(-1) + (segment.kind === "luck" ? luck : segment.tokens));
  return found;
}

/** M_t over the tokens of an episode: a line by kind, with 95 % bands from the continuations. */
function drawPath(episode) {
  const { segments, means, errors } = episode;
  const at = places(segments);
  const [low, high] = [means.map((mean, i) => mean - 1.96 * errors[i]), means.map((mean, i) => mean + 1.96 * errors[i])];
  const [least, most] = range([...low, ...high]);
  const room = (most - least) * 0.06;
  const [width, height] = [PATH.width - PATH.left - PATH.right, PATH.height - PATH.top - PATH.bottom];
  const x = (place) => PATH.left + (place / at.at(-1)) * width;
  const y = (value) => PATH.top + (1 - (value - least + room) / (most - least + 2 * room)) * height;
  const points = (values) => values.map((value, i) => [x(at[i]), y(value)]);
  const starts = segments.flatMap((segment, i) => (i === 0 || segments[i - 1].turn !== segment.turn ? [i] : []));
  const end = PATH.top + height;
  const said = segments.map((segment, i) => `turn ${segment.turn + 1} ${segment.kind} ${signed(means[i + 1] - means[i])}`);
  return s("svg", { class: "path", viewBox: `0 0 ${PATH.width} ${PATH.height}`, role: "img", "aria-label": `Expected return from ${number(means[0], 2)} to ${number(means.at(-1), 2)}: ${said.join(", ")}` },
    s("g", { class: "axes" },
      ticks(least, most, 4).map((value) => [
        s("line", { class: "grid", x1: PATH.left, x2: PATH.left + width, y1: y(value), y2: y(value) }),
        s("text", { x: PATH.left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)),
      ]),
      starts.map((i) => [
        s("line", { class: "turn-start", x1: x(at[i]), x2: x(at[i]), y1: PATH.top - 4, y2: end }),
        s("text", { x: x(at[i]) + 2, y: end + 14 }, `turn ${segments[i].turn + 1}`),
      ])),
    s("path", { class: "band", d: `${path([...points(high), ...points(low).reverse()])}Z` }),
    segments.map((segment, i) => s("path", { class: `step kind-${segment.kind}`, d: path(points(means).slice(i, i + 2)) })),
    means.map((mean, i) => {
      const kind = segments[Math.max(0, i - 1)].kind;
      const where = i === 0 ? "start" : `after turn ${segments[i - 1].turn + 1} ${kind}`;
      return s("circle", { class: `kind-${kind}`, cx: x(at[i]), cy: y(mean), r: 3 },
        s("title", {}, `${where}: ${number(mean, 2)} [${number(low[i], 2)}, ${number(high[i], 2)}]`));
    }));
}

function change(episode, i) {
  const { means, errors } = episode;
  const difference = means[i + 1] - means[i];
  const clear = Math.abs(difference) > 1.96 * Math.hypot(errors[i], errors[i + 1]);
  return h("span", { class: `change${clear ? " clear" : ""}` }, ` ${signed(difference)} `);
}

function drawTurn(episode, turn) {
  const own = episode.segments.map((segment, i) => ({ ...segment, i })).filter((segment) => segment.turn === turn);
  const said = own.filter((segment) => segment.kind !== "luck");
  const luck = own.find((segment) => segment.kind === "luck");
  return h("section", { class: "turn", "aria-label": `Turn ${turn + 1}` },
    h("div", { class: "state" }, h("h3", {}, `Turn ${turn + 1}`), h("pre", {}, episode.states[turn])),
    h("div", { class: "reply" },
      h("p", { class: "tokens" }, said.map((segment) => [h("span", { class: `token role-${segment.kind}` }, segment.text), change(episode, segment.i)])),
      luck ? h("p", { class: "reward" }, kindName("luck"), change(episode, luck.i)) : null));
}

function drawEpisode(episode) {
  const turns = [...new Set(episode.segments.map((segment) => segment.turn))];
  return h("section", { class: "card" },
    h("h2", {}, `Board ${episode.board}, episode ${episode.episode + 1}: return ${format(episode.means.at(-1))}`),
    drawPath(episode),
    h("details", {}, h("summary", {}, plural(turns.length, "turn")),
      h("div", { class: "turns" }, turns.map((turn) => drawTurn(episode, turn)),
        h("section", { class: "turn end" }, h("div", { class: "state" }, h("h3", {}, "End"), h("pre", {}, episode.final_state))))));
}

function buildEpisodes(root) {
  root.append(h("h2", {}, "Single episodes"),
    h("p", { class: "hint" }, `The ${plural(DATA.episodes.length, "episode")} of ${format(DATA.found.episodes)} with the largest change within a reply: chosen for their size, and so overestimated. `,
      "The line is the expected return M_t, known at the boundaries; the band is 95 % from the continuations' standard error, and 0 wide at the end, the return itself. ",
      "Changes in bold are clear of 0, each by itself. Luck takes no tokens."),
    h("ul", { class: "legend", "aria-label": "Colours" }, KINDS.map((kind) => h("li", {}, kindName(kind)))),
    ...DATA.episodes.map(drawEpisode),
    h("p", { class: "hint" }, `Written by actfocus_verl ${DATA.version}.`));
}

document.getElementById("name").textContent = DATA.name;
document.title = `${DATA.name}: where the return is decided`;
document.getElementById("theme").addEventListener("click", () => theme.toggle());
theme.query.addEventListener("change", () => theme.changed());
theme.changed();
buildFigures(document.getElementById("figures"));
buildEpisodes(document.getElementById("shown"));
