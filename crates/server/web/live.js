// The stream of events: a WebSocket that goes on at another server when its own is gone.

const OPEN_MS = 2_500;
/** The server sends something every 5 s. */
const SILENT_MS = 12_000;
const PAUSE_MS_MAX = 2_000;

export class Live extends EventTarget {
  constructor(cluster) {
    super();
    this.cluster = cluster;
    /** The seq after which each room goes on. */
    this.rooms = new Map();
    this.resume = "";
    /** The rooms of the stream, and those that the resume token names. */
    this.inStream = new Set();
    this.inToken = new Set();
    this.node = null;
    this.isUp = false;
    this.quorum = true;
    this.stopped = false;
  }

  /** Follows a room, too. */
  follow(room, after) {
    if (this.rooms.has(room)) return;
    this.rooms.set(room, after);
    if (this.running) this.restart();
  }

  start() {
    if (!this.running) {
      this.running = true;
      this.run();
    }
  }

  stop() {
    this.stopped = true;
    this.socket?.close();
  }

  /** Begins again without the token: a room of it is not readable any more. */
  forget(rooms) {
    this.resume = "";
    this.inToken.clear();
    this.rooms = rooms;
    this.restart();
  }

  restart() {
    this.wanted = true;
    this.socket?.close();
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  async run() {
    let wait = 50;
    let failed = null;
    let lostAt = null;
    let lostNode = null;
    while (!this.stopped) {
      let opened = false;
      for (const origin of this.cluster.origins(failed)) {
        this.wanted = false;
        const ended = await this.stream(origin, (at) => {
          if (lostAt !== null) this.tell("failover", { from: lostNode, to: this.node, ms: at - lostAt });
          lostAt = null;
        });
        if (this.stopped) return;
        if (ended.opened) {
          opened = true;
          wait = 50;
          if (this.wanted) {
            failed = null;
          } else {
            failed = origin;
            lostAt ??= performance.now();
            lostNode = this.node;
            if (ended.moveTo) this.cluster.current = ended.moveTo;
            if (ended.moveTo) failed = null;
          }
          this.isUp = false;
          this.tell("state");
          break;
        }
      }
      if (!opened && !this.stopped) {
        this.tell("state");
        await new Promise((resolve) => setTimeout(resolve, wait));
        wait = Math.min(2 * wait, PAUSE_MS_MAX);
      }
    }
  }

  /** Follows at one server until the stream ends. */
  stream(origin, caughtUp) {
    return new Promise((resolve) => {
      let opened = false;
      let moveTo = null;
      let timer;
      const socket = new WebSocket(`${origin.replace(/^http/, "ws")}/api/v1/stream`);
      this.socket = socket;
      const expect = (ms) => {
        clearTimeout(timer);
        timer = setTimeout(finish, ms);
      };
      const finish = () => {
        clearTimeout(timer);
        socket.onclose = socket.onerror = socket.onmessage = null;
        socket.close();
        resolve({ opened, moveTo });
      };
      expect(OPEN_MS);
      socket.onclose = socket.onerror = finish;
      socket.onopen = () => socket.send(JSON.stringify(this.firstFrame()));
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        expect(SILENT_MS);
        if (frame.resume_token) this.resume = frame.resume_token;
        switch (frame.type) {
          case "opened":
            opened = true;
            this.node = frame.node;
            this.cluster.current = origin;
            this.isUp = true;
            this.tell("state");
            break;
          case "events":
            this.rooms.set(frame.room_id, frame.events.at(-1).seq);
            this.inToken = new Set(this.inStream);
            this.tell("events", frame);
            break;
          case "caught_up":
            this.inToken = new Set(this.inStream);
            caughtUp(performance.now());
            this.tell("state");
            break;
          case "keepalive":
            if (this.quorum !== frame.quorum) {
              this.quorum = frame.quorum;
              this.tell("state");
            }
            break;
          case "cluster_view":
            this.cluster.learn(frame.nodes);
            this.tell("state");
            break;
          case "room_closed":
            this.rooms.delete(frame.room_id);
            this.inStream.delete(frame.room_id);
            this.inToken = new Set(this.inStream);
            this.tell("closed", frame);
            break;
          case "go_away":
            moveTo = frame.web_addresses[0] ?? null;
            finish();
            break;
          case "failed":
            this.tell("failed", frame.problem);
            finish();
            break;
        }
      };
    });
  }

  firstFrame() {
    this.inStream = new Set(this.rooms.keys());
    const added = [...this.rooms].filter(([room]) => !this.resume || !this.inToken.has(room));
    const rooms = added.map(([room, after]) => ({ room: `id:${room}`, after }));
    return { token: this.cluster.token, rooms, resume_token: this.resume };
  }
}
