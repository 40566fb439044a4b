// What was written, token by token; one of them open with all that can be asked of it.
import { useEffect, useRef } from "preact/hooks";
import { figure, known, verbal } from "../logic/scale.js";
import { found } from "../logic/words.js";
import { Fault, GainBar, useStore } from "./parts.jsx";
import { ClaimedText } from "./claims.jsx";
import { Details } from "./details.jsx";

export function Cards() {
  const store = useStore();
  const { here, entries, query, mode } = store;
  const list = here.value;
  const asked = query.value.trim();
  const match = (one) => !asked || found(`${one.name} ${one.live.value.text}`, asked);
  const shown = list.filter(match);
  const elsewhere = asked ? [...entries.value.values()].filter((one) => !list.includes(one) && match(one)) : [];
  if (!entries.value.size) return <Welcome />;
  return (
    <section class="cards" aria-label="Explanations">
      <div class="search">
        <input
          type="search"
          aria-label="Search the explanations written so far"
          placeholder="Search explanations …"
          value={query.value}
          onInput={(event) => (query.value = event.currentTarget.value)}
        />
        <span role="status">
          {asked ? `${shown.length + elsewhere.length} of ${entries.value.size}` : counted(list)}
        </span>
      </div>
      {shown.map((one) => (
        <Card entry={one} key={one.key} />
      ))}
      {elsewhere.length > 0 && <h2 class="between">In other texts</h2>}
      {elsewhere.map((one) => (
        <Card entry={one} key={one.key} elsewhere />
      ))}
      {!list.length && !asked && mode.value !== "vectors" && (
        <p class="hint">
          Nothing of this text is explained yet. What was written for others is found by the search above.
        </p>
      )}
    </section>
  );
}

function counted(list) {
  const done = list.filter((one) => one.live.value.state === "done").length;
  return done < list.length ? `${done} of ${list.length} explained` : `${done} explained`;
}

function Welcome() {
  const { pair, mode } = useStore();
  const oracle = pair.value.kind === "oracle";
  return (
    <section class="cards welcome" aria-label="Explanations">
      <p class="big">{mode.value === "vectors" ? "Drop a file of vectors." : "Click a word."}</p>
      <ol>
        <li>
          {mode.value === "vectors" ? (
            <>
              <b>A file holds vectors</b>: rows of a dictionary, a probe, a steering vector, activations; each{" "}
              {pair.value.d_model} numbers.
            </>
          ) : (
            <>
              <b>The model reads</b> the text. At each word it holds a list of {pair.value.d_model} numbers.
            </>
          )}
        </li>
        <li>
          <b>The {oracle ? "oracle answers" : "verbalizer writes"}</b>, from these numbers alone,{" "}
          {oracle ? "your question." : "what it finds in them."}
        </li>
        {pair.value.has_ar && (
          <li>
            <b>The reconstructor checks</b>: it rebuilds the numbers from the words alone.{" "}
            {mode.value === "vectors"
              ? "The score says how much fits."
              : "What fits is underlined blue, what misleads orange."}
          </li>
        )}
      </ol>
    </section>
  );
}

function Card({ entry, elsewhere = false }) {
  const store = useStore();
  const { query } = store;
  const { state, text, row, fault } = entry.live.value;
  const open = store.opened.value === entry.key && !elsewhere;
  const box = useRef(null);
  useEffect(() => {
    if (open) box.current?.scrollIntoView?.({ block: "nearest", behavior: "auto" });
  }, [open]);

  function toggle() {
    if (elsewhere && entry.fields) store.show(entry.fields, { then: () => (store.opened.value = entry.key) });
    else if (elsewhere) {
      store.mode.value = "vectors";
      store.opened.value = entry.key;
    } else store.opened.value = open ? null : entry.key;
  }

  const [position] = entry.positions;
  const point = (at) => () => (store.glow.value = at ?? null);
  const check = open && !query.value.trim() ? store.checkOf(entry).value : null; // a search marks words itself
  const status = row?.explanation_status;
  return (
    <article
      ref={box}
      class={`card ${open ? "open" : ""} is-${state}`}
      data-position={position}
      onMouseEnter={point(position)}
      onMouseLeave={point(null)}
    >
      <button type="button" class="head" aria-expanded={open} onClick={toggle}>
        <span class="of">{entry.name || "␣"}</span>
        <span class="where">{where(entry)}</span>
        {row && known(row.gain) && (
          <span class="score" title={verbal(row)}>
            <GainBar value={row.gain} />
            <span class={row.gain < 0 ? "low" : ""}>
              <span class="hidden">gain </span>
              {figure(row.gain)}
            </span>
          </span>
        )}
      </button>
      {entry.question && <p class="asked">{entry.question}</p>}
      {state === "waiting" && <p class="text waiting">waiting for its turn</p>}
      {(text || state === "writing") && (
        <p class={`text ${state === "writing" ? "writing" : ""}`}>
          {check ? <ClaimedText text={text} check={check} /> : <Hits text={text} />}
        </p>
      )}
      {state === "done" && !text && <p class="text none">It wrote nothing.</p>}
      {status && status !== "ok" && <p class="status">{status}</p>}
      {state === "failed" && <Fault fault={fault} again={() => store.again(entry)} />}
      {open && state === "done" && <Details entry={entry} row={row} />}
    </article>
  );
}

function where(entry) {
  if (entry.kind === "vector") return entry.from;
  if (entry.positions.length > 1) return `${entry.positions.length} tokens`;
  return `token ${entry.positions[0]}${entry.layer == null ? "" : `, layer ${entry.layer}`}`;
}

function Hits({ text }) {
  const { query } = useStore();
  const hits = query.value.trim() && found(text, query.value.trim());
  return hits ? hits.map(([hit, part], at) => (hit ? <mark key={at}>{part}</mark> : part)) : text;
}
