// Tokens as they are drawn: byte pieces of one character put together, white space made visible, scaffolding quiet.

const SPECIAL = /^<[^<>\s]+>$|^\[(?:CLS|SEP|BOS|EOS|INST|\/INST)\]$/;

// -> [{position, positions, text, lead, marks, breaks, quiet, special, group, message, role}]
export function units(tokens) {
  const made = [];
  let open = null;
  for (const token of tokens) {
    const { fragment_index: piece = 0, fragment_count: pieces = 1 } = token;
    if (pieces > 1 && piece > 0 && open && open.pieces === pieces && open.text === token.token) {
      open.positions.push(token.position);
      open.position = token.position; // the last piece: only there the character is whole
      continue;
    }
    open = unit(token, pieces);
    made.push(open);
  }
  return made;
}

function unit(token, pieces) {
  const text = token.token;
  const special = SPECIAL.test(text);
  const chat = token.section != null;
  const [, lead, rest] = /^( ?)([^]*)$/.exec(text);
  return {
    position: token.position,
    positions: [token.position],
    pieces,
    text,
    lead: lead && rest ? " " : "",
    shown: shown(lead && !rest ? text : rest),
    breaks: (text.match(/\n/g) ?? []).length,
    special,
    quiet: special || (chat && token.section !== "content"),
    message: token.message_index ?? null,
    role: token.role ?? null,
    section: token.section ?? null,
  };
}

const shown = (text) =>
  text === ""
    ? "∅"
    : text
        .replace(/\r/g, "␍")
        .replace(/\n/g, "↵")
        .replace(/\t/g, "⇥")
        .replace(/^ +| {2,}| +$/g, (spaces) => "␣".repeat(spaces.length))
        .replace(
          /[\u0000-\u0008\u000b-\u001f\u007f\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]/g,
          (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`,
        );

export const label = (text) => shown(text.replace(/^ (?=\S)/, ""));

// Positions worth explaining when nobody chose any: what people wrote, not what stands around it.
export const worthwhile = (list) => list.filter((one) => !one.quiet && one.text.trim()).map((one) => one.position);
