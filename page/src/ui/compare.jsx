// Two tokens or two texts in words, and what lies between them.
import { useEffect } from "preact/hooks";
import { figure } from "../logic/scale.js";
import { marked } from "../logic/words.js";
import { Fault, Spinner, useStore, useTask } from "./parts.jsx";
import { Growing } from "./source.jsx";

const inputOf = (one) => (one.fields ? { ...one.fields, positions: one.position } : { text: one.text });

export function Compare() {
  const store = useStore();
  const { a, b } = store.comparing.value;
  const task = useTask(async (signal) => {
    const { layer } = store.settings.value;
    const own = layer == null ? {} : { layer };
    const { rows } = await store.api.post(
      "v1/compare",
      { a: { ...inputOf(a), ...own }, b: { ...inputOf(b), ...own }, signs: "±" },
      signal,
    );
    return rows[0];
  });
  const tokens = Boolean(a.fields || b.fields);
  useEffect(() => {
    if (tokens) task.run(); // whoever chose two tokens has asked already
  }, []);
  const { value } = task;
  const ready = [a, b].every((one) => one.fields || one.text.trim());
  return (
    <section class="compare" aria-label="Compare">
      <div class="sides">
        <Side name="a" title="First" />
        <Side name="b" title="Second" />
      </div>
      <div class="toolbar">
        <button type="button" class="primary" disabled={!ready || task.busy} onClick={task.run}>
          Compare
        </button>
        {tokens && (
          <button
            type="button"
            class="quiet"
            onClick={() =>
              (store.comparing.value = { a: { text: "The soup was hot" }, b: { text: "The soup was cold" } })
            }
          >
            Compare two texts instead
          </button>
        )}
        {task.busy && <Spinner>comparing</Spinner>}
      </div>
      <Fault fault={task.fault} again={task.run} />
      {value && (
        <div class={`compared ${task.busy ? "stale" : ""}`} aria-live="polite">
          <div class="sides">
            <Words title={named(a, "First")} text={value.a} only={value.words_only_a} kind="a" />
            <Words title={named(b, "Second")} text={value.b} only={value.words_only_b} kind="b" />
          </div>
          <p class="hint">
            <mark class="a">only in the first</mark> <mark class="b">only in the second</mark> · cosine{" "}
            {figure(value.cosine, 3)}, distance {figure(value.norm, 0)}
          </p>
          <p class="hint">
            And what lies between them, the difference of the two activations, in words. Nothing scores these: read them
            with care.
          </p>
          <div class="sides apart">
            <Words title="What the first has over the second" text={value.difference} only={[]} kind="difference" />
            {value.reverse != null && (
              <Words title="What the second has over the first" text={value.reverse} only={[]} kind="difference" />
            )}
          </div>
        </div>
      )}
    </section>
  );
}

const named = (one, fallback) => (one.fields ? `“${one.name}”, token ${one.position}` : `${fallback}: its last token`);

function Side({ name, title }) {
  const { comparing } = useStore();
  const one = comparing.value[name];
  if (one.fields)
    return (
      <p class="picked">
        <b>{one.name}</b>
        <span class="where">
          token {one.position} of “{one.fields.text?.slice(0, 60) ?? "the chat"}”
        </span>
      </p>
    );
  return (
    <label>
      {title} text
      <Growing
        value={one.text}
        onInput={(event) => (comparing.value = { ...comparing.value, [name]: { text: event.currentTarget.value } })}
      />
    </label>
  );
}

function Words({ title, text, only, kind }) {
  return (
    <figure class={`words ${kind}`}>
      <figcaption>{title}</figcaption>
      <p>
        {marked(text ?? "", only ?? []).map(([hit, part], at) =>
          hit ? (
            <mark class={kind} key={at}>
              {part}
            </mark>
          ) : (
            part
          ),
        )}
      </p>
    </figure>
  );
}
