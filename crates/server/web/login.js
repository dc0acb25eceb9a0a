// Logging in.

import { Cluster } from "./cluster.js";
import { el } from "./dom.js";
import * as store from "./store.js";

/** Shows the form, and calls `begin` with the session that it opens. */
export function logIn(app, begin, message = "", name = "") {
  const user = el("input", { id: "user", required: true, maxLength: 32, autocomplete: "username", spellcheck: false, value: name });
  const password = el("input", { id: "password", type: "password", autocomplete: "current-password" });
  const said = el("p", { class: "error", role: "alert" }, message);
  const button = el("button", { type: "submit" }, "Log in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    said.textContent = "";
    const cluster = new Cluster();
    const body = { user: user.value.trim().toLowerCase(), client: "web" };
    if (password.value) body.password = password.value;
    try {
      const session = await cluster.call("POST", "/sessions", body);
      await store.set("session", session);
      begin(session);
    } catch (error) {
      said.textContent = error.message;
      button.disabled = false;
      (error.code === "login_required" || error.code === "wrong_password" ? password : user).focus();
    }
  };
  const form = el(
    "form",
    { class: "login", onsubmit: submit },
    el("h1", {}, "conclave"),
    el("label", { for: "user" }, "Name"),
    user,
    el("label", { for: "password" }, "Password, if the name has one"),
    password,
    button,
    said,
  );
  app.replaceChildren(form);
  user.focus();
}
