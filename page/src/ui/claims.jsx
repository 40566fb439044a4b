// An explanation's words underlined by how far they are to be believed, and why.
import { useEffect, useId } from "preact/hooks";
import { lineOf, parts, percent, receipts } from "../logic/claims.js";
import { figure, known } from "../logic/scale.js";
import { Fault, Spinner, Term, useStore, useTip } from "./parts.jsx";

export function ClaimedText({ text, check }) {
  return parts(text, check.claims).map(([number, part, first], at) =>
    number < 0 ? part : <Claimed key={at} claim={check.claims[number]} part={part} first={first} of={check} />,
  );
}

function Claimed({ claim, part, first, of }) {
  const id = useId();
  const { box, place, show, hide, key } = useTip({ wide: 380, tall: true });
  const why = claim.why_no_support === of.why_no_support ? "" : claim.why_no_support; // of all of them it is said below
  const hearing = { onMouseEnter: show, onMouseLeave: hide };
  const spoken = { role: "button", tabIndex: 0, "aria-describedby": id, onFocus: show, onBlur: hide, onKeyDown: key };
  return (
    <>
      <span ref={box} class="claim" style={lineOf(claim.support)} {...hearing} {...(first ? spoken : {})}>
        {part}
      </span>
      <span role="tooltip" class="tip of-claim" id={id} hidden={!place} style={place ?? {}}>
        <b>{known(claim.support) ? `${percent(claim.support)} probable` : "probability not known"}</b>
        {known(claim.support) && " (judged without the text)"}
        {said(claim.holds) && <b>{claim.holds ? "; ✓ the text says so" : "; ✗ the text does not say so"}</b>}
        {why && ` (${why})`}, {claim.kind}.{" "}
        {claim.reason}
        <Receipts claim={claim} unit={of.unit} />
      </span>
    </>
  );
}

const said = (holds) => typeof holds === "boolean";

function Holds({ it }) {
  const words = it ? "the text says so" : "the text does not say so";
  return (
    <span class="holds" role="img" aria-label={words} title={words}>
      {it ? " ✓" : " ✗"}
    </span>
  );
}

function Receipts({ claim, unit }) {
  const list = receipts(claim, unit);
  return (
    <span class="receipts">
      {list.map(([name, value, chance]) => (
        <span key={name}>
          <span>{name}</span> <b class="number">{value}</b>{" "}
          <span class="number">{chance === null ? "" : `by chance ${chance}`}</span>
        </span>
      ))}
      {list.some(([, , chance]) => chance === null) && (
        <span>Where nothing stands beside a number, its value by chance is not known.</span>
      )}
    </span>
  );
}

export function Claims({ entry, row }) {
  const store = useStore();
  const { busy, fault, value } = store.checkOf(entry);
  const again = () => store.check(entry);
  useEffect(() => {
    if (!value && !busy && !fault) again();
  }, [row.api_explanation]);
  if (fault) return <Fault fault={fault} again={again} />;
  if (!value) return <Spinner>checking its words</Spinner>;
  const { claims, why_no_support: why, unit } = value;
  if (!claims.length) return <p class="hint">It claims nothing that could be checked.</p>;
  return (
    <>
      <Meaning why={why} calibration={store.pair.value.calibration} />
      <ol class="claims">
        {claims.map((one, at) => (
          <li key={at}>
            <span class="number">{percent(one.support)}</span>
            <span>
              <span class="claim" style={lineOf(one.support)}>
                {one.text}
              </span>
              {said(one.holds) && <Holds it={one.holds} />}
              <small>{one.kind}</small>
            </span>
            <details>
              <summary>{one.reason}</summary>
              <Receipts claim={one} unit={unit} />
            </details>
          </li>
        ))}
      </ol>
    </>
  );
}

const STEPS = [0.05, 0.25, 0.5, 0.75, 0.95];

function Meaning({ why, calibration }) {
  if (why || !calibration)
    return (
      <p class="hint">
        No probability: {why?.replace(/\.$/, "") ?? "the pair has no calibration"}. What speaks for each claim is shown, beside what speaks for it{" "}
        <Term of="chance">by chance</Term>.
      </p>
    );
  const { ece, auroc, documents, kinds } = calibration;
  const held = kinds.filter((one) => known(one.precision));
  return (
    <div class="hint meaning">
      <p>
        Underline: <Term of="support">probability that the text says so</Term>, judged without the text
        {known(ece)
          ? `. On ${documents} held-out documents it was off by ${figure(ece, 3)} on average (ECE); AUROC ${figure(auroc)}, where 0.5 tells nothing. What the text does say stands beside each claim.`
          : "; how well it holds on other documents was not measured."}
      </p>
      <p class="steps">
        {STEPS.map((one) => (
          <span key={one} style={lineOf(one)}>
            {percent(one)}
          </span>
        ))}
      </p>
      {held.length > 0 && (
        <p>
          How often a claim holds, by kind:{" "}
          {held
            .map((one) => {
              const chance = known(one.chance) ? ` (by chance ${percent(one.chance)})` : "";
              return `${one.kind} ${percent(one.precision)}${chance}`;
            })
            .join(", ")}
          .
        </p>
      )}
    </div>
  );
}
