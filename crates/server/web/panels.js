// The panel at the side: servers, members, a new room, a new conversation.

import { el } from "./dom.js";

/** Opens the panel at the side. */
export function openPanel(chat, kind) {
  const close = () => {
    chat.panel = null;
    chat.status.close();
    chat.side.classList.add("hidden");
    chat.input.focus();
  };
  chat.status.close();
  chat.panel = kind;
  const titles = { status: "Servers", members: "Members", room: "New room", direct: "New conversation" };
  const bodies = { status: () => chat.status.node, members: () => members(chat), room: () => newRoom(chat, close), direct: () => newDirect(chat, close) };
  const header = el("header", {}, el("h2", {}, titles[kind]), el("button", { type: "button", class: "quiet", onclick: close }, "Close"));
  chat.side.replaceChildren(header, bodies[kind]());
  chat.side.classList.remove("hidden");
  chat.side.onkeydown = (event) => {
    if (event.key === "Escape") close();
  };
  if (kind === "status") chat.status.open();
  (chat.side.querySelector("input") ?? chat.side.querySelector("button")).focus();
}

function members(chat) {
  const list = el("ul", { class: "members" });
  const said = el("p", { class: "error", role: "alert" });
  const room = chat.room;
  const load = async () => {
    try {
      const page = await chat.cluster.call("GET", `/rooms/id:${room}/members?limit=1000`);
      const row = (member) => el("li", {}, el("span", {}, member.name), el("span", { class: "dim" }, member.role));
      list.replaceChildren(...page.members.map(row), page.more ? el("li", { class: "dim" }, "and more") : "");
    } catch (error) {
      said.textContent = error.message;
    }
  };
  load();
  const name = el("input", { required: true, "aria-label": "Name of a new member", placeholder: "Name" });
  const submit = async (event) => {
    event.preventDefault();
    await chat.add({ add_member: { user: name.value.trim() } });
    name.value = "";
    setTimeout(load, 300);
  };
  return el("div", { class: "panel-body" }, list, el("form", { class: "line", onsubmit: submit }, name, el("button", { type: "submit" }, "Add")), said);
}

function newRoom(chat, close) {
  const name = el("input", { id: "room-name", required: true, maxLength: 64, spellcheck: false });
  const hidden = el("input", { id: "room-private", type: "checkbox" });
  return form(chat, close, "/rooms", [el("label", { for: "room-name" }, "Name"), name, el("label", { class: "check" }, hidden, "Private: only members find and read it")], () => ({
    name: name.value.trim().replace(/^#/, ""),
    kind: hidden.checked ? "private" : "open",
  }));
}

function newDirect(chat, close) {
  const users = el("input", { id: "users", spellcheck: false });
  return form(chat, close, "/directs", [el("label", { for: "users" }, "With whom? Names, separated by commas; nobody for notes to yourself"), users], () => ({
    users: users.value.split(",").map((name) => name.trim()).filter(Boolean),
  }));
}

function form(chat, close, path, fields, body) {
  const said = el("p", { class: "error", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    try {
      const made = await chat.cluster.call("POST", path, body());
      await chat.loadRooms();
      close();
      await chat.show(made.room_id, true);
    } catch (error) {
      said.textContent = error.message;
    }
  };
  return el("form", { class: "panel-body", onsubmit: submit }, fields, el("button", { type: "submit" }, "Open"), said);
}
