// Samples of the same activation, tokens of the text nearest to what the words rebuild, the model steered by them.
import { useEffect, useState } from "preact/hooks";
import { ApiError } from "../logic/api.js";
import { figure, known } from "../logic/scale.js";
import { label } from "../logic/tokens.js";
import { Fault, GainBar, Share, Spinner, useStore, useTask } from "./parts.jsx";

const SAMPLES = 4;
const NEAREST = 8;

export function Samples({ entry, row }) {
  const store = useStore();
  const [list, setList] = useState([]);
  const task = useTask(async (signal, seed) => {
    const made = [];
    setList([]);
    const body = { ...entry.input, n: SAMPLES, temperature: 0.7, seed };
    for await (const frame of store.api.stream("v1/explain", body, signal)) {
      if (frame.error) throw new ApiError(frame.detail ?? frame.error);
      if (frame.index === undefined) continue;
      made[frame.sample ?? 0] = "api_explanation" in frame ? frame : { api_explanation: frame.text, writing: true };
      setList([...made].filter(Boolean));
    }
    const texts = made.map((one) => one.api_explanation);
    if (!store.pair.value.has_ar || texts.some((text) => !text)) return made;
    const { rows } = await store.api.post("v1/score", { ...entry.input, explanations: texts }, signal);
    const scored = made.map((one, at) => ({ ...one, gain: rows[at].gain }));
    setList(scored);
    return scored;
  });
  useEffect(() => void task.run(store.settings.value.seed + 1), []);
  return (
    <>
      <p class="hint">
        {SAMPLES} samples at temperature 0.7. What all of them say hangs less on chance than what one says; whether it
        is so, they do not tell.
      </p>
      <ul class="samples">
        {list.map((one, at) => (
          <li key={at}>
            <span class={one.writing ? "writing" : ""}>{one.api_explanation}</span>
            {known(one.gain) && (
              <span class="adds">
                <GainBar value={one.gain} />
                {figure(one.gain)}
              </span>
            )}
          </li>
        ))}
      </ul>
      <Fault fault={task.fault} again={() => task.run(store.settings.value.seed + 1)} />
      {task.busy ? (
        <Spinner>sampling</Spinner>
      ) : (
        <button type="button" class="link" onClick={() => task.run(Math.floor(Math.random() * 1e6))}>
          {SAMPLES} others
        </button>
      )}
      {known(row.gain) && !task.busy && <p class="hint">The explanation above has gain {figure(row.gain)}.</p>}
    </>
  );
}

export function Nearest({ entry, row }) {
  const store = useStore();
  const task = useTask(async (signal) => {
    const layer = entry.layer == null ? {} : { layer: entry.layer };
    const { rows } = await store.api.post(
      "v1/reconstruct",
      { ...entry.fields, ...layer, explanations: [row.api_explanation], nearest: NEAREST },
      signal,
    );
    return rows[0];
  });
  useEffect(() => void task.run(), []);
  const list = task.value?.nearest ?? [];
  const own = list.findIndex((one) => entry.positions.includes(one.position));
  const go = (position) => {
    const other = store.byPosition.value.get(position);
    if (other) store.opened.value = other.key;
    else store.explainTokens([position], { open: true });
  };
  return (
    <>
      <p class="hint">
        The words are turned back into an activation; these tokens of the text lie nearest to it
        {task.value?.centred ? ", the mean taken off" : ""}.
        {task.value &&
          (own === 0
            ? " The nearest is this very token."
            : own > 0
              ? ` This token is number ${own + 1}.`
              : ` This token is not among the ${list.length} nearest.`)}
      </p>
      <Fault fault={task.fault} again={task.run} />
      {task.busy && <Spinner>looking</Spinner>}
      <ol class="nearest">
        {list.map((one) => (
          <li key={one.position} class={entry.positions.includes(one.position) ? "own" : ""}>
            <button
              type="button"
              onMouseEnter={() => (store.glow.value = one.position)}
              onMouseLeave={() => (store.glow.value = null)}
              onClick={() => go(one.position)}
            >
              <span class="of">{label(one.token)}</span>
              <span class="where">token {one.position}</span>
              <Share value={one.cosine} />
              <span class="number">
                <span class="hidden">cosine </span>
                {figure(one.cosine)}
              </span>
            </button>
          </li>
        ))}
      </ol>
    </>
  );
}

export function Steer({ entry, row }) {
  const store = useStore();
  const [prompt, setPrompt] = useState("My favourite thing is");
  const [strength, setStrength] = useState(0.5);
  const task = useTask(async (signal, much) => {
    const body = {
      text: prompt,
      towards: row.api_explanation,
      strength: much,
      max_new_tokens: 32,
      ...(entry.layer == null ? {} : { layer: entry.layer }),
    };
    return (await store.api.post("v1/steer", body, signal)).rows[0];
  });
  const { value } = task;
  return (
    <>
      <p class="hint">
        The vector that is rebuilt of these words is added to the model while it writes on. If it then speaks of what
        they say, that vector carries it; what the token’s own activation carries, the gain tells.
      </p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          task.run(strength);
        }}
      >
        <label>
          The model goes on from
          <input value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} />
        </label>
        <label class="slider">
          Strength {figure(strength)}
          <input
            type="range"
            min="0"
            max="2"
            step="0.05"
            value={strength}
            onInput={(event) => setStrength(Number(event.currentTarget.value))}
            onChange={(event) => value && task.run(Number(event.currentTarget.value))}
          />
        </label>
        <button type="submit" disabled={!prompt.trim()}>
          {value ? "Steer again" : "Steer"}
        </button>
        {task.busy && <Spinner>writing</Spinner>}
      </form>
      <Fault fault={task.fault} again={() => task.run(strength)} />
      {value && (
        <div class={`steered ${task.busy ? "stale" : ""}`}>
          <figure>
            <figcaption>plain</figcaption>
            <p>
              <span class="prompt">{value.prompt}</span>
              {value.plain}
            </p>
          </figure>
          <figure>
            <figcaption>steered, {figure(value.strength)}</figcaption>
            <p>
              <span class="prompt">{value.prompt}</span>
              {value.steered}
            </p>
          </figure>
          {value.moved?.length > 0 && (
            <p class="moved">
              Next word:{" "}
              {value.moved.slice(0, 5).map((one) => (
                <span key={one.token}>
                  <b>{label(one.token)}</b> {percent(one.plain)} → {percent(one.steered)}
                </span>
              ))}
            </p>
          )}
        </div>
      )}
    </>
  );
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
