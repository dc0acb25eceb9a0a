// The servers: which there are, and calls that go to the next one if one does not answer.

const CALL_MS = 4_000;
const ROUNDS = 4;

/** A failed call, in the words of the API. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.code);
    this.code = body.code;
    this.status = body.status;
    this.retry = body.retry;
    this.expected = body.expected_request_no;
    this.numberUsed = body.number_used;
  }

  get isFinal() {
    return this.retry === "never";
  }
}

/** No server has answered. */
export class Unreachable extends Error {}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Cluster {
  constructor() {
    this.own = location.origin;
    this.current = this.own;
    this.nodes = [];
    this.token = null;
  }

  /** Takes the nodes from a cluster view or a status. */
  learn(nodes) {
    this.nodes = nodes.filter((node) => node.web_address);
  }

  nameOf(origin) {
    return this.nodes.find((node) => node.web_address === origin)?.name ?? origin;
  }

  /** Where to try, in this order; `failed` comes last. */
  origins(failed) {
    const alive = (node) => (node.alive ?? node.reachable) && !node.draining;
    const others = [...this.nodes].sort((a, b) => alive(b) - alive(a)).map((node) => node.web_address);
    const all = [...new Set([...(failed ? [] : [this.current]), this.own, ...others])];
    return failed ? [...all.filter((origin) => origin !== failed), failed] : all;
  }

  /** Asks one server after the other, in rounds. */
  async call(method, path, body) {
    let problem;
    for (let round = 0; round < ROUNDS; round++) {
      for (const origin of this.origins()) {
        try {
          const answer = await this.ask(origin, method, path, body);
          this.current = origin;
          return answer;
        } catch (error) {
          if (error instanceof Problem && error.status !== 503) throw error;
          problem = error;
        }
      }
      await pause(100 * 2 ** round);
    }
    throw problem instanceof Problem ? problem : new Unreachable("no server answers");
  }

  /** Asks one server. */
  async ask(origin, method, path, body) {
    const headers = {};
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), CALL_MS);
    try {
      const answer = await fetch(`${origin}/api/v1${path}`, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: abort.signal,
        credentials: "omit",
        cache: "no-store",
      });
      if (answer.status === 204) return null;
      const value = await answer.json();
      if (!answer.ok) throw new Problem(value);
      return value;
    } finally {
      clearTimeout(timer);
    }
  }
}
