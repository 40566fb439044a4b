// Small things used everywhere: terms explained on hover and focus, figures as bars, errors with a way on.
import { createContext } from "preact";
import { useContext, useEffect, useId, useRef, useState } from "preact/hooks";
import { stopped } from "../logic/api.js";
import { figure, known } from "../logic/scale.js";
import { sentence } from "../logic/state.js";

export const Store = createContext(null);
export const useStore = () => useContext(Store);

const TERMS = {
  gain: "Gain: the share of the error of no words that these words remove. 1 rebuilds the activation perfectly, 0 is no better than saying nothing, below 0 is worse.",
  FVE: "FVE: 0 is what the mean direction scores over many rows, 1 is perfect. Of a single row it does not say how much the words explain.",
  empty:
    "Empty: what the AR rebuilds from no words at all. It knows what activations look like in general, nothing of this one.",
  shuffled:
    "Shuffled: this activation rebuilt from the explanations of other tokens. Words that say something of this token must score better.",
  mean: "Mean direction: the average of many activations, for any token the same.",
  cosine:
    "Cosine: how alike the directions of activation and reconstruction are, −1 to 1. Does not compare across layers or models.",
  activation: "Activation: the list of numbers a language model holds inside at one token, in one layer.",
  support:
    "Support: how often claims for which as much speaks held in held-out documents, by a logistic regression. It never looks at the text itself, not even where that is at hand: a claim with 30 % may stand in it word for word. ECE: by how much such probabilities were wrong on documents that it was not fitted on. AUROC: how well they tell true claims from others, 0.5 is chance.",
  chance:
    "By chance: the same number for another token’s activation, or for a claim of another explanation. What does not differ from it says nothing.",
  AV: "AV, the verbalizer: a language model that gets the activation alone, not the text, and writes what it finds in it.",
  AR: "AR, the reconstructor: a language model that gets the words alone and rebuilds the activation.",
};

// What is said of what is pointed at: {box, place, show, hide, key}. It stands within the screen: above, or where it
// may be tall on the side that has more room.
export function useTip({ wide: width = 300, tall = false } = {}) {
  const box = useRef(null);
  const [place, setPlace] = useState(null); // where on the screen the sentence stands, all of it within
  const show = () => {
    const { left, right, top, bottom } = box.current.getBoundingClientRect();
    const wide = Math.min(width, innerWidth - 24);
    const from = Math.max(12, Math.min(innerWidth - wide - 12, (left + right - wide) / 2));
    const up = (tall ? top > innerHeight - bottom : top > 170) ? { bottom: `${innerHeight - top + 8}px` } : { top: `${bottom + 8}px` };
    setPlace({ left: `${from}px`, width: `${wide}px`, ...up });
  };
  const hide = () => setPlace(null);
  const key = (event) => {
    if (event.key !== "Escape" || !place) return;
    hide();
    event.stopPropagation();
  };
  return { box, place, show, hide, key };
}

export function Term({ children, of = children }) {
  const id = useId();
  const { box, place, show, hide, key } = useTip();
  return (
    <>
      <button
        type="button"
        ref={box}
        class="term"
        aria-describedby={id}
        onMouseEnter={show}
        onMouseLeave={hide}
        onFocus={show}
        onBlur={hide}
        onClick={show}
        onKeyDown={key}
      >
        {children}
      </button>
      <span role="tooltip" class="tip" id={id} hidden={!place} style={place ?? {}}>
        {TERMS[of]}
      </span>
    </>
  );
}

export function Fault({ fault, again }) {
  if (!fault) return null;
  return (
    <p class="fault" role="alert">
      <span>{sentence(fault)}</span>
      {again && (
        <button type="button" class="link" onClick={again}>
          Try again
        </button>
      )}
    </p>
  );
}

// A call's state: {value, fault, busy, run, clear}; a newer run ends the older.
export function useTask(work) {
  const [state, setState] = useState({ value: null, fault: null, busy: false });
  const own = useRef(null);
  useEffect(() => () => own.current?.abort(), []);
  async function run(...given) {
    own.current?.abort();
    const control = (own.current = new AbortController());
    setState((old) => ({ ...old, fault: null, busy: true }));
    try {
      const value = await work(control.signal, ...given);
      if (!control.signal.aborted) setState({ value, fault: null, busy: false });
      return value;
    } catch (fault) {
      if (!stopped(fault) && !control.signal.aborted) setState({ value: null, fault, busy: false });
    }
  }
  function clear() {
    own.current?.abort();
    setState({ value: null, fault: null, busy: false });
  }
  return { ...state, run, clear };
}

// From a zero line: gain of −1 to 1. What lies beyond is cut, and its number says so.
export function GainBar({ value, strong = false, least = -1 }) {
  const shown = known(value) ? Math.max(least, Math.min(1, value)) : 0;
  const span = 1 - least;
  const from = (100 * (Math.min(0, shown) - least)) / span;
  const width = (100 * Math.abs(shown)) / span;
  const cut = known(value) && value < least;
  return (
    <span class="bar" aria-hidden="true">
      <i class="zero" style={{ left: `${(100 * -least) / span}%` }} />
      {known(value) && (
        <i
          class={`fill ${value < 0 ? "low" : "high"} ${strong ? "strong" : ""} ${cut ? "cut" : ""}`}
          style={{ left: `${from}%`, width: `${width}%` }}
        />
      )}
    </span>
  );
}

export function GainRow({ name, value, note, strong, title }) {
  return (
    <div class={`gainrow ${strong ? "strong" : ""}`} title={title}>
      <span class="name">{name}</span>
      <GainBar value={value} strong={strong} />
      <span class="number">{figure(value)}</span>
      {note && <span class="note">{note}</span>}
    </div>
  );
}

export function Share({ value }) {
  return (
    <span class="bar part" aria-hidden="true">
      <i class="fill high" style={{ left: 0, width: `${100 * Math.max(0, Math.min(1, value))}%` }} />
    </span>
  );
}

export const Spinner = ({ children }) => (
  <span class="busy" role="status">
    <i aria-hidden="true" />
    {children}
  </span>
);
