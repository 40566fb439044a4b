// The state in the address's fragment: it never reaches a server. Explanations are not in it: whoever opens the link
// has them written and scored anew, so that a link cannot claim what a pair never said.

const FORM = 1;
const MOST = 64; // tokens that a link has explained by itself

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

const toBase64 = (bytes) => {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
};
const fromBase64 = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));

export async function fragment(state) {
  const bytes = new TextEncoder().encode(JSON.stringify({ v: FORM, ...state }));
  return typeof CompressionStream === "function"
    ? `#z=${toBase64(await through(bytes, new CompressionStream("deflate-raw")))}`
    : `#b=${toBase64(bytes)}`;
}

// -> the state; null: the fragment holds none. A damaged one is an Error.
export async function parsed(hash) {
  const [, form, data] = /^#([zb])=([\w-]+)$/.exec(hash) ?? [];
  if (!form) return null;
  try {
    const bytes = fromBase64(data);
    const plain = form === "z" ? await through(bytes, new DecompressionStream("deflate-raw")) : bytes;
    const state = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(plain));
    if (state?.v !== FORM) throw new Error("another form");
    return state;
  } catch {
    throw new Error("This link is damaged or of another version of the page: nothing of it was taken over.");
  }
}

export function stateOf(store) {
  const { mode, messages, written, selected, settings, opened, entries, here, comparing } = store;
  const entry = entries.value.get(opened.value);
  const made = {
    m: mode.value === "vectors" ? "text" : mode.value, // vectors are too many numbers for an address
    s: settings.value,
    x: here.value.filter((one) => one.kind === "token" && one.live.value.row).map((one) => one.positions[0]),
    p: [...selected.value],
  };
  if (mode.value === "chat") made.c = messages.value;
  else made.t = written.value;
  if (mode.value === "compare") made.k = comparing.value;
  if (entry?.kind === "token" || entry?.kind === "question") made.o = entry.positions;
  return made;
}

// What a link holds: once the page shows another, the address must not go on naming the first.
export const linked = ({ source, comparing }) => JSON.stringify([source.value, comparing.value]);

const texts = (list) => list.every((one) => typeof one?.role === "string" && typeof one?.content === "string");
const numbers = (list) => (Array.isArray(list) ? list.filter((one) => Number.isInteger(one) && one >= 0) : []);

const SETTINGS = {
  by: (value) => value === "gain" || value === "fve",
  layer: (value) => value === null || (Number.isInteger(value) && value >= 0),
  question: (value) => typeof value === "string",
  seed: Number.isSafeInteger,
  temperature: (value) => Number.isFinite(value) && value >= 0 && value <= 5,
};

// A link is a stranger's text: what does not have its form is left out.
export function restore(store, state) {
  const settings = Object.entries(state.s ?? {}).filter(([name, value]) => SETTINGS[name]?.(value));
  store.set(Object.fromEntries(settings));
  const opens = numbers(state.o);
  const then = () => {
    const there = new Set(store.read.value.units.map((one) => one.position));
    const explained = numbers(state.x)
      .filter((at) => there.has(at))
      .slice(0, MOST);
    if (opens.length && opens.every((at) => there.has(at))) store.explainTokens(opens, { open: true });
    if (explained.length) store.explainTokens(explained.filter((at) => !opens.includes(at)));
  };
  const fields = { text: state.t, messages: state.c };
  if (readable(fields)) store.show(fields, { chosen: numbers(state.p), then });
  const { a, b } = state.k ?? {};
  if (state.m === "compare" && side(a) && side(b)) {
    store.comparing.value = { a: side(a), b: side(b) };
    store.mode.value = "compare";
  }
}

const readable = (fields) =>
  typeof fields?.text === "string" || (Array.isArray(fields?.messages) && texts(fields.messages));

function side(one) {
  if (typeof one?.text === "string") return { text: one.text };
  if (!readable(one?.fields) || !Number.isInteger(one.position)) return null;
  return { fields: one.fields, position: one.position, name: String(one.name) };
}
