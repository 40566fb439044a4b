// Where a text or a chat is typed, what can be done with chosen tokens, and the scale's legend.
import { useEffect, useRef } from "preact/hooks";
import { worthwhile } from "../logic/tokens.js";
import { EXAMPLES } from "../logic/state.js";
import { stroke } from "../logic/scale.js";
import { Fault, Spinner, Term, useStore } from "./parts.jsx";
import { Tokens } from "./tokens.jsx";

const MANY = 100; // tokens: so many take a while, and the button says how many
const ROLES = ["system", "user", "assistant"];

export function Source() {
  const store = useStore();
  const { mode, read } = store;
  const { units, fault, busy } = read.value;
  return (
    <section class="source" aria-label="The text">
      {mode.value === "chat" ? <Chat /> : <Text />}
      <Fault fault={fault} again={store.tokenize} />
      {!fault && units.length > 0 && <Tokens />}
      {!fault &&
        !units.length &&
        (busy ? (
          <Spinner>Cutting the text into tokens …</Spinner>
        ) : (
          <p class="hint">Type something above: its tokens appear here.</p>
        ))}
      <Toolbar />
      <Legend />
    </section>
  );
}

function Text() {
  const store = useStore();
  return (
    <div class="write">
      <label for="nla-text" class="hidden">
        Text
      </label>
      <Growing
        id="nla-text"
        class="text"
        value={store.written.value}
        placeholder="Type or paste a text …"
        onInput={(event) => (store.written.value = event.currentTarget.value)}
      />
      <p class="chips">
        <span>Examples</span>
        <Examples />
      </p>
    </div>
  );
}

function Examples() {
  const { pair, show } = useStore();
  const chats = pair.value.has_chat !== false;
  return EXAMPLES.filter((one) => chats || !one.messages).map((one) => (
    <button type="button" key={one.name} onClick={() => show(one)}>
      {one.name}
    </button>
  ));
}

function Chat() {
  const store = useStore();
  const { messages } = store;
  const change = (at, changes) =>
    (messages.value = messages.value.map((one, other) => (other === at ? { ...one, ...changes } : one)));
  return (
    <div class="write">
      {messages.value.map((one, at) => (
        <div class={`message ${one.role}`} key={at}>
          <select
            aria-label={`Role of message ${at + 1}`}
            value={one.role}
            onChange={(event) => change(at, { role: event.currentTarget.value })}
          >
            {(ROLES.includes(one.role) ? ROLES : [...ROLES, one.role]).map((role) => (
              <option key={role}>{role}</option>
            ))}
          </select>
          <Growing
            aria-label={`Message ${at + 1}`}
            value={one.content}
            onInput={(event) => change(at, { content: event.currentTarget.value })}
          />
          <button
            type="button"
            class="icon"
            aria-label={`Remove message ${at + 1}`}
            onClick={() => (messages.value = messages.value.filter((_, other) => other !== at))}
          >
            ×
          </button>
        </div>
      ))}
      <p class="chips">
        <button
          type="button"
          onClick={() => {
            const role = messages.value.at(-1)?.role === "user" ? "assistant" : "user";
            messages.value = [...messages.value, { role, content: "" }];
          }}
        >
          + message
        </button>
        <span />
        <Examples />
      </p>
    </div>
  );
}

// As tall as what stands in it.
export function Growing(props) {
  const box = useRef(null);
  useEffect(() => {
    const { current } = box;
    current.style.height = "auto";
    current.style.height = `${current.scrollHeight + 2}px`;
  }, [props.value]);
  return <textarea rows={1} spellcheck={false} {...props} ref={box} />;
}

function Toolbar() {
  const store = useStore();
  const { read, selected, running, pair, byPosition, settings } = store;
  const { units } = read.value;
  const chosen = [...selected.value].sort((a, b) => a - b);
  const oracle = pair.value.kind === "oracle";
  const all = worthwhile(units);
  const left = all.filter((at) => (byPosition.value.get(at)?.live.value.state ?? "failed") === "failed");
  const fresh = oracle ? chosen : chosen.filter((at) => !byPosition.value.has(at));
  const few = (chosen.length > 1 || oracle) && fresh.length > 0;
  const goal = few ? fresh : left;
  const busy = running.value.size > 0;
  const layers =
    pair.value.layers === "any"
      ? Array.from({ length: pair.value.num_layers }, (_, one) => one)
      : (pair.value.layers ?? []);
  const two = chosen.length === 2;
  const name = oracle
    ? `Ask about ${goal.length === units.length ? "all" : goal.length} token${goal.length === 1 ? "" : "s"}`
    : few
      ? `Explain ${goal.length} token${goal.length === 1 ? "" : "s"}`
      : left.length === all.length
        ? all.length > MANY
          ? `Explain all ${all.length} tokens`
          : "Explain this text"
        : `Explain the other ${left.length}`;
  return (
    <div class="toolbar">
      {oracle && <Question />}
      {(goal.length > 0 || busy) &&
        (busy ? (
          <button type="button" class="primary stop" onClick={store.stopAll}>
            Stop
          </button>
        ) : (
          <button
            type="button"
            class="primary"
            disabled={read.value.busy}
            onClick={() => store.explainTokens(goal, { open: goal.length === 1 || oracle })}
          >
            {name}
          </button>
        ))}
      <button
        type="button"
        class="touch"
        aria-pressed={store.several.value}
        onClick={() => (store.several.value = !store.several.value)}
      >
        Choose several
      </button>
      {two && (
        <button
          type="button"
          onClick={() => {
            const [a, b] = chosen.map((position) => side(read.value, position));
            store.comparing.value = { a, b };
            store.mode.value = "compare";
          }}
        >
          Compare these two
        </button>
      )}
      {chosen.length > 0 && (
        <button type="button" class="quiet" onClick={() => (selected.value = new Set())}>
          Clear choice
        </button>
      )}
      {layers.length > 1 && (
        <label>
          Layer{" "}
          <select
            value={settings.value.layer ?? pair.value.layer}
            onChange={(event) => store.set({ layer: Number(event.currentTarget.value) })}
          >
            {layers.map((one) => (
              <option key={one}>{one}</option>
            ))}
          </select>
        </label>
      )}
    </div>
  );
}

export function side({ units, source }, position) {
  const unit = units.find((one) => one.position === position);
  return { fields: source, position, name: unit.text.trim() || unit.shown };
}

function Question() {
  const store = useStore();
  return (
    <label class="question">
      Question
      <input
        value={store.settings.value.question}
        onInput={(event) => store.set({ question: event.currentTarget.value })}
        list="nla-questions"
      />
      <datalist id="nla-questions">
        {(store.pair.value.questions ?? []).map((one) => (
          <option key={one} value={one} />
        ))}
      </datalist>
    </label>
  );
}

const STEPS = {
  gain: [
    [-0.5, "worse than no words"],
    [0, "nothing"],
    [0.25, "a quarter"],
    [0.5, "half"],
    [1, "all of it"],
  ],
  fve: [
    [-0.5, "worse than the mean direction"],
    [0, "as good as it"],
    [0.5, "half way"],
    [1, "perfect"],
  ],
};

export function Legend() {
  const store = useStore();
  const { pair, settings } = store;
  if (!pair.value.has_ar)
    return (
      <p class="legend">
        <span>
          No <Term>AR</Term> is loaded, so nothing says how much an explanation carries: it is the <Term>AV</Term>’s
          word alone.
        </span>
      </p>
    );
  return (
    <div class="legend">
      <span>
        Underline: how much the explanation carries,{" "}
        {pair.value.baseline_mse ? (
          <label>
            as{" "}
            <select
              aria-label="Underline by"
              value={settings.value.by}
              onChange={(event) => store.set({ by: event.currentTarget.value })}
            >
              <option value="gain">gain</option>
              <option value="fve">FVE</option>
            </select>
          </label>
        ) : (
          "as gain"
        )}{" "}
        · what is <Term>gain</Term>, <Term>FVE</Term>, <Term>empty</Term>, <Term>shuffled</Term>?
      </span>
      <span class="steps">
        {STEPS[settings.value.by].map(([value, name]) => {
          const { width, style, colour } = stroke(value);
          return (
            <span key={name} style={{ borderBottom: `${width}px ${style} ${colour}` }}>
              {name}
            </span>
          );
        })}
      </span>
    </div>
  );
}
