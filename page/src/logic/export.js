// What is on the page as a file: everything as JSON, a table as CSV, a picture drawn here.
import { figure, known, valueOf } from "./scale.js";

const done = (store) => store.here.value.filter((one) => one.live.value.row);
const VECTORS = ["activation_vector", "reconstruction", "vector"];

function rows(store) {
  return done(store).map((one) => {
    const row = Object.fromEntries(
      Object.entries(one.live.value.row).filter(([name]) => !VECTORS.includes(name) && name !== "index"),
    );
    const of =
      one.kind === "vector"
        ? { vector: one.name, file: one.from }
        : { position: one.positions.length > 1 ? one.positions : one.positions[0], token: one.name };
    const check = store.checkOf(one).value;
    const checked = check ? { support: check.support, claims: check.claims } : {};
    return { ...of, ...(one.layer == null ? {} : { layer: one.layer }), ...row, ...checked };
  });
}

export async function json(store) {
  const pair = store.pair.value;
  const source = store.mode.value === "vectors" ? {} : store.read.value.source;
  const made = { pair: { ...pair, limits: undefined }, ...source, settings: store.settings.value, rows: rows(store) };
  return new Blob([`${JSON.stringify(made, null, 2)}\n`], { type: "application/json" });
}

export async function csv(store) {
  const list = rows(store);
  const names = [...new Set(list.flatMap(Object.keys))];
  const lines = [names, ...list.map((row) => names.map((name) => row[name]))];
  return new Blob([lines.map((line) => line.map(cell).join(",")).join("\r\n"), "\r\n"], {
    type: "text/csv;charset=utf-8",
  });
}

// A spreadsheet would run a text that begins like a formula: a quote before it keeps it a text.
function cell(value) {
  if (value == null) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  let text = typeof value === "string" ? value : JSON.stringify(value);
  if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const WIDTH = 1000;
const EDGE = 56;
const MOST = 24; // explanations in a picture

export async function picture(store, element) {
  const styles = getComputedStyle(element.closest(".nla"));
  const colour = (name) => styles.getPropertyValue(name).trim();
  const look = Object.fromEntries(
    ["paper", "ink", "faint", "line", "scale-high", "scale-low", "scale-zero", "scale-none"].map((name) => [
      name,
      colour(`--${name}`),
    ]),
  );
  look.serif = colour("--serif");
  look.sans = colour("--sans");
  // Drawn twice: once to learn the height.
  const canvas = document.createElement("canvas");
  const height = draw(canvas.getContext("2d"), store, look);
  const scale = Math.min(2, 16_000 / height);
  canvas.width = WIDTH * scale;
  canvas.height = Math.ceil(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = look.paper;
  pen.fillRect(0, 0, WIDTH, height);
  draw(pen, store, look);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("This browser gives no picture of that size.");
  return blob;
}

function draw(pen, store, look) {
  const { by } = store.settings.value;
  const entries = done(store);
  let y = EDGE;
  pen.textBaseline = "alphabetic";
  if (store.mode.value !== "vectors") y = tokens(pen, store, look, y, by) + 34;
  pen.strokeStyle = look.line;
  for (const one of entries.slice(0, MOST)) {
    const { row, text } = one.live.value;
    pen.beginPath();
    pen.moveTo(EDGE, y);
    pen.lineTo(WIDTH - EDGE, y);
    pen.stroke();
    y += 30;
    pen.font = `600 17px ${look.serif}`;
    pen.fillStyle = look.ink;
    const lines = wrapped(pen, one.name, 170);
    lines.slice(0, 2).forEach((line, at) => pen.fillText(line, EDGE, y + at * 22));
    const value = valueOf(row, by);
    if (known(value)) {
      pen.font = `500 15px ${look.sans}`;
      pen.fillStyle = value < 0 ? look["scale-low"] : look["scale-high"];
      pen.textAlign = "right";
      pen.fillText(`${by === "fve" ? "FVE" : "gain"} ${figure(value)}`, WIDTH - EDGE, y);
      pen.textAlign = "left";
    }
    pen.font = `400 18px ${look.serif}`;
    pen.fillStyle = look.ink;
    const body = wrapped(pen, text, WIDTH - 2 * EDGE - 300);
    body.forEach((line, at) => pen.fillText(line, EDGE + 190, y + at * 25));
    y += Math.max(body.length * 25, Math.min(2, lines.length) * 22) + 6;
  }
  pen.font = `400 13px ${look.sans}`;
  pen.fillStyle = look.faint;
  if (entries.length > MOST) pen.fillText(`… and ${entries.length - MOST} more`, EDGE, (y += 22));
  y += 30;
  const { name, verdict, warning, has_ar: scored } = store.pair.value;
  const notes = `${name}: ${verdict?.value ?? "not measured"}. ${scored ? "Underline: the share of the error of no words that the words remove; broken: worse than none. " : ""}${warning ?? ""}`;
  for (const line of wrapped(pen, notes, WIDTH - 2 * EDGE)) {
    pen.fillText(line, EDGE, y);
    y += 19;
  }
  return y + EDGE - 30;
}

function tokens(pen, store, look, top, by) {
  let [x, y] = [EDGE, top + 14];
  const line = 50;
  for (const unit of store.read.value.units) {
    if (unit.quiet && !store.byPosition.value.has(unit.position)) continue;
    pen.font = `400 26px ${look.serif}`;
    const gap = unit.lead ? pen.measureText(" ").width : 0;
    const width = pen.measureText(unit.shown).width;
    if (x + gap + width > WIDTH - EDGE && x > EDGE) [x, y] = [EDGE, y + line];
    else x += gap;
    pen.fillStyle = unit.quiet ? look.faint : look.ink;
    pen.fillText(unit.shown, x, y);
    const row = store.byPosition.value.get(unit.position)?.live.value.row;
    if (row) underline(pen, look, valueOf(row, by), x, y + 9, width);
    x += width + 1;
    if (unit.breaks) [x, y] = [EDGE, y + line * unit.breaks];
  }
  return y;
}

function underline(pen, look, value, x, y, width) {
  const size = known(value) ? Math.min(1, Math.abs(value)) : 0;
  const thick = 1.5 + 6 * size;
  pen.save();
  pen.lineWidth = thick;
  const put = (colour, strength) => {
    pen.globalAlpha = strength;
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(x, y + thick / 2);
    pen.lineTo(x + width, y + thick / 2);
    pen.stroke();
  };
  if (!known(value) || value < 0) pen.setLineDash([6, 4]);
  if (known(value)) {
    put(look["scale-zero"], 1);
    put(look[value < 0 ? "scale-low" : "scale-high"], size ** 0.7);
  } else put(look["scale-none"], 1);
  pen.restore();
}

function wrapped(pen, text, width) {
  const lines = [];
  let line = "";
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const longer = line ? `${line} ${word}` : word;
    if (line && pen.measureText(longer).width > width) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return [...lines, line];
}
