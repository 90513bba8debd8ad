// Colours of tokens. Ramps go by lightness and, about zero, from blue to orange: any colour vision tells them apart.

const RAMPS = {
  sequential: {
    light: ["#f1f4f8", "#c3d8ea", "#84b1d6", "#3f7fb5", "#0f4c81"],
    dark: ["#22282f", "#23496a", "#2f78ac", "#74b6e2", "#e2f2ff"],
  },
  diverging: {
    light: ["#1566a8", "#9cc4e4", "#f1f2f3", "#f4b985", "#b85400"],
    dark: ["#7fc0f5", "#2f5f88", "#262b31", "#8a5220", "#ffb46b"],
  },
};
const NO_VALUE = null;

function channels(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

/** The colour at a share from 0 to 1 of a ramp, as [red, green, blue]. */
function rampColour(ramp, share) {
  const place = Math.min(1, Math.max(0, share)) * (ramp.length - 1);
  const below = Math.min(ramp.length - 2, Math.floor(place));
  const [from, to] = [channels(ramp[below]), channels(ramp[below + 1])];
  return from.map((start, i) => Math.round(start + (to[i] - start) * (place - below)));
}

/** Relative luminance, WCAG 2. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Black or white, whichever is read better: at least 4.58 to 1 on any colour. */
function inkOn(rgb) {
  return luminance(rgb) > 0.1791 ? "#000000" : "#ffffff";
}

function css(rgb) {
  return `rgb(${rgb.join(", ")})`;
}

function ramp(colouring) {
  return RAMPS[colouring.kind][theme.isDark() ? "dark" : "light"];
}

/** The background of a value, or null where the token has none. */
function valueColour(colouring, value) {
  if (value === null || value === undefined) return NO_VALUE;
  const width = colouring.high - colouring.low;
  return rampColour(ramp(colouring), width > 0 ? (value - colouring.low) / width : 0.5);
}

/** Colour a token's element by a colouring of DATA.colourings. Roles are classes, values are computed. */
function paint(element, colouring, value, sampled) {
  const rgb = colouring.kind !== "role" && sampled ? valueColour(colouring, value) : NO_VALUE;
  element.style.backgroundColor = rgb ? css(rgb) : "";
  element.style.color = rgb ? inkOn(rgb) : "";
}

/** What the colours mean: swatches of the roles, or the ramp with the values at its ends. */
function legend(colouring) {
  if (colouring.kind === "role") {
    return h(
      "ul",
      { class: "legend", "aria-label": "Colours of the roles" },
      DATA.roles.map((role) => h("li", {}, h("span", { class: `token role-${role}` }, role))),
    );
  }
  const stops = ramp(colouring);
  const bar = h("span", { class: "ramp", "aria-hidden": "true" });
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
  const constant = colouring.low === colouring.high;
  const ends = constant ? [`all ${format(colouring.low)}`] : [`≤ ${format(colouring.low)}`, `≥ ${format(colouring.high)}`];
  return h(
    "p",
    { class: "legend", "aria-label": `Colours of ${colouring.label}: from ${ends.join(" to ")}` },
    ends[0],
    bar,
    ends[1],
  );
}
