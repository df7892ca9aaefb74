// Conversations in the browser's own database. Nothing is kept on the server. Where a browser keeps no database (some
// private windows), the page goes on in memory and says so.

import { fromFile, titleOf } from "./tree.js";

const FORMAT = "hanlin-conversations";

export class Store {
  /** `persistent` is false when conversations last only as long as the page. */
  static async open(onChange = () => {}) {
    const store = new Store();
    store.memory = new Map();
    store.database = await openDatabase().catch(() => null);
    store.persistent = store.database !== null;
    if ("BroadcastChannel" in globalThis) {
      // Another tab's changes: the list is read anew.
      store.channel = new BroadcastChannel("hanlin");
      store.channel.addEventListener("message", ({ data }) => onChange(data));
    }
    return store;
  }

  /** {id, title, updated} of every conversation, the latest first. With `query`, those whose title or text has it. */
  async list(query = "") {
    const needle = query.trim().toLocaleLowerCase();
    const found = [];
    const look = (conversation) => {
      const title = titleOf(conversation);
      const matches = !needle || title.toLocaleLowerCase().includes(needle) || Object.values(conversation.nodes).some((node) => node.content.toLocaleLowerCase().includes(needle));
      if (matches) found.push({ id: conversation.id, title, updated: conversation.updated });
    };
    if (this.database) {
      await this.request("readonly", (table) => table.openCursor(), (cursor) => {
        look(cursor.value);
        cursor.continue();
      });
    } else this.memory.forEach(look);
    return found.sort((one, other) => other.updated - one.updated);
  }

  async get(id) {
    return this.database ? this.request("readonly", (table) => table.get(id)) : structuredClone(this.memory.get(id));
  }

  async put(conversation) {
    if (this.database) await this.request("readwrite", (table) => table.put(conversation));
    else this.memory.set(conversation.id, structuredClone(conversation));
    this.channel?.postMessage({ saved: conversation.id });
  }

  async remove(id) {
    if (this.database) await this.request("readwrite", (table) => table.delete(id));
    else this.memory.delete(id);
    this.channel?.postMessage({ removed: id });
  }

  /** The text of a file with the conversations `ids`, or all. */
  async exportFile(ids = null) {
    const conversations = [];
    for (const id of ids ?? (await this.list()).map((entry) => entry.id)) conversations.push(await this.get(id));
    return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
  }

  /** Adds the conversations of such a file, each under a new id. Returns how many; throws an Error that says what is wrong,
   * with nothing added. */
  async importFile(content) {
    const data = JSON.parse(content);
    if (data?.format !== FORMAT || !Array.isArray(data.conversations)) throw new Error(`"format" is not "${FORMAT}"`);
    const conversations = data.conversations.map(fromFile);
    for (const conversation of conversations) await this.put(conversation);
    return conversations.length;
  }

  /** Runs one request in a transaction of its own; with `each`, that gets every cursor. */
  request(mode, ask, each = null) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction("conversations", mode);
      const request = ask(transaction.objectStore("conversations"));
      request.onsuccess = () => (each && request.result ? each(request.result) : undefined);
      transaction.oncomplete = () => resolve(each ? undefined : request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error ?? request.error);
    });
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("hanlin", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error);
  });
}

/** A preference kept in localStorage (or for the tab alone), as JSON; the default where it is missing or unreadable. */
export function recall(name, fallback, area = "localStorage") {
  try {
    const kept = globalThis[area].getItem(`hanlin.${name}`);
    return kept === null ? fallback : JSON.parse(kept);
  } catch {
    return fallback;
  }
}

/** Keeps a preference; null forgets it. */
export function remember(name, value, area = "localStorage") {
  try {
    if (value === null) globalThis[area].removeItem(`hanlin.${name}`);
    else globalThis[area].setItem(`hanlin.${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing: the preference lasts as long as the page.
  }
}
