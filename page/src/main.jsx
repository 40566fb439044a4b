import { effect } from "@preact/signals";
import { render } from "preact";
import { fetchTransport } from "./logic/transport.js";
import { linked, parsed, restore } from "./logic/share.js";
import { createStore } from "./logic/state.js";
import { App } from "./ui/app.jsx";

const box = document.getElementById("nla");
const store = createStore(fetchTransport(), { linkable: true });

async function fromAddress() {
  try {
    const state = await parsed(location.hash);
    if (!state) return;
    restore(store, state);
    store.held = linked(store);
  } catch (fault) {
    store.notice.value = fault.message;
  }
}

box.replaceChildren();
render(<App store={store} />, box);
await fromAddress();
store.loadPair();
window.addEventListener("hashchange", fromAddress);
effect(() => {
  const now = linked(store); // before anything else: what is read here is watched
  if (store.held === null || now === store.held) return;
  store.held = null;
  history.replaceState(null, "", location.pathname + location.search);
});
