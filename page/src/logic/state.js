// What the page knows: which pair, which text, which tokens are chosen, what was explained so far.
import { batch, computed, effect, signal } from "@preact/signals";
import { ApiError, createApi, stopped } from "./api.js";
import { createExplaining } from "./explaining.js";
import { units } from "./tokens.js";

export const EXAMPLES = [
  { name: "a place", text: "The Eiffel Tower stands in the city of" },
  { name: "a waltz", text: "She opened the old piano and played a slow waltz for her grandmother." },
  { name: "a reason", text: "Water boils at 100 degrees because the molecules" },
  { name: "a doctor", text: "The doctor looked at the blood test and told her that the infection was" },
  {
    name: "a chat",
    messages: [
      { role: "user", content: "My soup is far too hot. What should I do?" },
      { role: "assistant", content: "Stir it, add some cold milk, and wait." },
    ],
  },
];

const TYPING = 200; // ms without a key before the text is cut into tokens

export function createStore(transport, { text, linkable = false, theme = "auto" } = {}) {
  const refusal = signal(null); // the server wants a secret
  const api = createApi(transport, (fault) => (refusal.value = fault));
  const pair = signal(null);
  const fault = signal(null); // of the pair's facts
  const mode = signal("text"); // text, chat, vectors, compare
  const written = signal(text || EXAMPLES[0].text);
  const messages = signal(structuredClone(EXAMPLES.at(-1).messages));
  const read = signal({ list: [], units: [], source: null, fault: null, busy: false });
  const selected = signal(new Set());
  const several = signal(false); // on a screen without keys: taps choose, and explain nothing yet
  const active = signal(0); // index of the unit that the keyboard is at
  const opened = signal(null); // an entry's key
  const settings = signal({ layer: null, by: "gain", question: "What is this about?", temperature: 0, seed: 0 });
  const query = signal("");
  const said = signal(""); // to screen readers, politely
  const notice = signal(""); // of the page itself
  const glow = signal(null); // a position pointed at from elsewhere
  const comparing = signal({ a: { text: "The soup was hot" }, b: { text: "The soup was cold" } });
  const vectors = signal(null); // a file's rows

  const source = computed(() =>
    mode.value === "chat"
      ? {
          messages: messages.value.map(({ role, content }) => ({ role, content })),
          add_generation_prompt: messages.value.at(-1)?.role !== "assistant",
        }
      : { text: written.value },
  );

  async function loadPair() {
    fault.value = null;
    try {
      const found = await api.get("v1/pair");
      batch(() => {
        pair.value = found;
        refusal.value = null;
        if (!found.has_source) mode.value = "vectors";
        else tokenize();
      });
    } catch (problem) {
      if (!stopped(problem)) fault.value = problem;
    }
  }

  let run = null;
  let asking = ""; // the source that is being cut, or was
  async function tokenize() {
    run?.abort();
    const own = (run = new AbortController());
    const asked = source.value;
    asking = JSON.stringify(asked);
    const empty = asked.messages ? !asked.messages.length : !asked.text;
    if (empty) {
      read.value = { list: [], units: [], source: asked, fault: null, busy: false };
      return;
    }
    read.value = { ...read.value, busy: true };
    try {
      const { tokens } = await api.post("v1/tokenize", asked, own.signal);
      const same = JSON.stringify(read.value.source) === JSON.stringify(asked);
      batch(() => {
        read.value = { list: tokens, units: units(tokens), source: asked, fault: null, busy: false };
        if (!same) {
          selected.value = new Set();
          active.value = 0;
          if (opened.value && explaining.entries.value.get(opened.value)?.sourceKey !== JSON.stringify(asked))
            opened.value = null;
        }
        const { chosen, then } = wanted ?? {};
        if (chosen) selected.value = new Set(chosen);
        wanted = null;
        then?.();
      });
    } catch (problem) {
      if (!stopped(problem)) read.value = { list: [], units: [], source: asked, fault: problem, busy: false };
      wanted = null;
    }
  }

  let wanted = null; // what to do once the tokens are there
  let timer = 0;
  const stop = effect(() => {
    const now = JSON.stringify(source.value);
    const at = mode.value;
    clearTimeout(timer);
    if (pair.peek()?.has_source && (at === "text" || at === "chat"))
      timer = setTimeout(() => asking !== now && tokenize(), TYPING);
  });

  const store = {
    api,
    transport,
    linkable,
    theme,
    refusal,
    pair,
    fault,
    mode,
    written,
    messages,
    read,
    selected,
    several,
    active,
    opened,
    settings,
    query,
    said,
    glow,
    notice,
    comparing,
    vectors,
    source,
    held: null, // what the address's link holds, as `linked` says it
    loadPair,
    tokenize,
    set: (changes) => (settings.value = { ...settings.value, ...changes }),
    async unlock(secret) {
      transport.setSecret(secret);
      refusal.value = null;
      await loadPair();
    },
    show(given, after = {}) {
      wanted = { chosen: after.chosen ?? null, then: after.then ?? null };
      batch(() => {
        if (given.messages) {
          messages.value = structuredClone(given.messages);
          mode.value = "chat";
        } else {
          written.value = given.text;
          mode.value = "text";
        }
      });
      if (pair.value) tokenize();
    },
    close() {
      stop();
      run?.abort();
      explaining.stopAll();
      transport.close?.();
    },
  };
  const explaining = createExplaining(store);
  return Object.assign(store, explaining);
}

export const sentence = (fault) => (fault instanceof ApiError ? fault.message : `Something failed here: ${fault}`);
