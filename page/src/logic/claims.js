// What an explanation claims, and how far each claim is to be believed.
import { figure, known, stroke } from "./scale.js";

// A text cut where its claims begin and end; a part belongs to the innermost claim around it, or to none (-1).
// Claims count code points, as Python does; a string here counts UTF-16. -> [[number, text, isFirstPart]…]
export function parts(text, claims) {
  const points = [...text];
  const whose = new Array(points.length).fill(-1);
  claims.forEach(({ start, end }, number) => whose.fill(number, start, end)); // in their order: the inner ones later
  const made = [];
  const seen = new Set([-1]);
  for (let at = 0; at < points.length; at++) {
    if (made.at(-1)?.[0] === whose[at]) made.at(-1)[1] += points[at];
    else made.push([whose[at], points[at], !seen.has(whose[at])]);
    seen.add(whose[at]);
  }
  return made;
}

// A claim's line: blue and solid above a half, orange and wavy below (broken lines need longer words to be seen), the
// thicker the surer; grey and dotted where nobody knows.
export function lineOf(support) {
  const { style, colour, width } = stroke(known(support) ? 2 * support - 1 : null);
  const shape = style === "dashed" ? "wavy" : style;
  return { textDecoration: `underline ${shape} ${colour} ${(width / (shape === "wavy" ? 3 : 1.5)).toFixed(1)}px` };
}

// Nothing is quite sure: the ends are said as such.
export function percent(value) {
  if (!known(value)) return "–";
  return value < 0.005 ? "< 1 %" : value > 0.995 ? "> 99 %" : `${Math.round(100 * value)} %`;
}

const NAMES = {
  in_text: "words in the text",
  in_text_exact: "word for word in the text",
  in_text_meaning: "meant by the text (cosine)",
  in_text_after: "words in the text behind it",
  model_agrees: "the model’s probability of it",
  lens: "log-probability in the vector",
  ablation: "lost without it",
  replacement: "lost with another in its place",
  alone: "worth by itself",
  repeats: "said again",
  recurs_nearby: "said at neighbouring tokens",
  recurs_in_samples: "said in other samples",
  dictionary: "said by the dictionary",
  steering: "steering raises it (nats)",
};
const OF_UNIT = ["ablation", "replacement", "alone"];

// -> [[what, value, by chance or null]…], numbers as text
export const receipts = ({ receipts: of }, unit) =>
  Object.entries(of).map(([name, { value, null: chance }]) => [
    (NAMES[name] ?? name) + (unit && OF_UNIT.includes(name) ? ` (${unit})` : ""),
    figure(value, 3),
    known(chance) ? figure(chance, 3) : null,
  ]);
