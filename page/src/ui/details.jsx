// An open explanation: its score beside what others score, and what can be done with its words.
import { useEffect, useState } from "preact/hooks";
import { figure, gainOf, known, signed } from "../logic/scale.js";
import { diff, sentences, without } from "../logic/words.js";
import { Claims } from "./claims.jsx";
import { Fault, GainBar, GainRow, Spinner, Term, useStore, useTask } from "./parts.jsx";
import { Growing } from "./source.jsx";
import { Nearest, Samples, Steer } from "./uses.jsx";

const checkable = ({ kind, input }) => kind === "token" || (kind === "vector" && (input.kind ?? "activation") === "activation");

const TOOLS = [
  ["claims", "Check its words", (pair, entry) => pair.kind !== "oracle" && checkable(entry)],
  ["sentences", "Which sentence carries it", (pair) => pair.has_ar],
  ["edit", "Edit the words", (pair) => pair.has_ar],
  ["samples", "Say it otherwise", (pair, entry) => pair.kind !== "oracle" && entry.kind !== "question"],
  ["nearest", "Nearest tokens", (pair, entry) => pair.has_ar && entry.fields],
  ["steer", "Steer with it", (pair) => pair.has_ar && pair.has_source && !pair.limits.switched_off?.includes("steer")],
];

export function Details({ entry, row }) {
  const store = useStore();
  const [tool, setTool] = useState(null);
  const pair = store.pair.value;
  const tools = TOOLS.filter(([, , there]) => there(pair, entry));
  const Tool = { claims: Claims, sentences: Sentences, edit: Edit, samples: Samples, nearest: Nearest, steer: Steer }[tool];
  return (
    <div class="details">
      {pair.has_ar && known(row.cosine) && <Beside entry={entry} row={row} />}
      {tools.length > 0 && (
        <div class="tools" role="group" aria-label="What to do with this explanation">
          {tools.map(([id, name]) => (
            <button type="button" key={id} aria-pressed={tool === id} onClick={() => setTool(tool === id ? null : id)}>
              {name}
            </button>
          ))}
        </div>
      )}
      {Tool && (
        <div class={`tool ${tool}`}>
          <Tool entry={entry} row={row} key={entry.key} />
        </div>
      )}
    </div>
  );
}

export const scoring = (entry, texts) => ({ ...entry.input, explanations: texts });
const mean = (list) => (list.length ? list.reduce((sum, one) => sum + one, 0) / list.length : null);

function Beside({ entry, row }) {
  const store = useStore();
  const others = store.othersOf(entry);
  // What came with the row is of those explained by then; once there are more, they are scored anew.
  const given = row.shuffled_of ? { gain: row.shuffled_gain, cosine: row.shuffled_cosine, of: row.shuffled_of } : null;
  const task = useTask(async (signal, texts) => {
    const { rows } = await store.api.post("v1/score", scoring(entry, texts), signal);
    return {
      gain: mean(rows.map((one) => one.gain).filter(known)),
      cosine: mean(rows.map((one) => one.cosine)),
      of: rows.length,
    };
  });
  const idle = store.running.value.size === 0;
  const outdated = idle && others.length > (given?.of ?? 0) && others.length > (task.value?.of ?? 0);
  useEffect(() => {
    if (outdated && !task.busy && !task.fault) task.run(others);
  }, [outdated, entry.key]);
  const shuffled = (task.value?.of ?? 0) >= (given?.of ?? 0) ? (task.value ?? given) : given;
  const title = (cosine, fve) =>
    [`cosine ${figure(cosine, 3)}`, known(fve) && `FVE ${figure(fve, 3)}`].filter(Boolean).join(", ");
  return (
    <div class="beside">
      <p class="axis">
        <span>worse</span>
        <span>no words</span>
        <span>perfect</span>
        <span>
          <Term>gain</Term>
        </span>
      </p>
      <GainRow name="these words" value={row.gain} strong title={title(row.cosine, row.fve)} />
      <GainRow
        name={<Term of="empty">no words</Term>}
        value={known(row.gain) ? 0 : null}
        title={title(row.empty_cosine, row.empty_fve)}
      />
      {shuffled ? (
        <GainRow
          name={<Term of="shuffled">others’ words</Term>}
          value={shuffled.gain}
          title={`mean of ${shuffled.of} other explanation${shuffled.of === 1 ? "" : "s"}, ${title(shuffled.cosine)}`}
        />
      ) : (
        <div class="gainrow">
          <span class="name">
            <Term of="shuffled">others’ words</Term>
          </span>
          <span class="aside">
            {task.busy ? (
              <Spinner>scoring</Spinner>
            ) : task.fault ? (
              <Fault fault={task.fault} again={() => task.run(others)} />
            ) : (
              `explain another ${entry.kind === "vector" ? "row" : "token"} to see`
            )}
          </span>
        </div>
      )}
      {known(row.mean_cosine) && (
        <GainRow
          name={<Term of="mean">mean direction</Term>}
          value={gainOf(row.mean_cosine, row.empty_cosine)}
          title={title(row.mean_cosine, row.mean_fve)}
        />
      )}
      <p class="figures">
        <Term>cosine</Term> {figure(row.cosine, 3)} (no words {figure(row.empty_cosine, 3)})
        {known(row.fve) && (
          <>
            {" · "}
            <Term>FVE</Term> {figure(row.fve)} (no words {figure(row.empty_fve)})
          </>
        )}
        {row.matched === false && <> · the halves do not belong together: the score means little</>}
      </p>
    </div>
  );
}

function Sentences({ entry, row }) {
  const store = useStore();
  const list = sentences(row.api_explanation);
  const task = useTask(async (signal) => {
    if (list.length === 1) return [row.gain];
    const texts = list.map((_, at) => without(list, at));
    const { rows } = await store.api.post("v1/score", scoring(entry, texts), signal);
    return rows.map((one) => (known(one.gain) && known(row.gain) ? row.gain - one.gain : null));
  });
  useEffect(() => void task.run(), []);
  return (
    <>
      <p class="hint">
        What each sentence adds: the gain with it less the gain without it.
        {list.length > 1 &&
          known(row.gain) &&
          " Sentences can repeat each other, so the parts need not sum to the whole."}
      </p>
      <Fault fault={task.fault} again={task.run} />
      <ol class="sentences">
        {list.map((one, at) => (
          <li key={at}>
            <span>{one}</span>
            <span class="adds">
              <GainBar value={task.value?.[at]} least={-0.5} />
              {task.busy ? "…" : signed(task.value?.[at])}
            </span>
          </li>
        ))}
      </ol>
    </>
  );
}

function Edit({ entry, row }) {
  const store = useStore();
  const [text, setText] = useState(row.api_explanation);
  const task = useTask(async (signal, words) => {
    await new Promise((resolve) => setTimeout(resolve, 350)); // until the typing rests
    if (signal.aborted) return null;
    const { rows } = await store.api.post("v1/score", scoring(entry, [words]), signal);
    return rows[0];
  });
  const changed = text !== row.api_explanation;
  const now = changed ? task.value : row;
  const change = now && known(now.gain) && known(row.gain) ? now.gain - row.gain : null;
  function edit(words) {
    setText(words);
    if (words === row.api_explanation) task.clear();
    else task.run(words);
  }
  return (
    <>
      <Growing
        aria-label="The explanation, to be changed"
        value={text}
        onInput={(event) => edit(event.currentTarget.value)}
      />
      <div class="edited" aria-live="polite">
        <GainRow name="the pair’s words" value={row.gain} />
        <GainRow name="your words" value={now?.gain} strong />
        <p class={`change ${known(change) ? (change < 0 ? "low" : "high") : ""}`}>
          {task.busy
            ? "scoring …"
            : changed && known(change)
              ? `${signed(change)} gain, cosine ${figure(now.cosine, 3)}`
              : changed
                ? ""
                : "Change a word and see what it was worth."}
        </p>
      </div>
      <Fault fault={task.fault} again={() => task.run(text)} />
      {changed && (
        <>
          <p class="diff" aria-label="What you changed">
            {diff(row.api_explanation, text).map(([kind, part], at) =>
              kind === "old" ? (
                <del key={at}>{part}</del>
              ) : kind === "new" ? (
                <ins key={at}>{part}</ins>
              ) : (
                <span key={at}>{part}</span>
              ),
            )}
          </p>
          <button type="button" class="link" onClick={() => edit(row.api_explanation)}>
            Back to the pair’s words
          </button>
        </>
      )}
    </>
  );
}
