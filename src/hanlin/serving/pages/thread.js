// The shown path of a conversation as elements. A message that is still on the path keeps its element, so that a long
// conversation is not drawn anew for one answer.

import { h } from "./dom.js";
import { DuelView, openDuel } from "./duel.js";
import { MessageView } from "./message.js";
import { path } from "./tree.js";

export class Thread {
  constructor(element, scroller, actions) {
    Object.assign(this, { element, scroller, actions });
    /** Views by what they show: a message, or a comparison; and by the messages in them. */
    this.views = new Map();
    this.byNode = new Map();
    this.dirty = new Set();
    this.pinned = true;
    this.cost = 0;
    scroller.addEventListener("scroll", () => {
      this.pinned = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
      this.actions.scrolled(this.pinned);
    }, { passive: true });
  }

  /** Shows a conversation's path; `fresh` forgets every element (another conversation, another language). */
  show(conversation, { fresh = false } = {}) {
    if (fresh || conversation !== this.conversation) this.views.clear();
    this.conversation = conversation;
    const shown = [];
    const [views, byNode] = [new Map(), new Map()];
    for (const node of path(conversation)) {
      const pair = openDuel(conversation, node);
      const key = pair ? `duel ${node.duel.id}` : node.id;
      const view = this.views.get(key) ?? (pair ? new DuelView(conversation, pair, this.actions) : new MessageView(conversation, node, this.actions));
      views.set(key, view);
      for (const member of pair ?? [node]) byNode.set(member.id, view);
      view.update();
      shown.push(view.element);
    }
    [this.views, this.byNode] = [views, byNode];
    const current = Array.from(this.element.children);
    if (current.length !== shown.length || current.some((element, index) => element !== shown[index])) this.place(shown);
    this.follow();
  }

  /** Puts the elements in order, touching only what moved: moving an element would take the focus from it. */
  place(shown) {
    const keep = new Set(shown);
    for (const element of Array.from(this.element.children)) if (!keep.has(element)) element.remove();
    shown.forEach((element, index) => {
      if (this.element.children[index] !== element) this.element.insertBefore(element, this.element.children[index] ?? null);
    });
  }

  /** Asks for a message to be drawn with the next frame; slow drawing makes the frames rarer, so that typing stays free. */
  changed(node) {
    const view = this.byNode.get(node.id);
    if (!view) return;
    this.dirty.add(view);
    if (this.frame) return;
    this.frame = true;
    const draw = () => {
      this.frame = false;
      const began = performance.now();
      for (const dirty of this.dirty) dirty.update();
      this.dirty.clear();
      this.follow();
      this.cost = performance.now() - began;
    };
    if (this.cost > 8) setTimeout(() => requestAnimationFrame(draw), this.cost * 3);
    else requestAnimationFrame(draw);
  }

  follow() {
    if (this.pinned) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  toEnd() {
    this.pinned = true;
    this.follow();
  }

  view(id) {
    return this.byNode.get(id);
  }

  /** A note under a message that lasts until the message is drawn elsewhere. */
  noteUnder(id, element) {
    this.byNode.get(id)?.extra?.replaceChildren(h("div", {}, element));
  }
}
