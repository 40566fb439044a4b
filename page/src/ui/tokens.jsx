// The text as tokens: click, shift-click, drag, keys. A list box, so that screen readers know what can be chosen.
import { useEffect, useRef } from "preact/hooks";
import { figure, known, stroke, valueOf, verbal } from "../logic/scale.js";
import { useStore } from "./parts.jsx";

export function Tokens() {
  const store = useStore();
  const { read, selected, several, active, opened, byPosition, said } = store;
  const { units, busy, source } = read.value;
  const box = useRef(null);
  const anchor = useRef(0);
  const dragged = useRef(null);

  const range = (from, to) => units.slice(Math.min(from, to), Math.max(from, to) + 1).map((one) => one.position);

  function choose(positions, at) {
    selected.value = new Set(positions);
    active.value = at;
  }

  function explainOne(at) {
    const entry = byPosition.value.get(units[at].position);
    if (entry && store.pair.value.kind !== "oracle") opened.value = entry.key;
    else store.explainTokens([units[at].position], { open: true });
  }

  const indexOf = (event) => {
    const found = event.target?.closest?.("[data-at]");
    return found ? Number(found.dataset.at) : null;
  };

  function down(event) {
    const at = indexOf(event);
    if (at === null || event.button > 0) return;
    dragged.current = { from: at, to: at, moved: false };
    if (event.pointerType !== "touch") event.preventDefault(); // no text selection while tokens are chosen
    box.current.focus({ preventScroll: true });
  }

  function over(event) {
    const drag = dragged.current;
    if (!drag || event.pointerType === "touch" || event.buttons !== 1) return;
    const at = indexOf(event);
    if (at === null || (at === drag.to && !drag.moved)) return;
    drag.to = at;
    drag.moved = true;
    choose(range(drag.from, at), at);
  }

  function up(event) {
    const drag = dragged.current;
    dragged.current = null;
    if (!drag) return;
    const at = drag.to;
    if (drag.moved) {
      anchor.current = drag.from;
      said.value = `${selected.value.size} tokens chosen`;
      return;
    }
    if (event.shiftKey) return choose(range(anchor.current, at), at);
    anchor.current = at;
    const { position } = units[at];
    if (event.ctrlKey || event.metaKey || several.value) {
      const next = new Set(selected.value);
      if (!next.delete(position)) next.add(position);
      return choose(next, at);
    }
    choose([position], at);
    explainOne(at);
  }

  function key(event) {
    const last = units.length - 1;
    const now = Math.min(active.value, last);
    const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last, ...lines(event, now) };
    if (event.key in moves) {
      const at = Math.max(0, Math.min(last, moves[event.key]));
      if (event.shiftKey) choose(range(anchor.current, at), at);
      else {
        anchor.current = at;
        active.value = at;
      }
      // a long text's tokens do not all stand on the screen
      requestAnimationFrame(() => box.current?.querySelector(".active")?.scrollIntoView({ block: "nearest" }));
    } else if (event.key === " ") {
      const next = new Set(selected.value);
      const { position } = units[now];
      if (!next.delete(position)) next.add(position);
      anchor.current = now;
      selected.value = next;
    } else if (event.key === "Enter") {
      const chosen = [...selected.value];
      if (chosen.length > 1) store.explainTokens(chosen, { open: true });
      else {
        choose([units[now].position], now);
        explainOne(now);
      }
    } else if (event.key === "Escape") {
      if (selected.value.size) selected.value = new Set();
      else opened.value = null;
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      choose(range(0, last), now);
    } else return;
    event.preventDefault();
  }

  // Up and down by what is drawn above and below.
  function lines(event, now) {
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return {};
    const all = [...box.current.querySelectorAll("[data-at]")].map((one) => one.getClientRects()[0]);
    const here = all[now];
    const below = event.key === "ArrowDown";
    let best = null;
    all.forEach((one, at) => {
      const rows = below ? one.top - here.bottom : here.top - one.bottom;
      if (rows < -2) return;
      const far = rows * 1000 + Math.abs(one.left + one.width / 2 - here.left - here.width / 2);
      if (best === null || far < best.far) best = { at, far };
    });
    return best ? { [event.key]: best.at } : {};
  }

  useEffect(() => {
    const end = () => (dragged.current = null);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
    return () => {
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
    };
  }, []);

  const stale = busy || JSON.stringify(source) !== JSON.stringify(store.source.value);
  const groups = grouped(units);
  const chat = Boolean(source?.messages);
  const at = Math.min(active.value, Math.max(0, units.length - 1));
  return (
    <div
      ref={box}
      class={`tokens ${stale ? "stale" : ""} ${chat ? "chat" : ""}`}
      role="listbox"
      aria-multiselectable="true"
      aria-label="Tokens. Arrows move, shift and arrows choose several, space chooses, enter explains, escape clears."
      aria-activedescendant={units.length ? `token-${at}` : undefined}
      tabIndex={0}
      onPointerDown={down}
      onPointerOver={over}
      onPointerUp={up}
      onKeyDown={units.length ? key : undefined}
    >
      {groups.map((group) =>
        chat ? (
          <div
            role="group"
            class={`turn ${group.role ?? ""}`}
            key={group.first}
            aria-label={`message of ${group.role ?? "the template"}`}
          >
            {group.list.map(([unit, index]) => (
              <Token key={index} unit={unit} at={index} />
            ))}
          </div>
        ) : (
          group.list.map(([unit, index]) => <Token key={index} unit={unit} at={index} />)
        ),
      )}
    </div>
  );
}

function grouped(units) {
  const made = [];
  units.forEach((unit, at) => {
    const last = made.at(-1);
    if (last && last.message === unit.message) last.list.push([unit, at]);
    else made.push({ message: unit.message, role: unit.role, first: at, list: [[unit, at]] });
  });
  return made;
}

function Token({ unit, at }) {
  const store = useStore();
  const entry = store.byPosition.value.get(unit.position);
  const live = entry?.live.value;
  const { by } = store.settings.value;
  const chosen = store.selected.value.has(unit.position);
  const value = valueOf(live?.row, by);
  const line = live?.state === "done" ? stroke(value) : null;
  const classes = [
    "token",
    unit.quiet && "quiet",
    !unit.quiet && !unit.text.trim() && "blank",
    chosen && "chosen",
    store.active.value === at && "active",
    entry && store.opened.value === entry.key && "open",
    store.glow.value === unit.position && "glow",
    live && `is-${live.state}`,
  ];
  const where = `position ${unit.position}${unit.pieces > 1 ? `, the last of ${unit.pieces} byte pieces` : ""}`;
  const score = live?.row
    ? known(value)
      ? `${by === "fve" ? "FVE" : "gain"} ${figure(value)}: ${verbal(live.row)}`
      : "explained, no score"
    : "";
  return (
    <>
      {unit.lead && <span aria-hidden="true"> </span>}
      <span
        id={`token-${at}`}
        role="option"
        data-at={at}
        data-position={unit.position}
        class={classes.filter(Boolean).join(" ")}
        aria-selected={chosen}
        aria-label={`${unit.text.trim() || unit.shown}, ${where}${score ? `, ${score}` : ""}`}
        title={score ? `${score}\n${where}` : where}
        style={line ? { borderBottom: `${line.width}px ${line.style} ${line.colour}` } : {}}
      >
        {unit.shown}
      </span>
      {Array.from({ length: unit.breaks }, (_, number) => (
        <br key={number} />
      ))}
    </>
  );
}
