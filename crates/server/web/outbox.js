// Sends what the outbox has: of each room one request after the other, under its number, until there is an answer.
//
// Several tabs may send the same request: the servers answer the second one as the first. So tabs need no lock.

import { Problem, pause } from "./cluster.js";
import * as store from "./store.js";

const PAUSE_MS_MAX = 2_000;

export class Outbox extends EventTarget {
  constructor(cluster, session) {
    super();
    this.cluster = cluster;
    this.opened = session;
    this.session = session.session_id;
    this.waiting = [];
    this.refused = [];
    /** Answered requests whose events have not come yet. */
    this.acked = [];
    this.sending = new Set();
    this.stopped = false;
    this.tabs = new BroadcastChannel("conclave-outbox");
    this.tabs.onmessage = () => this.refresh(false);
  }

  stop() {
    this.stopped = true;
    this.tabs.close();
  }

  async add(room, action) {
    const entry = await store.enqueue(this.opened, room, action);
    await this.refresh(true);
    return entry;
  }

  async drop(key) {
    await store.dropRefused(key);
    await this.refresh(true);
  }

  /** Looks at what there is, and sends it. */
  async refresh(tell) {
    [this.waiting, this.refused] = await Promise.all([store.waiting(this.session), store.refusedOf(this.session)]);
    this.dispatchEvent(new Event("change"));
    if (tell && !this.stopped) this.tabs.postMessage("change");
    for (const room of new Set(this.waiting.map((entry) => entry.room))) this.send(room);
  }

  /** The event of a request has come. */
  seen(room, no) {
    this.acked = this.acked.filter((entry) => entry.room !== room || entry.no !== no);
  }

  async send(room) {
    if (this.sending.has(room)) return;
    this.sending.add(room);
    let wait = 50;
    try {
      for (let entry; !this.stopped && (entry = await store.first(this.session, room)); ) {
        if (await this.decided(entry)) {
          wait = 50;
          await this.refresh(true);
        } else if (!this.stopped) {
          await pause(wait * (0.5 + Math.random() / 2));
          wait = Math.min(2 * wait, PAUSE_MS_MAX);
        }
      }
    } finally {
      this.sending.delete(room);
    }
  }

  /** Sends a request once; whether it is decided. */
  async decided(entry) {
    const { room, no, action } = entry;
    const join = !("leave" in action || "join" in action);
    const body = { request_no: no, settled_no: no - 1, join_first: join, ...action };
    try {
      const answer = await this.cluster.call("POST", `/rooms/id:${room}/requests`, body);
      if (answer.seq > 0 && ("text" in action || "post" in action)) this.acked.push({ ...entry, seq: answer.seq });
      await store.settle(entry);
      return true;
    } catch (error) {
      return this.failed(entry, error);
    }
  }

  async failed(entry, error) {
    if (!(error instanceof Problem)) return false;
    if (error.status === 401) {
      this.stopped = true;
      this.dispatchEvent(new CustomEvent("ended", { detail: error }));
      return false;
    }
    if (error.expected) {
      await store.renumberFrom(entry.session, entry.room, error.expected);
      return true;
    }
    if (!error.isFinal) return false;
    await store.refuse(entry, error.message, error.numberUsed);
    return true;
  }
}
