// Answers as JSON or as a stream of events; everything else is an ApiError with a sentence in it.

export class ApiError extends Error {
  constructor(message, { status = 0, name = "", questions = null } = {}) {
    super(message);
    Object.assign(this, { status, kind: name, questions });
  }
}

export function createApi(transport, onRefused) {
  let busy = 0;
  const waiting = [];
  const AT_ONCE = 3; // a page's own queue: many quick clicks are no reason for the server to refuse one

  async function slot(signal) {
    if (busy < AT_ONCE) return void busy++;
    await new Promise((resolve, reject) => {
      waiting.push(resolve);
      signal?.addEventListener("abort", () => {
        const at = waiting.indexOf(resolve);
        if (at >= 0) {
          waiting.splice(at, 1);
          reject(new DOMException("stopped", "AbortError"));
        }
      });
    });
  }

  function free() {
    const next = waiting.shift();
    if (next) next();
    else busy--;
  }

  async function open(method, path, options) {
    let answer;
    try {
      answer = await transport.request(method, path, options);
    } catch (fault) {
      if (fault?.name === "AbortError") throw fault;
      throw new ApiError("The server does not answer. Is it still running?");
    }
    if (answer.status < 400) return answer;
    const text = await whole(answer.chunks).catch(() => "");
    const fault = refused(answer, text);
    if (fault.status === 401 || fault.status === 403) onRefused(fault);
    throw fault;
  }

  async function call(method, path, options = {}) {
    await slot(options.signal);
    try {
      const answer = await open(method, path, options);
      return JSON.parse(await whole(answer.chunks));
    } catch (fault) {
      throw inWords(fault);
    } finally {
      free();
    }
  }

  return {
    get: (path, signal) => call("GET", path, { signal }),
    post: (path, json, signal) => call("POST", path, { json, signal }),
    send: (path, bytes, signal) => call("POST", path, { bytes, signal }),
    async *stream(path, json, signal) {
      await slot(signal);
      try {
        const answer = await open("POST", path, { json: { ...json, stream: true }, signal });
        let ended = false;
        for await (const data of events(answer.chunks)) {
          if (data === "[DONE]") {
            ended = true;
            break;
          }
          const frame = JSON.parse(data);
          if (frame.error && frame.index === undefined) throw new ApiError(frame.detail ?? frame.error);
          yield frame;
        }
        if (!ended) throw new ApiError("The server's stream broke off.");
      } catch (fault) {
        throw inWords(fault);
      } finally {
        free();
      }
    },
  };
}

function inWords(fault) {
  if (fault instanceof SyntaxError) return new ApiError("The server's answer is no JSON.");
  // what fetch says of a connection that is cut while an answer is read
  if (fault instanceof TypeError) return new ApiError("The connection broke off. Is the server still running?");
  return fault;
}

async function whole(chunks) {
  let text = "";
  for await (const chunk of chunks) text += chunk;
  return text;
}

export async function* events(chunks) {
  let rest = "";
  for await (const chunk of chunks) {
    rest = (rest + chunk).replaceAll("\r\n", "\n");
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const lines = frame.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

function refused({ status, headers }, text) {
  let body = {};
  try {
    body = JSON.parse(text) ?? {};
  } catch {
    // a proxy's page, perhaps
  }
  const detail = Array.isArray(body.detail)
    ? body.detail.map((one) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg}`).join("; ")
    : body.detail;
  const wait = headers["retry-after"];
  const plain = { 429: "The server has its hands full", 413: "That is too large for this server" }[status];
  const sentence = detail || plain || `The server answered ${status}`;
  const advice = status === 429 && wait ? ` Free again in about ${wait} s.` : "";
  const closed = /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
  return new ApiError(closed + advice, { status, name: body.error, questions: body.questions ?? null });
}

export const stopped = (fault) => fault?.name === "AbortError";
