// The whole page: which pair, what is read, what was written.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { csv, json, picture } from "../logic/export.js";
import { figure } from "../logic/scale.js";
import { fragment, linked, stateOf } from "../logic/share.js";
import { Cards } from "./cards.jsx";
import { Compare } from "./compare.jsx";
import { Fault, Store, Term } from "./parts.jsx";
import { Source } from "./source.jsx";
import { Vectors } from "./vectors.jsx";

const MODES = [
  ["text", "Text", (pair) => pair.has_source],
  ["chat", "Chat", (pair) => pair.has_source && pair.has_chat !== false],
  ["compare", "Compare", (pair) => pair.has_av && pair.kind !== "oracle"],
  ["vectors", "Vector file", (pair) => pair.has_av && !pair.limits.switched_off?.includes("vectors")],
];

export function App({ store }) {
  const { pair, fault, refusal, mode } = store;
  if (refusal.value) return <Secret store={store} />;
  if (fault.value)
    return (
      <div class="start">
        <Fault fault={fault.value} again={store.loadPair} />
      </div>
    );
  if (!pair.value) return <p class="loading">Asking the server which pair it holds …</p>;
  return (
    <Store.Provider value={store}>
      <Header store={store} />
      <Lede pair={pair.value} />
      <Warning pair={pair.value} />
      {store.notice.value && (
        <p class="fault" role="alert">
          {store.notice.value}
        </p>
      )}
      <Modes store={store} />
      <main class={`page ${mode.value}`}>
        {mode.value === "compare" ? (
          <Compare />
        ) : (
          <>
            {mode.value === "vectors" ? <Vectors /> : <Source />}
            <Cards />
          </>
        )}
      </main>
      <Footer pair={pair.value} />
      <p class="hidden" role="status" aria-live="polite">
        {store.said.value}
      </p>
    </Store.Provider>
  );
}

function Header({ store }) {
  const { pair } = store;
  const { name, layer, verdict, kind, base } = pair.value;
  const what = [layer != null && `layer ${layer}`, base?.split("/").at(-1)].filter(Boolean).join(" of ");
  return (
    <header class="top">
      <h1>
        <span class="logo" aria-hidden="true">
          <i />
          <i />
        </span>
        nla
      </h1>
      <p class="pair">
        <b>{name}</b>
        <span
          class={`verdict ${verdict?.value ?? "unknown"}`}
          title={verdict?.reason ?? "Nobody measured what its explanations carry."}
        >
          {verdict?.value ??
            (kind === "pair" ? "not measured" : kind === "oracle" ? "oracle" : `${kind.toUpperCase()} only`)}
        </span>
        <small>{what}</small>
      </p>
      <div class="actions">
        <Share store={store} />
        <Save store={store} />
        <Theme first={store.theme} />
      </div>
    </header>
  );
}

function Lede({ pair }) {
  if (pair.kind === "oracle")
    return (
      <p class="lede">
        Choose words and <b>ask what the model holds there</b>: the oracle sees the numbers inside, not the text.
      </p>
    );
  return (
    <p class="lede">
      Click a word to read <b>what a language model holds inside at that point</b>, put into English
      {pair.has_ar ? ", and how much of it the English really carries." : "."}
    </p>
  );
}

function Warning({ pair }) {
  if (!pair.warning) return null;
  return (
    <aside class="warning" role="note" aria-label="Warning about this pair">
      <b>{pair.verdict?.value ?? "Not measured"}</b> {pair.warning}
    </aside>
  );
}

function Modes({ store }) {
  const { pair, mode } = store;
  const shown = MODES.filter(([, , there]) => there(pair.value));
  if (shown.length < 2) return null;
  return (
    <nav class="modes" aria-label="What to look at">
      {shown.map(([id, name]) => (
        <button
          type="button"
          key={id}
          aria-current={mode.value === id ? "page" : undefined}
          onClick={() => (mode.value = id)}
        >
          {name}
        </button>
      ))}
    </nav>
  );
}

function Share({ store }) {
  const [said, setSaid] = useState("");
  if (!store.linkable || !["text", "chat", "compare"].includes(store.mode.value)) return null;
  async function share() {
    const held = linked(store);
    const hash = await fragment(stateOf(store));
    history.replaceState(null, "", hash);
    store.held = held;
    try {
      await navigator.clipboard.writeText(location.href);
      setSaid("Link copied");
    } catch {
      setSaid("The link is in the address bar"); // the clipboard is refused outside https and localhost
    }
    store.said.value = "The link is copied, or stands in the address bar";
    setTimeout(() => setSaid(""), 2500);
  }
  return (
    <button type="button" class="quiet" onClick={share}>
      {said || "Share link"}
    </button>
  );
}

function Save({ store }) {
  const box = useRef(null);
  const rows = store.here.value.filter((one) => one.live.value.row);
  const [fault, setFault] = useState(null);
  useEffect(() => {
    const away = (event) => {
      if (box.current?.open && !event.composedPath().includes(box.current)) box.current.open = false;
    };
    window.addEventListener("pointerdown", away);
    return () => window.removeEventListener("pointerdown", away);
  }, []);
  if (!rows.length) return null;
  const save = (make, ending) => async () => {
    try {
      download(await make(store, box.current), `nla-explanations.${ending}`);
      setFault(null);
      box.current.open = false;
    } catch (problem) {
      setFault(problem);
    }
  };
  return (
    <details class="menu" ref={box} onKeyDown={(event) => event.key === "Escape" && (box.current.open = false)}>
      <summary>Export</summary>
      <div>
        <button type="button" onClick={save(json, "json")}>
          JSON <small>all columns, the pair</small>
        </button>
        <button type="button" onClick={save(csv, "csv")}>
          CSV <small>for a spreadsheet</small>
        </button>
        <button type="button" onClick={save(picture, "png")}>
          PNG <small>a picture to show</small>
        </button>
        <Fault fault={fault} />
      </div>
    </details>
  );
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const THEMES = { auto: "◐", light: "☀", dark: "☾" };

function Theme({ first }) {
  const [theme, setTheme] = useState(() => kept() ?? first);
  const box = useRef(null);
  useLayoutEffect(() => {
    box.current.closest(".nla").dataset.theme = theme;
  }, [theme]);
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(theme) + 1) % names.length];
  function turn() {
    try {
      localStorage.setItem("nla-theme", next);
    } catch {
      // not kept, then
    }
    setTheme(next);
  }
  return (
    <button
      type="button"
      ref={box}
      class="icon"
      aria-label={`Colours: ${theme}. Change to ${next}`}
      title={`Colours: ${theme}`}
      onClick={turn}
    >
      {THEMES[theme]}
    </button>
  );
}

function kept() {
  try {
    const found = localStorage.getItem("nla-theme");
    return found in THEMES ? found : null;
  } catch {
    return null;
  }
}

function Secret({ store }) {
  const [value, setValue] = useState("");
  const wrong = store.refusal.value.status === 403;
  return (
    <form
      class="start secret"
      onSubmit={(event) => {
        event.preventDefault();
        store.unlock(value);
      }}
    >
      <h1>This server asks for its secret</h1>
      <p>{wrong ? "That was not it." : "Whoever started it set one."} It stays in this tab and is forgotten with it.</p>
      <label>
        Secret
        <input
          type="password"
          autocomplete="off"
          value={value}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
      </label>
      <button type="submit" class="primary" disabled={!value}>
        Open
      </button>
    </form>
  );
}

function Footer({ pair }) {
  const { evaluation, verdict } = pair;
  const named = (ref) => (/^(\/|[A-Z]:\\)/.test(ref ?? "") ? ref.split(/[\\/]/).at(-1) : ref); // folders of this machine are its own business
  const halves = [pair.has_av && `AV ${named(pair.av)}`, pair.has_ar && `AR ${named(pair.ar)}`]
    .filter(Boolean)
    .join(", ");
  return (
    <footer>
      {evaluation && (
        <p>
          Measured on {evaluation.rows} held-out activations: <Term>FVE</Term> {figure(evaluation.fve_real)} from its
          own words, {figure(evaluation.fve_empty)} from <Term of="empty">none</Term>, {figure(evaluation.fve_shuffled)}{" "}
          from <Term of="shuffled">other rows’</Term>. {verdict && `${verdict.value}: ${verdict.reason}.`}
        </p>
      )}
      <p>
        {halves}; <Term>activation</Term>s of {pair.d_model} numbers from layer {pair.layer ?? pair.layers?.join(", ")}
        {pair.precision ? `, ${pair.precision}` : ""}. nla-sdk {pair.version}.{" "}
        {pair.has_ar && "An explanation is a model’s guess in words: trust it as far as its score, and no further."}
      </p>
    </footer>
  );
}
