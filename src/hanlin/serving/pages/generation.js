// One answer being made: a streamed request that fills a message of the tree, waits out a 429, and can be stopped.

import { ApiError, streamChat } from "./api.js";
import { messagesTo, parts } from "./tree.js";

const MAX_WAITS = 3;

export class Generation {
  /** `onChange(node)` after every piece; `onEnd(node)` once. */
  constructor(conversation, node, { onChange, onEnd }) {
    Object.assign(this, { conversation, node, onChange, onEnd });
    this.controller = new AbortController();
    this.began = performance.now();
    this.first = null;
    this.pieces = 0;
  }

  stop() {
    this.controller.abort();
  }

  async run() {
    const { node, conversation } = this;
    const request = { model: node.model, messages: messagesTo(conversation, node.parent), ...conversation.settings };
    for (let waits = 0; ; waits += 1) {
      try {
        await this.receive(request);
        node.finish ??= "stop";
      } catch (error) {
        if (error.name === "AbortError") node.finish = "stopped";
        else if (error instanceof ApiError && error.status === 429 && error.retryAfter !== null && waits < MAX_WAITS && (await this.wait(error.retryAfter))) continue;
        else if (this.controller.signal.aborted) node.finish = "stopped";
        else this.fail(error);
      }
      break;
    }
    node.waiting = undefined;
    this.measure();
    this.onEnd(node);
  }

  async receive(request) {
    const { node } = this;
    for await (const event of streamChat(request, this.controller.signal)) {
      if (event.id) node.completion_id = String(event.id);
      if (event.model) node.served = String(event.model);
      if (event.usage) node.usage = { prompt: Number(event.usage.prompt_tokens) || 0, completion: Number(event.usage.completion_tokens) || 0 };
      const choice = event.choices?.[0];
      if (choice) this.take(choice);
      this.onChange(node);
    }
  }

  take({ delta = {}, finish_reason: finish }) {
    const { node } = this;
    const content = text(delta.content);
    const reasoning = text(delta.reasoning_content) || text(delta.reasoning);
    if (content || reasoning || delta.tool_calls) {
      this.last = performance.now();
      this.first ??= this.last;
      this.pieces += 1;
    }
    node.content += content;
    if (reasoning) node.reasoning = (node.reasoning ?? "") + reasoning;
    if (node.thought === undefined && (node.reasoning || node.content.startsWith("<think>"))) {
      const { answer, reasoning: thoughts } = parts(node);
      if (thoughts && answer) node.thought = (this.last - this.first) / 1000;
    }
    for (const call of Array.isArray(delta.tool_calls) ? delta.tool_calls : []) {
      const tools = (node.tools ??= []);
      const index = Number.isInteger(call.index) && call.index >= 0 && call.index < 256 ? call.index : tools.length;
      while (tools.length <= index) tools.push({ name: "", arguments: "" });
      tools[index].name += text(call.function?.name);
      tools[index].arguments += text(call.function?.arguments);
    }
    if (typeof finish === "string") node.finish = finish;
  }

  fail(error) {
    const { node } = this;
    node.finish = "error";
    // What is not an ApiError is an answer that could not be read; its words are for the person too.
    node.error = error instanceof ApiError ? { status: error.status, message: error.message, code: error.code, retryAfter: error.retryAfter } : { status: -1, message: String(error.message ?? error) };
  }

  /** Counts down a 429; false when stopped meanwhile. */
  async wait(seconds) {
    const { signal } = this.controller;
    for (let left = Math.max(1, seconds); left > 0; left -= 1) {
      this.node.waiting = left;
      this.onChange(this.node);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000);
        signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
        this.skip = () => (clearTimeout(timer), resolve("now"));
      }).then((how) => (how === "now" ? (left = 0) : null));
      if (signal.aborted) return false;
    }
    this.node.waiting = undefined;
    this.began = performance.now();
    return true;
  }

  /** Seconds to the first piece, and tokens a second from then on (the server's count where it sent one). */
  measure() {
    if (this.first === null) return;
    const tokens = this.node.usage?.completion ?? this.pieces;
    const seconds = (this.last - this.first) / 1000;
    this.node.timing = { first: (this.first - this.began) / 1000, speed: tokens > 1 && seconds > 0.01 ? (tokens - 1) / seconds : null, tokens };
  }
}

const text = (value) => (typeof value === "string" ? value : "");
