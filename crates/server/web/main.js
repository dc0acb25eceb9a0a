// The page: logs in, shows rooms and messages, and sends what is written.

import { Cluster, Problem } from "./cluster.js";
import { arrange, el } from "./dom.js";
import { Live } from "./live.js";
import { logIn } from "./login.js";
import { EMOJI, eventNode, ownNode } from "./messages.js";
import { openPanel } from "./panels.js";
import { Outbox } from "./outbox.js";
import { StatusPanel } from "./status.js";
import * as store from "./store.js";
import { Timeline } from "./timeline.js";

const PAGE = 100;
const ROOMS_INTERVAL_MS = 10_000;
/** Messages of one author within this time share a head. */
const GOES_ON_MS = 5 * 60_000;
const app = document.getElementById("app");
const announcer = document.getElementById("announcer");

async function start() {
  await store.open();
  const session = await store.get("session");
  if (session) begin(session);
  else logIn(app, begin);
}

function begin(session) {
  new Chat(session).begin();
}

class Chat {
  constructor(session) {
    this.session = session;
    this.cluster = new Cluster();
    this.cluster.token = session.token;
    this.outbox = new Outbox(this.cluster, session);
    this.live = new Live(this.cluster);
    this.status = new StatusPanel(this.cluster, this.live);
    this.rooms = [];
    /** The message that Tab leads to. */
    this.tabStop = null;
    this.timelines = new Map();
    this.unread = new Map();
    this.room = null;
    this.reply = null;
    this.editing = null;
    this.nodes = new Map();
    this.panel = null;
  }

  async begin() {
    this.build();
    this.listen();
    await store.adopt(this.session, "the session ended before this was acked: look whether it is in the room before you send it again");
    this.outbox.refresh(false);
    this.status.show();
    try {
      await this.loadRooms();
    } catch (error) {
      this.failed(error);
    }
    for (const room of this.rooms.filter((room) => room.joined)) this.live.follow(room.room_id, room.last_seq);
    const last = await store.get("room");
    const room = this.rooms.find((room) => room.room_id === last) ?? this.rooms.find((room) => room.joined) ?? this.rooms[0];
    if (room) await this.show(room.room_id, false);
    this.live.start();
    this.timer = setInterval(() => this.loadRooms().catch(() => {}), ROOMS_INTERVAL_MS);
  }

  listen() {
    this.live.addEventListener("events", ({ detail }) => this.take(detail));
    this.live.addEventListener("state", () => {
      this.showState();
      // The page was opened while no server could be asked.
      if (this.live.isUp && this.room !== null && !this.timelines.has(this.room)) this.show(this.room, false);
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || this.room === null) return;
      this.unread.delete(this.room);
      this.showRooms();
      this.showTitle();
    });
    this.live.addEventListener("closed", () => this.loadRooms().catch(() => {}));
    this.live.addEventListener("failed", ({ detail }) => {
      if (detail.status === 401) this.end(detail.detail);
      else if (detail.retry === "never") this.readable();
    });
    this.outbox.addEventListener("change", () => this.showMessages());
    this.outbox.addEventListener("ended", ({ detail }) => this.end(detail.message));
  }

  /** Follows only what is readable now. */
  async readable() {
    await this.loadRooms().catch(() => {});
    const known = this.live.rooms;
    const rooms = this.rooms.filter((room) => room.joined || room.room_id === this.room);
    this.live.forget(new Map(rooms.map((room) => [room.room_id, known.get(room.room_id) ?? room.last_seq])));
  }

  /** The session has ended. What waits is shown at the next log-in: it was numbered for this session. */
  async end(message) {
    if (this.ended) return;
    this.ended = true;
    this.live.stop();
    this.outbox.stop();
    this.status.close();
    clearInterval(this.timer);
    await store.forgetSession(this.session.session_id);
    logIn(app, begin, message, this.session.user);
  }

  async logOut() {
    if (this.outbox.waiting.length && !confirm("Some messages are not sent yet. Log out and lose them?")) return;
    this.outbox.stop();
    await store.abandon(this.session.session_id);
    await this.cluster.call("DELETE", "/sessions/current").catch(() => {});
    this.end("");
  }

  failed(error) {
    if (error instanceof Problem && error.status === 401) this.end(error.message);
    else this.note(error.message);
  }

  note(text) {
    this.notice.textContent = text;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => (this.notice.textContent = ""), 6_000);
  }

  // ---- Layout

  build() {
    this.roomList = el("ul", { class: "rooms" });
    this.title = el("h2", {});
    this.topic = el("span", { class: "topic" });
    this.chip = el("button", { class: "chip", type: "button", onclick: () => this.openPanel("status") });
    this.messages = el("ol", { class: "messages", "aria-label": "Messages", onkeydown: (event) => this.keys(event) });
    this.earlier = el("button", { class: "earlier", type: "button", onclick: () => this.loadEarlier() }, "Earlier messages");
    this.scroller = el("div", { class: "scroller" }, this.earlier, this.messages);
    this.about = el("div", { class: "about" });
    this.notice = el("p", { class: "notice", role: "alert" });
    this.input = el("textarea", { rows: 1, "aria-label": "Message", placeholder: "Message", onkeydown: (event) => this.inputKeys(event), oninput: () => this.fit() });
    this.side = el("aside", { class: "side hidden" });
    const send = el("button", { type: "submit" }, "Send");
    const form = el("form", { class: "composer", onsubmit: (event) => (event.preventDefault(), this.submit()) }, this.about, this.notice, el("div", { class: "line" }, this.input, send));
    const nav = el(
      "nav",
      { "aria-label": "Rooms" },
      el("header", {}, el("strong", {}, this.session.user), el("button", { type: "button", class: "quiet", onclick: () => this.logOut() }, "Log out")),
      this.roomList,
      el(
        "div",
        { class: "new" },
        el("button", { type: "button", onclick: () => this.openPanel("room") }, "New room"),
        el("button", { type: "button", onclick: () => this.openPanel("direct") }, "New conversation"),
      ),
    );
    const main = el(
      "main",
      {},
      el(
        "header",
        {},
        el("button", { type: "button", class: "quiet back", "aria-label": "Rooms", onclick: () => this.shell.classList.remove("in-room") }, "‹"),
        el("div", { class: "heading" }, this.title, this.topic),
        el("button", { type: "button", class: "quiet", onclick: () => this.openPanel("members") }, "Members"),
        this.chip,
      ),
      this.scroller,
      form,
    );
    this.shell = el("div", { class: "shell" }, nav, main, this.side);
    app.replaceChildren(this.shell);
    this.showState();
  }

  showState() {
    const { live } = this;
    const waits = this.outbox.waiting.length;
    const text = !live.isUp ? "◷ looking for a server" : live.quorum ? `● ${live.node}` : `◐ ${live.node}: no majority`;
    this.chip.textContent = waits ? `${text} · ${waits} waiting` : text;
    this.chip.classList.toggle("bad", !live.isUp || !live.quorum);
  }

  // ---- Rooms

  async loadRooms() {
    const rooms = [];
    for (let after = 0, more = true; more; ) {
      const page = await this.cluster.call("GET", `/rooms?limit=500&after=${after}`);
      rooms.push(...page.rooms);
      ({ more, next_after: after } = page);
    }
    this.rooms = rooms;
    if (this.live.running)
      for (const room of rooms.filter((room) => room.joined)) this.live.follow(room.room_id, room.last_seq);
    this.showRooms();
  }

  nameOf(room) {
    if (room.policy.kind !== "direct") return `#${room.name}`;
    const others = room.people.filter((person) => person.user_id !== this.session.user_id).map((person) => person.name);
    return others.join(", ") || "notes to yourself";
  }

  showRooms() {
    const group = (room) => (room.policy.kind === "direct" ? 1 : room.joined ? 0 : 2);
    const sorted = [...this.rooms].sort((a, b) => group(a) - group(b) || this.nameOf(a).localeCompare(this.nameOf(b)));
    const heads = ["Rooms", "Conversations", "Other rooms"];
    const nodes = [];
    let before = -1;
    for (const room of sorted) {
      if (group(room) !== before) nodes.push(el("li", { class: "head" }, heads[(before = group(room))]));
      const unread = this.unread.get(room.room_id) ?? 0;
      const current = room.room_id === this.room;
      nodes.push(
        el(
          "li",
          {},
          el(
            "button",
            { type: "button", class: unread ? "unread" : "", "aria-current": current ? "true" : undefined, onclick: () => this.show(room.room_id, true) },
            el("span", {}, this.nameOf(room)),
            room.policy.kind === "private" && el("span", { class: "dim" }, "private"),
            unread > 0 && el("span", { class: "badge", "aria-label": `${unread} new` }, String(unread)),
          ),
        ),
      );
    }
    this.roomList.replaceChildren(...nodes);
    const room = this.rooms.find((room) => room.room_id === this.room);
    if (room) {
      this.title.textContent = this.nameOf(room);
      this.topic.textContent = room.topic;
    }
  }

  async show(id, chosen) {
    this.room = id;
    this.unread.delete(id);
    this.cancel();
    if (chosen) this.shell.classList.add("in-room");
    this.nodes.clear();
    this.messages.replaceChildren();
    this.showRooms();
    if (this.panel === "members") this.openPanel("members");
    if (!this.timelines.has(id)) {
      if (this.loading === id) return;
      this.loading = id;
      try {
        const page = await this.cluster.call("GET", `/rooms/id:${id}/events?limit=${PAGE}`);
        if (!this.timelines.has(id)) {
          const timeline = new Timeline(this.session.user_id);
          timeline.page(page, true);
          this.timelines.set(id, timeline);
        }
        this.live.follow(id, page.last_seq);
        await this.fill(id);
      } catch (error) {
        this.failed(error);
      } finally {
        this.loading = null;
      }
    }
    if (this.room !== id) return;
    this.showMessages(true);
    store.set("room", id);
    if (chosen) this.input.focus();
  }

  /** Reads what is missing between the timeline and the stream. */
  async fill(id) {
    const timeline = this.timelines.get(id);
    while (timeline.last < (this.live.rooms.get(id) ?? 0)) {
      const before = timeline.last;
      const page = await this.cluster.call("GET", `/rooms/id:${id}/events?after=${before}&limit=1000`);
      timeline.page(page, true);
      if (timeline.last === before) return;
    }
  }

  async loadEarlier() {
    const timeline = this.timelines.get(this.room);
    if (!timeline || timeline.first <= 1) return;
    const height = this.scroller.scrollHeight;
    try {
      const page = await this.cluster.call("GET", `/rooms/id:${this.room}/events?before=${timeline.first}&limit=${PAGE}`);
      timeline.page(page, false);
      // The room has nothing that the reader may see before this.
      if (page.events.length === 0) timeline.first = 1;
      this.showMessages();
      this.scroller.scrollTop += this.scroller.scrollHeight - height;
    } catch (error) {
      this.failed(error);
    }
  }

  /** Takes events of the stream. */
  async take({ room_id: id, events }) {
    const timeline = this.timelines.get(id);
    for (const event of events) {
      if (event.session_id === this.session.session_id) this.outbox.seen(id, event.request_no);
      if (timeline && !timeline.next(event)) await this.fill(id).catch(() => {});
      const room = this.rooms.find((room) => room.room_id === id);
      if (event.kind === "topic" && room) room.topic = event.body;
      if (event.kind === "joined" && event.author_id === this.session.user_id) this.loadRooms().catch(() => {});
      if (event.kind === "message" && event.author_id !== this.session.user_id) {
        if (id !== this.room || document.hidden) this.unread.set(id, (this.unread.get(id) ?? 0) + 1);
        if (id === this.room) this.announce(`${event.from}: ${event.body}`);
      }
    }
    this.showRooms();
    if (id === this.room) this.showMessages();
    else timeline?.trim();
    this.showTitle();
  }

  showTitle() {
    const unread = [...this.unread.values()].reduce((sum, count) => sum + count, 0);
    document.title = unread ? `(${unread}) conclave` : "conclave";
  }

  announce(text) {
    announcer.textContent = text.slice(0, 200);
  }

  // ---- Messages

  showMessages(toEnd = false) {
    this.showState();
    const timeline = this.timelines.get(this.room);
    if (!timeline) return;
    const { scroller } = this;
    const atEnd = toEnd || scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
    const of = (entries) => entries.filter((entry) => entry.room === this.room);
    const waiting = of(this.outbox.waiting);
    const busy = new Map();
    for (const entry of waiting) {
      const target = Object.values(entry.action)[0]?.target_seq;
      if (target) busy.set(target, true);
    }
    if (atEnd) timeline.trim();
    this.before = this.nodes;
    this.nodes = new Map();
    const items = timeline.list();
    const sent = new Set(items.filter((item) => item.session === this.session.session_id).map((item) => item.no));
    const isText = (entry) => "text" in entry.action || "post" in entry.action;
    const acked = of(this.outbox.acked).filter((entry) => !sent.has(entry.no));
    const mine = [
      ...acked.map((entry) => [entry, "acked"]),
      ...waiting.filter((entry) => isText(entry) && !sent.has(entry.no)).map((entry) => [entry, "waiting"]),
      ...of(this.outbox.refused).map((entry) => [entry, "refused"]),
    ];
    const goesOn = (item, before) =>
      before?.author === item.author && !item.notice && !item.replyTo && item.time - before.time < GOES_ON_MS;
    const event = (item, index) => {
      const state = { busy: busy.has(item.seq), goesOn: goesOn(item, items[index - 1]) };
      return this.node(`e${item.seq}`, `${item.version} ${state.busy} ${state.goesOn}`, () => eventNode(this, item, timeline, state));
    };
    const wanted = [
      ...items.map(event),
      ...mine.map(([entry, state]) => this.node(`o${entry.no}${entry.key ?? ""}`, state, () => ownNode(this, entry, state))),
    ];
    arrange(this.messages, wanted);
    if (!this.tabStop?.isConnected || this.tabStop !== document.activeElement) this.setTabStop(this.messages.lastElementChild);
    this.earlier.classList.toggle("hidden", timeline.first <= 1);
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
  }

  /** The node of an item, made anew only when the item has changed. */
  node(key, version, make) {
    const known = this.before.get(key);
    if (known?.version === version) {
      this.nodes.set(key, known);
      return known.node;
    }
    const node = make();
    if (known?.node.contains(document.activeElement)) queueMicrotask(() => node.focus());
    this.nodes.set(key, { version, node });
    return node;
  }

  setTabStop(node) {
    if (this.tabStop) this.tabStop.tabIndex = -1;
    this.tabStop = node;
    if (node) node.tabIndex = 0;
  }

  keys(event) {
    const items = [...this.messages.children];
    const at = items.indexOf(document.activeElement.closest("li"));
    const move = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (event.target.tagName === "A" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) {
      event.preventDefault();
      const next = items[at + move];
      if (next) {
        this.setTabStop(next);
        next.focus();
      }
      if (!next && move > 0) this.input.focus();
      return;
    }
    const seq = Number(items[at]?.dataset.seq);
    const item = this.timelines.get(this.room)?.items.get(seq);
    if (!item || item.notice || item.deleted) return;
    const mine = item.author === this.session.user_id;
    if (event.key === "r") event.preventDefault(), this.replyTo(item);
    else if (event.key === "e" && mine) event.preventDefault(), this.edit(item);
    else if (event.key === "Delete" && mine) event.preventDefault(), this.remove(item);
    else if (/^[1-6]$/.test(event.key)) event.preventDefault(), this.react(item, EMOJI[Number(event.key) - 1]);
  }

  react(item, emoji) {
    const off = item.reactions.get(emoji)?.mine ?? false;
    this.add({ react: { target_seq: item.seq, emoji, off } });
  }

  remove(item) {
    if (confirm("Delete this message, on all servers?")) this.add({ delete: { target_seq: item.seq } });
  }

  replyTo(item) {
    this.cancel();
    this.reply = item.seq;
    this.showAbout(`Reply to ${item.from}: ${item.body.slice(0, 80)}`);
  }

  edit(item) {
    this.cancel();
    this.editing = item.seq;
    this.input.value = item.body;
    this.fit();
    this.showAbout("Edit your message");
  }

  showAbout(text) {
    this.about.replaceChildren(text, " ", el("button", { type: "button", class: "quiet", onclick: () => this.cancel() }, "Cancel"));
    this.input.focus();
  }

  cancel() {
    if (this.editing) this.input.value = "";
    this.reply = this.editing = null;
    this.about.replaceChildren();
    this.fit();
  }

  // ---- Writing

  fit() {
    this.input.rows = Math.min(8, this.input.value.split("\n").length);
  }

  inputKeys(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Escape") {
      this.cancel();
    } else if (event.key === "ArrowUp" && this.input.value === "") {
      event.preventDefault();
      this.messages.lastElementChild?.focus();
    }
  }

  submit() {
    const text = this.input.value.trimEnd();
    if (!text || this.room === null) return;
    const { editing, reply } = this;
    this.input.value = "";
    this.cancel();
    if (editing) this.add({ edit: { target_seq: editing, text } });
    else if (reply) this.add({ post: { text, reply_to_seq: reply } });
    else this.add({ text });
    this.fit();
  }

  async add(action) {
    try {
      await this.outbox.add(this.room, action);
    } catch (error) {
      // The browser's disk is full, for example: nothing was stored, and nothing is sent.
      this.note(`not stored: ${error?.message ?? error}`);
      if (action.text && !this.input.value) this.input.value = action.text;
      return;
    }
    this.showMessages("text" in action || "post" in action);
  }

  openPanel(kind) {
    openPanel(this, kind);
  }
}

start();
