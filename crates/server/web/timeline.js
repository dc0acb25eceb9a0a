// A room's timeline: a function of its events. Edits, deletions and reactions are events that refer to a message.

const NOTICES = {
  created: () => "created the room",
  joined: () => "joined",
  left: () => "left",
  topic: (event) => `set the topic: ${event.body}`,
  pinned: (event) => `pinned ${event.target_seq}`,
  unpinned: (event) => `unpinned ${event.target_seq}`,
  member_added: (event) => `added ${event.user}${event.role === "member" ? "" : ` as ${event.role}`}`,
  member_removed: (event) => `removed ${event.user}`,
  member_banned: (event) => `banned ${event.user}`,
  role_changed: (event) => `made ${event.user} ${event.role}`,
  muted: (event) => `muted ${event.user}`,
  unmuted: (event) => `lets ${event.user} write again`,
  policy_changed: () => "changed the room's policy",
  unknown: () => "did something that is newer than this page",
};

/** A timeline that is not read keeps this many messages. */
const KEPT_MAX = 400;

export class Timeline {
  constructor(me) {
    this.me = me;
    /** What is shown, by seq. */
    this.items = new Map();
    this.first = 0;
    this.last = 0;
  }

  /** Takes a page of history, at the beginning or at the end. */
  page({ events, folds, last_seq: last }, isNewest) {
    const folded = new Map(folds.map((fold) => [fold.seq, fold]));
    for (const event of events) {
      if (event.target_seq && folded.has(event.target_seq)) continue;
      // The fold of a message of another page has this already.
      if (event.target_seq && !this.items.has(event.target_seq)) continue;
      this.take(event);
    }
    for (const fold of folds) this.fold(fold);
    if (events.length > 0) this.first = this.first === 0 ? events[0].seq : Math.min(this.first, events[0].seq);
    if (isNewest) this.last = Math.max(this.last, events.at(-1)?.seq ?? last);
  }

  /** Takes the next event; whether it is the next one, or known. */
  next(event) {
    if (event.seq <= this.last) return true;
    if (event.seq !== this.last + 1) return false;
    this.last = event.seq;
    this.take(event);
    return true;
  }

  take(event) {
    const target = this.items.get(event.target_seq);
    switch (event.kind) {
      case "message":
        if (!this.items.has(event.seq)) this.items.set(event.seq, message(event));
        if (event.thread_seq) this.update(event.thread_seq, (root) => root.answers++);
        break;
      case "erased":
        // An erased edit is part of the deletion of its message.
        if (!event.target_seq) this.items.set(event.seq, { ...message(event), deleted: true });
        break;
      case "edited":
        if (target && event.seq > target.editedSeq)
          this.update(target.seq, (it) => Object.assign(it, { body: event.body, editedSeq: event.seq, edited: true }));
        break;
      case "deleted":
        this.update(event.target_seq, (it) => Object.assign(it, { body: "", deleted: true, reactions: new Map() }));
        break;
      case "reacted":
      case "unreacted":
        this.update(event.target_seq, (it) => react(it, event, this.me));
        break;
      default:
        if (NOTICES[event.kind] && !this.items.has(event.seq))
          this.items.set(event.seq, {
            seq: event.seq,
            version: 0,
            notice: `${event.from || "the cluster"} ${NOTICES[event.kind](event)}`,
            time: event.time_ms,
          });
    }
  }

  fold(fold) {
    this.update(fold.seq, (it) => {
      it.deleted ||= fold.deleted;
      it.answers = fold.answers;
      if (fold.deleted) it.body = "";
      else if (fold.edits > 0) Object.assign(it, { body: fold.body, edited: true, editedSeq: fold.edited_seq });
      it.reactions = new Map(
        fold.reactions.map((one) => [
          one.emoji,
          { users: new Set(one.user_ids), others: one.count - one.user_ids.length, mine: one.mine },
        ]),
      );
    });
  }

  update(seq, work) {
    const item = this.items.get(seq);
    if (!item || item.notice) return;
    work(item);
    item.version++;
  }

  /** Keeps the newest messages: the others can be read again. */
  trim() {
    if (this.items.size <= KEPT_MAX + KEPT_MAX / 2) return;
    const kept = this.list().slice(-KEPT_MAX);
    this.items = new Map(kept.map((item) => [item.seq, item]));
    this.first = kept[0].seq;
  }

  /** All of it, in order. */
  list() {
    return [...this.items.values()].sort((a, b) => a.seq - b.seq);
  }
}

function message(event) {
  return {
    seq: event.seq,
    version: 0,
    from: event.from,
    author: event.author_id,
    time: event.time_ms,
    body: event.body,
    session: event.session_id,
    no: event.request_no,
    replyTo: event.reply_to_seq,
    thread: event.thread_seq,
    edited: false,
    editedSeq: 0,
    deleted: false,
    answers: 0,
    reactions: new Map(),
  };
}

function react(item, event, me) {
  const reaction = item.reactions.get(event.body) ?? { users: new Set(), others: 0, mine: false };
  if (event.kind === "reacted") {
    reaction.users.add(event.author_id);
  } else if (!reaction.users.delete(event.author_id) && reaction.others > 0) {
    reaction.others--;
  }
  if (event.author_id === me) reaction.mine = event.kind === "reacted";
  if (reaction.users.size + reaction.others > 0) item.reactions.set(event.body, reaction);
  else item.reactions.delete(event.body);
}
