// How much an explanation carries, as colour and thickness: blue above 0, orange and broken below, told apart by
// people who see no red or green, and in grey by the thickness.

export const known = (value) => typeof value === "number" && Number.isFinite(value);
const clamp = (value) => Math.max(-1, Math.min(1, value));

export function stroke(value) {
  if (!known(value)) return { width: 2, style: "dotted", colour: "var(--scale-none)" };
  const size = Math.abs(clamp(value));
  const end = value < 0 ? "var(--scale-low)" : "var(--scale-high)";
  return {
    width: 1.5 + Math.round(6 * size * 2) / 2,
    style: value < 0 ? "dashed" : "solid",
    colour: `color-mix(in oklab, var(--scale-zero), ${end} ${Math.round(100 * size ** 0.7)}%)`,
  };
}

export const figure = (value, digits = 2) =>
  known(value)
    ? value
        .toFixed(digits)
        .replace(/^-/, "−")
        .replace(/^−(0(\.0+)?)$/, "$1")
    : "–";
export const signed = (value, digits = 2) =>
  (known(value) && value > 0 && figure(value, digits) !== (0).toFixed(digits) ? "+" : "") + figure(value, digits);

// gain of a cosine against the same row's empty one: 1 − (1 − cosine) / (1 − empty)
export const gainOf = (cosine, empty) =>
  known(cosine) && known(empty) && empty < 1 ? 1 - (1 - cosine) / (1 - empty) : null;

export const valueOf = (row, by) => (row ? (by === "fve" ? row.fve : row.gain) : null);

export function verbal(row) {
  if (!row || !known(row.cosine)) return "no score";
  if (!known(row.gain)) return "no words score perfectly here: nothing is left to gain";
  if (row.gain < 0) return "worse than no words";
  if (row.gain < 0.05) return "the words add almost nothing";
  return `the words remove ${Math.round(100 * row.gain)} % of the error that no words leave`;
}
