// The server's HTTP interface: models, streamed answers, feedback, annotation. Errors arrive as ApiError with words in them.

import { recall, remember } from "./store.js";

/** `status` 0: the server could not be reached. `retryAfter`: seconds, or null. */
export class ApiError extends Error {
  constructor(status, message, { code = null, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

export function apiKey() {
  return recall("key", "", "sessionStorage") || recall("key", "");
}

/** Keeps the key for this tab, or with `always` on this device; an empty key is forgotten. */
export function setApiKey(key, always) {
  remember("key", key && !always ? key : null, "sessionStorage");
  remember("key", key && always ? key : null);
}

async function send(method, path, body, signal) {
  const headers = { Accept: "application/json, text/event-stream" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const key = apiKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store", credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, error.message);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let detail = {};
  const text = await response.text().catch(() => "");
  try {
    const data = JSON.parse(text);
    detail = typeof data.error === "object" && data.error !== null ? data.error : { message: typeof data.detail === "string" ? data.detail : JSON.stringify(data.detail ?? data) };
  } catch {
    detail = { message: text.slice(0, 300) };
  }
  return new ApiError(response.status, String(detail.message || response.statusText), { code: detail.code ?? null, param: detail.param ?? null, retryAfter: seconds(response.headers.get("Retry-After")) });
}

/** Retry-After is a number of seconds or a date. */
function seconds(header) {
  if (!header) return null;
  const value = /^\d+$/.test(header.trim()) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(value) ? Math.max(0, Math.min(Math.ceil(value), 3600)) : null;
}

/** The answer's JSON; null where there is none (204). */
export async function getJson(path, signal) {
  const response = await send("GET", path, undefined, signal);
  return response.status === 204 ? null : response.json();
}

export async function postJson(path, body, signal) {
  const response = await send("POST", path, body, signal);
  return response.status === 204 ? null : response.json();
}

export async function deletePath(path) {
  await send("DELETE", path);
}

/** The names of the models that the server has. */
export async function models(signal) {
  const { data } = await getJson("/v1/models", signal);
  return data.map((model) => String(model.id));
}

/** The events of a streamed chat completion, parsed. Ends at [DONE]; a stream that ends without it was cut off, and raises
 * an ApiError of status 0. */
export async function* streamChat(request, signal) {
  const response = await send("POST", "/v1/chat/completions", { ...request, stream: true, stream_options: { include_usage: true } }, signal);
  for await (const data of serverSentEvents(response.body, signal)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(Number(event.error.status) || 500, String(event.error.message ?? JSON.stringify(event.error)), { code: event.error.code ?? null });
    yield event;
  }
  throw new ApiError(0, "the stream ended early");
}

/** The data of each event (WHATWG's server-sent events: lines end in CR, LF or both; a blank line ends an event). */
export async function* serverSentEvents(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let data = [];
  try {
    for (;;) {
      let step;
      try {
        step = await reader.read();
      } catch (error) {
        if (signal?.aborted || error.name === "AbortError") throw new DOMException("stopped", "AbortError");
        throw new ApiError(0, error.message);
      }
      if (step.done) return;
      buffer += step.value;
      // A CR at the very end may be half of a CRLF: it waits for the next piece.
      const lines = buffer.split(/\r\n|\n|\r(?!$)/);
      buffer = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
