// The cluster as the reader sees it: servers, leaders, what it can lose, and how long each failover took.

import { clock, el } from "./dom.js";

const INTERVAL_MS = 2_000;
const FAILOVERS_SHOWN = 8;

export class StatusPanel {
  constructor(cluster, live) {
    this.cluster = cluster;
    this.live = live;
    this.failovers = [];
    this.status = null;
    this.node = el("div", { class: "panel-body" });
    this.timer = null;
    live.addEventListener("failover", ({ detail }) => {
      this.failovers.unshift({ ...detail, at: Date.now() });
      this.failovers.length = Math.min(this.failovers.length, FAILOVERS_SHOWN);
      this.show();
    });
    live.addEventListener("state", () => this.show());
  }

  open() {
    this.refresh();
    this.timer ??= setInterval(() => this.refresh(), INTERVAL_MS);
  }

  close() {
    clearInterval(this.timer);
    this.timer = null;
  }

  async refresh() {
    try {
      this.status = await this.cluster.call("GET", "/cluster");
      this.cluster.learn(this.status.nodes);
    } catch {
      this.status = null;
    }
    this.show();
  }

  show() {
    const { status } = this;
    const parts = [this.summary(status)];
    if (status) parts.push(this.nodes(status), this.problems(status));
    parts.push(this.proof());
    this.node.replaceChildren(...parts);
  }

  summary(status) {
    const connected = this.live.isUp ? `connected to ${this.live.node}` : "no server answers; what you write waits here";
    const lose = !status ? "" : status.can_lose >= 0 ? `can lose ${status.can_lose} more` : "some rooms cannot be written to";
    return el("p", {}, connected, el("br"), el("strong", {}, lose));
  }

  nodes(status) {
    const led = (id) => status.leaders.filter((leader) => leader.node_id === id);
    const row = (node) => {
      const state = !node.reachable ? "gone" : node.draining ? "draining" : "up";
      const leads = led(node.node_id);
      const shards = leads.map((leader) => `${leader.shard} (${leader.term})`).join(", ");
      return el(
        "tr",
        { class: state },
        el("th", { scope: "row" }, node.name),
        el("td", {}, state),
        el("td", {}, shards || "none"),
        el("td", {}, node.reachable ? String(node.clients) : "?"),
      );
    };
    const heads = ["server", "state", "leads shard (term)", "clients"].map((text) => el("th", { scope: "col" }, text));
    return el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, status.nodes.map(row)));
  }

  problems(status) {
    return status.problems.length ? el("ul", { class: "problems" }, status.problems.map((text) => el("li", {}, text))) : el("span");
  }

  proof() {
    const line = (one) =>
      el("li", {}, `${clock(one.at)}  ${one.from} was lost, ${one.to} went on after ${Math.round(one.ms)} ms`);
    const lines = this.failovers.map(line);
    return el(
      "div",
      {},
      el("h3", {}, "Failovers of this page"),
      lines.length ? el("ol", { class: "failovers" }, lines) : el("p", { class: "dim" }, "none: kill the server and watch"),
    );
  }
}
