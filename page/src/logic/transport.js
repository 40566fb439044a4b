// How a request reaches the server: by fetch from its page, or by messages to a notebook's kernel.
// Both: request(method, path, {json | bytes, signal}) -> {status, headers: {lower-case name: value}, chunks: async text}.

export function fetchTransport(base = document.baseURI) {
  const secret = remembered("nla-secret");
  return {
    asksForSecret: true,
    setSecret: secret.set,
    async request(method, path, { json, bytes, signal } = {}) {
      const headers = { Accept: "application/json, text/event-stream" };
      if (json !== undefined) headers["Content-Type"] = "application/json";
      if (bytes !== undefined) headers["Content-Type"] = "application/octet-stream";
      if (secret.get()) headers["X-SECRET-KEY"] = secret.get();
      const body = json !== undefined ? JSON.stringify(json) : bytes;
      const answer = await fetch(new URL(path, base), { method, headers, body, signal, cache: "no-store" });
      return { status: answer.status, headers: Object.fromEntries(answer.headers), chunks: texts(answer.body) };
    },
  };
}

async function* texts(body) {
  if (!body) return;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // who stops reading lets the server know
  }
}

// Of this tab only: never kept on disk.
function remembered(name) {
  let value = "";
  try {
    value = sessionStorage.getItem(name) ?? "";
  } catch {
    // storage is refused: kept in memory alone
  }
  return {
    get: () => value,
    set(given) {
      value = given;
      try {
        sessionStorage.setItem(name, given);
      } catch {
        // as above
      }
    },
  };
}

export function widgetTransport(model) {
  const calls = new Map();
  let last = 0;
  const own = Math.random().toString(36).slice(2); // several views share a model's messages
  const heard = (message) => calls.get(message?.id)?.(message);
  model.on("msg:custom", heard);

  return {
    asksForSecret: false,
    setSecret() {},
    close() {
      model.off("msg:custom", heard);
      for (const id of calls.keys()) model.send({ id, type: "cancel" });
      calls.clear();
    },
    request(method, path, { json, bytes, signal } = {}) {
      const id = `${own}-${++last}`;
      const queue = [];
      let wake = () => {};
      let fault = null;
      const end = () => calls.delete(id);

      async function* chunks() {
        try {
          for (;;) {
            if (fault) throw fault;
            const message = queue.shift();
            if (!message) await new Promise((resolve) => (wake = resolve));
            else if (message.type === "chunk") yield message.data;
            else if (message.type === "end") return;
          }
        } finally {
          if (calls.has(id)) model.send({ id, type: "cancel" });
          end();
        }
      }

      return new Promise((resolve, reject) => {
        const stop = () => {
          fault = new DOMException("stopped", "AbortError");
          if (calls.has(id)) model.send({ id, type: "cancel" });
          end();
          reject(fault);
          wake();
        };
        if (signal?.aborted) return stop();
        signal?.addEventListener("abort", stop, { once: true });
        calls.set(id, (message) => {
          if (message.type === "head") {
            const named = Object.entries(message.headers ?? {}).map(([name, value]) => [name.toLowerCase(), value]);
            resolve({ status: message.status, headers: Object.fromEntries(named), chunks: chunks() });
          } else {
            if (message.type === "end") end();
            queue.push(message);
            wake();
          }
        });
        const headers = json !== undefined ? { "content-type": "application/json" } : {};
        if (bytes !== undefined) headers["content-type"] = "application/octet-stream";
        const body = json !== undefined ? JSON.stringify(json) : null;
        model.send({ id, type: "request", method, path: `/${path}`, headers, body }, undefined, bytes ? [bytes] : []);
      });
    },
  };
}
