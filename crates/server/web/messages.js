// Messages as nodes.

import { clock, el, linked } from "./dom.js";

/** The reactions that are offered. */
export const EMOJI = ["👍", "❤️", "😄", "🎉", "👀", "✅"];

/** The node of an event. `busy`: a request about it waits. `goesOn`: it has the same author as the message before. */
export function eventNode(chat, item, timeline, { busy, goesOn }) {
  if (item.notice) return el("li", { class: "event", tabindex: -1 }, item.notice, el("time", {}, clock(item.time)));
  const own = item.session === chat.session.session_id;
  const quoted = item.replyTo && timeline.items.get(item.replyTo);
  const state = busy ? "◷" : own && !item.deleted ? "✓" : "";
  const head = el(
    "div",
    { class: "head" },
    el("strong", {}, item.from),
    el("time", {}, clock(item.time)),
    item.edited && !item.deleted && el("span", { class: "dim" }, "edited"),
    item.thread && el("span", { class: "dim" }, `in the thread of ${item.thread}`),
    item.answers > 0 && el("span", { class: "dim" }, `${item.answers} in thread`),
  );
  const quote = item.replyTo && el("blockquote", {}, quoted ? `${quoted.from ?? ""}: ${quoted.deleted ? "deleted" : quoted.body ?? ""}` : `message ${item.replyTo}`);
  const body = item.deleted ? el("p", { class: "dim" }, "deleted") : el("p", { class: "body" }, linked(item.body));
  const reactions = [...item.reactions].map(([emoji, one]) =>
    el("button", { type: "button", class: one.mine ? "reaction mine" : "reaction", "aria-pressed": String(one.mine), onclick: () => chat.react(item, emoji) }, `${emoji} ${one.users.size + one.others}`),
  );
  return el(
    "li",
    { tabindex: -1, class: `message${own ? " own" : ""}${goesOn ? " goes-on" : ""}`, "data-seq": String(item.seq) },
    head,
    quote,
    body,
    reactions.length > 0 && el("div", { class: "reactions" }, reactions),
    el("span", { class: "tick", title: busy ? "not acked yet" : own ? "on disk at a majority of the servers" : "" }, state),
    !item.deleted && actions(chat, item),
  );
}

function actions(chat, item) {
  const mine = item.author === chat.session.user_id;
  const button = (label, work) => el("button", { type: "button", onclick: work }, label);
  return el(
    "div",
    { class: "actions" },
    EMOJI.map((emoji) => el("button", { type: "button", "aria-label": `React with ${emoji}`, onclick: () => chat.react(item, emoji) }, emoji)),
    button("Reply", () => chat.replyTo(item)),
    mine && button("Edit", () => chat.edit(item)),
    mine && button("Delete", () => chat.remove(item)),
  );
}

/** A request in words. */
function words({ text, post, edit, delete: deleted, react, add_member: added }) {
  if (edit) return `edit of ${edit.target_seq}: ${edit.text}`;
  if (deleted) return `deletion of ${deleted.target_seq}`;
  if (react) return `${react.emoji} for ${react.target_seq}`;
  if (added) return `adding ${added.user}`;
  return text ?? post?.text ?? "";
}

/** The node of a request that has no event yet, or never gets one. */
export function ownNode(chat, entry, state) {
  const text = words(entry.action);
  const ticks = { acked: ["✓", "on disk at a majority of the servers"], waiting: ["◷", "not acked yet"], refused: ["✗", entry.reason] };
  const [tick, title] = ticks[state];
  return el(
    "li",
    { class: `message own ${state}`, tabindex: -1 },
    el("div", { class: "head" }, el("strong", {}, chat.session.user), el("time", {}, clock(entry.at))),
    el("p", { class: "body" }, linked(text)),
    state === "refused" && el("p", { class: "error" }, entry.reason, " ", el("button", { type: "button", onclick: () => chat.outbox.drop(entry.key) }, "Drop")),
    el("span", { class: "tick", title }, tick),
  );
}
