// A file of vectors from another tool: dropped, chosen or pasted; what it leaves open is asked.
import { useRef, useState } from "preact/hooks";
import { figure } from "../logic/scale.js";
import { found } from "../logic/words.js";
import { Fault, Spinner, useStore, useTask } from "./parts.jsx";

const FACTS = ["kind", "layer", "model", "maker", "sign", "centred", "site", "column", "dtype"];
const SHOWN = 100;
const KINDS = [
  "activation: a point of the residual stream at one token",
  "direction: a dictionary’s row, a steering vector, a probe",
  "difference: of two activations or two means",
];

export function Vectors() {
  const store = useStore();
  const { vectors } = store;
  const [file, setFile] = useState(null); // {name, bytes | numbers}
  const [told, setTold] = useState({});
  const [over, setOver] = useState(false);
  const picker = useRef(null);

  const task = useTask(async (signal, given, facts) => {
    vectors.value = null;
    if (given.numbers) {
      if (!facts.kind) throw open([{ fact: "kind", choices: KINDS, why: "numbers do not say what they are" }]);
      vectors.value = plain(given, facts.kind);
      return true;
    }
    const query = new URLSearchParams({ name: given.name, ...facts });
    const answer = await store.api.send(`v1/vectors?${query}`, given.bytes, signal);
    vectors.value = { ...answer, name: given.name };
    return true;
  });

  async function take(one) {
    if (!one) return;
    const given = { name: one.name, bytes: new Uint8Array(await one.arrayBuffer()) };
    start(given);
  }

  function start(given) {
    setFile(given);
    setTold({});
    task.run(given, {});
  }

  function paste(event) {
    const [one] = event.clipboardData?.files ?? [];
    const text = event.clipboardData?.getData("text") ?? "";
    if (one) take(one);
    else if (text.trim()) {
      const numbers = parsed(text);
      if (numbers) start({ name: "pasted", numbers });
      else
        task.run(
          {
            get numbers() {
              throw new Error("What was pasted is no list of numbers.");
            },
          },
          {},
        );
    }
    event.preventDefault();
  }

  return (
    <section class="vectors" aria-label="Vectors from a file">
      <div
        class={`drop ${over ? "over" : ""}`}
        tabIndex={0}
        role="group"
        aria-label="Drop a file of vectors here, or paste numbers"
        onPaste={paste}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          take(event.dataTransfer.files[0]);
        }}
      >
        <p>
          Drop a file of vectors here, paste numbers, or{" "}
          <button type="button" class="link" onClick={() => picker.current.click()}>
            choose a file
          </button>
        </p>
        <p class="hint">
          .npy, .npz, .safetensors, .gguf, .pt, .parquet, .jsonl: dictionary rows, control vectors, probes, caches of
          activations.
        </p>
        <input
          ref={picker}
          type="file"
          class="hidden"
          tabIndex={-1}
          aria-label="A file of vectors"
          onChange={(event) => take(event.currentTarget.files[0])}
        />
      </div>
      {task.busy && <Spinner>reading {file?.name}</Spinner>}
      {task.fault?.questions ? (
        <Questions
          key={JSON.stringify(told)}
          name={file.name}
          questions={task.fault.questions}
          answer={(facts) => {
            const all = { ...told, ...facts };
            setTold(all);
            task.run(file, all);
          }}
        />
      ) : (
        <Fault fault={task.fault} again={file ? () => task.run(file, told) : null} />
      )}
      {vectors.value && <Rows file={vectors.value} />}
    </section>
  );
}

function open(questions) {
  return Object.assign(new Error("unstated"), { questions });
}

// One list of numbers, several, or numbers with whatever between them.
function parsed(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = text
      .split(/[\s,;]+/)
      .filter(Boolean)
      .map(Number);
  }
  const rows = Array.isArray(value) && Array.isArray(value[0]) ? value : [value];
  const good = rows.every(
    (row) =>
      Array.isArray(row) && row.length > 1 && row.every((one) => typeof one === "number" && Number.isFinite(one)),
  );
  return good ? rows : null;
}

function plain({ name, numbers }, kind) {
  const rows = numbers.map((vector, index) => ({ index, label: null, norm: Math.hypot(...vector), vector }));
  return {
    name,
    kind,
    layer: null,
    model: null,
    source: "pasted numbers",
    assumed: [],
    unknown: [],
    count: rows.length,
    rows,
  };
}

const valueOf = (choice) => choice.split(":")[0].trim();

function Questions({ name, questions, answer }) {
  const [facts, setFacts] = useState(() =>
    Object.fromEntries(questions.filter((one) => one.choices?.length).map((one) => [one.fact, ""])),
  );
  const ready = questions.every((one) => !FACTS.includes(one.fact) || (facts[one.fact] ?? "") !== "");
  return (
    <form
      class="questions"
      onSubmit={(event) => {
        event.preventDefault();
        answer(facts);
      }}
    >
      <p>
        <b>{name}</b> does not say everything, and a guess would turn its vectors into something else:
      </p>
      {questions.map((one) => (
        <label key={one.fact}>
          <b>{one.fact}</b>
          <span class="hint">{one.why}</span>
          {one.choices?.length ? (
            <select
              value={facts[one.fact]}
              onChange={(event) => setFacts({ ...facts, [one.fact]: event.currentTarget.value })}
            >
              <option value="">choose …</option>
              {one.choices.map((choice) => (
                <option key={choice} value={valueOf(choice)}>
                  {choice}
                </option>
              ))}
            </select>
          ) : (
            <input
              value={facts[one.fact] ?? ""}
              onInput={(event) => setFacts({ ...facts, [one.fact]: event.currentTarget.value })}
            />
          )}
        </label>
      ))}
      <button type="submit" class="primary" disabled={!ready}>
        Read it so
      </button>
    </form>
  );
}

function Rows({ file }) {
  const store = useStore();
  const [query, setQuery] = useState("");
  const [sign, setSign] = useState("+");
  const rows = file.rows.filter((one) => found(`${one.index} ${one.label ?? ""}`, query));
  const facts = [file.kind, file.layer != null && `layer ${file.layer}`, file.model, file.source].filter(Boolean);
  const signs = file.kind !== "activation";
  const chosen = (row) => (sign === "±" ? [row, turned(row)] : sign === "−" ? [turned(row)] : [row]);
  return (
    <div class="file">
      <p>
        <b>{file.name}</b>: {file.count} vector{file.count === 1 ? "" : "s"}, {facts.join(", ")}
      </p>
      {file.count > file.rows.length && <p class="hint">The first {file.rows.length} are here.</p>}
      {notes(file.assumed, "Taken as given")}
      {notes(file.unknown, "Not known")}
      <div class="toolbar">
        {file.rows.length > 8 && (
          <input
            type="search"
            aria-label="Search rows"
            placeholder="Search rows …"
            value={query}
            onInput={(event) => setQuery(event.currentTarget.value)}
          />
        )}
        {signs && (
          <label>
            Sign
            <select value={sign} onChange={(event) => setSign(event.currentTarget.value)}>
              <option value="+">as it is</option>
              <option value="−">turned round</option>
              <option value="±">both</option>
            </select>
          </label>
        )}
        {file.rows.length > 1 && file.rows.length <= 32 && (
          <button type="button" onClick={() => store.explainVectors(file, file.rows.flatMap(chosen))}>
            Explain all {file.rows.length}
          </button>
        )}
        {store.running.value.size > 0 && (
          <button type="button" class="stop" onClick={store.stopAll}>
            Stop
          </button>
        )}
      </div>
      <ol class="rows">
        {rows.slice(0, SHOWN).map((row) => (
          <li key={row.index}>
            <button type="button" onClick={() => store.explainVectors(file, chosen(row))}>
              <span class="of">{row.label ?? `row ${row.index}`}</span>
              <span class="where">
                {row.label && row.label !== `#${row.index}` ? `#${row.index}, ` : ""}length {figure(row.norm, 2)}
              </span>
            </button>
          </li>
        ))}
      </ol>
      {rows.length > SHOWN && <p class="hint">{rows.length - SHOWN} more: search to see them.</p>}
    </div>
  );
}

const turned = (row) => ({ ...row, sign: "−", vector: row.vector.map((one) => -one) });

function notes(list, title) {
  const all = Array.isArray(list) ? list : list ? Object.entries(list).map(([name, value]) => `${name}: ${value}`) : [];
  return all.length > 0 && <p class="hint">{`${title}: ${all.join("; ")}.`}</p>;
}
