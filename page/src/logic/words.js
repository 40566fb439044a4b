// Words and sentences of explanations: cut up, compared, searched.

export function sentences(text) {
  const cut =
    typeof Intl.Segmenter === "function"
      ? [...new Intl.Segmenter("en", { granularity: "sentence" }).segment(text)].map((one) => one.segment)
      : (text.match(/[^.!?]+[.!?]*["'”’)]*\s*/g) ?? [text]);
  return cut.map((one) => one.trim()).filter(Boolean);
}

export const without = (list, at) => list.filter((_, other) => other !== at).join(" ");

const pieces = (text) => text.match(/\s+|[\p{L}\p{N}'’-]+|[^\s\p{L}\p{N}]/gu) ?? [];

// The longest common subsequence of words -> [[kind, text]…], kind "both", "old" or "new".
export function diff(before, after) {
  const [a, b] = [pieces(before), pieces(after)];
  if (a.length * b.length > 250_000)
    return [
      ["old", before],
      ["new", after],
    ];
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * width + j] =
        a[i] === b[j]
          ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
  const made = [];
  const put = (kind, text) => {
    if (made.at(-1)?.[0] === kind) made.at(-1)[1] += text;
    else made.push([kind, text]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) put("both", (j++, a[i++]));
    else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1]))
      put("old", a[i++]);
    else put("new", b[j++]);
  }
  return made;
}

// A text cut where words of `marked` (lower case) stand -> [[isMarked, text]…]
export function marked(text, words) {
  const set = new Set(words.map((one) => one.toLowerCase()));
  const made = [];
  for (const piece of pieces(text)) {
    const hit = set.has(piece.toLowerCase());
    if (made.at(-1)?.[0] === hit) made.at(-1)[1] += piece;
    else made.push([hit, piece]);
  }
  return made;
}

// The places where a search's words stand -> [[isHit, text]…]; null: not all of them do.
export function found(text, query) {
  const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
  const lower = text.toLowerCase();
  if (!terms.every((term) => lower.includes(term))) return null;
  const hits = new Array(text.length).fill(false);
  for (const term of terms)
    for (let at = lower.indexOf(term); at >= 0; at = lower.indexOf(term, at + term.length))
      hits.fill(true, at, at + term.length);
  const made = [];
  for (let at = 0; at < text.length; at++) {
    if (made.at(-1)?.[0] === hits[at]) made.at(-1)[1] += text[at];
    else made.push([hits[at], text[at]]);
  }
  return made;
}
