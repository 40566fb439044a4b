// The page as an anywidget: the same component in a shadow root, requests as messages to the kernel.
import { render as draw } from "preact";
import { widgetTransport } from "./logic/transport.js";
import { createStore } from "./logic/state.js";
import { App } from "./ui/app.jsx";

function render({ model, el }) {
  const root = el.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  root.adoptedStyleSheets = [sheet];
  const box = document.createElement("div");
  box.className = "nla widget";
  root.append(box);
  const height = () => {
    const given = model.get("height");
    box.style.maxHeight = given ? (typeof given === "number" ? `${given}px` : given) : "";
  };
  height();
  model.on("change:height", height);
  const transport = widgetTransport(model);
  const { jpThemeLight, vscodeThemeKind = "" } = document.body.dataset; // the notebook's own colours, where it tells
  const dark = jpThemeLight === "false" || vscodeThemeKind.includes("dark");
  const light = jpThemeLight === "true" || vscodeThemeKind.includes("light");
  const theme = dark ? "dark" : light ? "light" : "auto";
  const store = createStore(transport, { text: model.get("text"), theme });
  const text = () => store.show({ text: model.get("text") });
  model.on("change:text", text);
  draw(<App store={store} />, box);
  store.loadPair();
  return () => {
    model.off("change:height", height);
    model.off("change:text", text);
    draw(null, box);
    store.close();
  };
}

export default { render };
