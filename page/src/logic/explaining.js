// Entries: one for each token or vector that was explained, kept while the page is open.
import { batch, computed, signal } from "@preact/signals";
import { ApiError, stopped } from "./api.js";
import { label } from "./tokens.js";

const OTHERS = 16; // explanations sent along, to be the "shuffled" ones of a row
const AT_MOST = 64; // rows of one request

export function createExplaining(store) {
  const entries = signal(new Map());
  const running = signal(new Set()); // AbortControllers

  const sourceKey = () => JSON.stringify(store.read.value.source);
  const here = computed(() => {
    const key = sourceKey();
    const { layer } = store.settings.value;
    const vectors = store.mode.value === "vectors";
    return [...entries.value.values()]
      .filter((one) =>
        vectors ? one.kind === "vector" : one.kind !== "vector" && one.sourceKey === key && one.layer === layer,
      )
      .sort((a, b) => a.order - b.order);
  });
  const byPosition = computed(
    () =>
      new Map(here.value.filter((one) => one.kind !== "vector").flatMap((one) => one.positions.map((at) => [at, one]))),
  );

  function add(made) {
    const next = new Map(entries.value);
    for (const one of made) next.set(one.key, one);
    entries.value = next;
  }

  function ofTokens(positions, together) {
    const { read, settings } = store;
    const { layer, question } = settings.value;
    const fields = read.value.source;
    const named = new Map(read.value.units.map((one) => [one.position, one.text]));
    const groups = together ? [positions] : positions.map((at) => [at]);
    return groups.map((group) => {
      const key = JSON.stringify([sourceKey(), layer, group, together ? question : null]);
      const old = entries.value.get(key);
      if (old) return old;
      return {
        key,
        kind: together ? "question" : "token",
        sourceKey: sourceKey(),
        fields,
        layer,
        positions: group,
        order: group[0],
        name: group.map((at) => label(named.get(at) ?? "")).join(" "),
        question: together ? question : null,
        input: { ...fields, positions: together ? group : group[0], ...(layer == null ? {} : { layer }) },
        live: signal({ state: "waiting", text: "", row: null, fault: null }),
      };
    });
  }

  function ofVectors(file, rows) {
    return rows.map((row) => {
      const key = JSON.stringify(["vector", file.name, row.index, file.kind, file.layer, row.sign ?? "+"]);
      const old = entries.value.get(key);
      if (old) return old;
      const layer = (Array.isArray(file.layer) ? file.layer[row.index] : file.layer) ?? store.settings.value.layer;
      return {
        key,
        kind: "vector",
        sourceKey: null,
        fields: null,
        layer,
        positions: [],
        order: row.index * 2 + (row.sign === "−" ? 1 : 0),
        name: `${row.label ?? `row ${row.index}`}${row.sign === "−" ? " turned round" : ""}`,
        from: file.name,
        question: null,
        input: { vectors: [row.vector], kind: file.kind, ...(layer == null ? {} : { layer }) },
        live: signal({ state: "waiting", text: "", row: null, fault: null }),
      };
    });
  }

  // Rows that go into one request have the same text, or are vectors of the same kind.
  function bundled(list) {
    const [first] = list;
    if (list.length === 1) return first.input;
    if (first.kind === "vector") return { ...first.input, vectors: list.map((one) => one.input.vectors[0]) };
    return { ...first.input, positions: list.map((one) => one.positions[0]) };
  }

  async function explain(list) {
    const pair = store.pair.value;
    const fresh = list.filter(
      (one) => !["waiting", "writing"].includes(one.live.value.state) || !entries.value.has(one.key),
    );
    if (!fresh.length) return;
    batch(() => {
      for (const one of fresh) one.live.value = { state: "waiting", text: "", row: null, fault: null };
      add(fresh);
    });
    const limit = Math.min(AT_MOST, pair.limits?.positions ?? AT_MOST);
    const own = new AbortController(); // one for all requests: who stops means those to come as well
    running.value = new Set(running.value).add(own);
    try {
      for (let at = 0; at < fresh.length && !own.signal.aborted; at += limit)
        await some(fresh.slice(at, at + limit), own.signal);
    } finally {
      left(fresh, new ApiError("Stopped."));
      const rest = new Set(running.value);
      rest.delete(own);
      running.value = rest;
    }
  }

  async function some(list, signal) {
    const pair = store.pair.value;
    const { temperature, seed } = store.settings.value;
    store.notice.value = "";
    const body = { ...bundled(list), temperature, seed };
    const asked = list[0].kind === "question" || pair.kind === "oracle";
    const path = asked ? "v1/ask" : pair.has_ar ? "v1/round-trip" : "v1/explain";
    if (asked) body.question = list[0].question ?? store.settings.value.question;
    if (path === "v1/round-trip")
      body.others = here.value
        .filter((one) => !list.includes(one) && one.live.value.row?.api_explanation)
        .map((one) => one.live.value.row.api_explanation)
        .slice(-OTHERS);
    const put = (index, changes) => {
      const one = list[index];
      if (one) one.live.value = { ...one.live.value, ...changes };
    };
    try {
      for await (const frame of store.api.stream(path, body, signal)) {
        const { index } = frame;
        if (index === undefined) {
          if (frame.warning) store.notice.value = frame.warning; // what looks wrong with the vectors
          continue;
        }
        if (frame.error) put(index, { state: "failed", fault: new ApiError(frame.detail ?? frame.error) });
        else if ("api_explanation" in frame) {
          const { done: _, ...row } = frame;
          put(index, { state: "done", text: row.api_explanation ?? "", row, fault: null });
          store.said.value = `${list[index].name}: ${row.api_explanation}`;
        } else if ("text" in frame) {
          if (list[index]?.live.value.state !== "done") put(index, { state: "writing", text: frame.text });
        } else if (list[index]?.live.value.row) {
          const { index: _, sample: __, ...later } = frame; // what other rows' words score comes once all are there
          put(index, { row: { ...list[index].live.value.row, ...later } });
        }
      }
      left(list, new ApiError("The server sent no row for this one."));
    } catch (fault) {
      left(list, stopped(fault) ? new ApiError("Stopped.") : fault);
    }
  }

  // One explanation's claims, asked for by its reader: each costs as much as several scores.
  const checks = signal(new Map()); // entry's key -> {text, value, fault, busy, own}
  const NONE = { value: null, fault: null, busy: false };
  const checkOf = (entry) => {
    const found = checks.value.get(entry.key);
    return found?.text === entry.live.value.row?.api_explanation ? (found ?? NONE) : NONE;
  };
  async function check(entry) {
    checks.peek().get(entry.key)?.own.abort();
    const own = new AbortController();
    const text = entry.live.value.row.api_explanation;
    const put = (changes) => (checks.value = new Map(checks.value).set(entry.key, { ...NONE, text, own, ...changes }));
    put({ busy: true });
    try {
      const { rows } = await store.api.post("v1/check", { ...entry.input, explanations: [text] }, own.signal);
      if (own.signal.aborted) return;
      put({ value: rows[0] });
      const sure = rows[0].support == null ? "" : `, ${Math.round(100 * rows[0].support)} % probable on the whole`;
      store.said.value = `${entry.name}: ${rows[0].claims.length} claims checked${sure}`;
    } catch (fault) {
      if (!own.signal.aborted) put({ fault });
    }
  }

  const left = (list, fault) =>
    batch(() => {
      for (const one of list)
        if (["waiting", "writing"].includes(one.live.value.state))
          one.live.value = { ...one.live.value, state: "failed", fault };
    });

  const stopAll = () => {
    running.value.forEach((one) => one.abort());
    checks.value.forEach(({ own }) => own.abort());
  };

  return {
    entries,
    running,
    here,
    byPosition,
    explain,
    check,
    checkOf,
    stopAll,
    explainTokens(positions, { open = false } = {}) {
      if (!positions.length) return;
      const together = store.pair.value.kind === "oracle";
      const list = ofTokens(
        [...positions].sort((a, b) => a - b),
        together,
      );
      if (open) store.opened.value = list[0].key;
      return explain(list.filter((one) => one.live.value.state !== "done"));
    },
    explainVectors(file, rows) {
      const list = ofVectors(file, rows);
      store.opened.value = list[0].key;
      return explain(list.filter((one) => one.live.value.state !== "done"));
    },
    again: (entry) => explain([entry]),
    forget(entry) {
      const next = new Map(entries.value);
      next.delete(entry.key);
      entries.value = next;
      if (store.opened.value === entry.key) store.opened.value = null;
    },
    // Other explanations of the same source and layer: what they score here. Those that say the same are among them:
    // an AV that says the same of everything would look better without.
    othersOf: (entry) =>
      [...entries.value.values()]
        .filter((one) => one !== entry && one.kind === entry.kind && one.live.value.row?.api_explanation)
        .filter((one) => one.layer === entry.layer && (entry.kind === "vector" || one.sourceKey === entry.sourceKey))
        .map((one) => one.live.value.row.api_explanation)
        .slice(-OTHERS),
  };
}
