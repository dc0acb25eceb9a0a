// What this browser keeps, in IndexedDB: the session, what was read, and the outbox.
//
// A request gets its number in the transaction that stores it. So whatever happens to the page or to the browser, a request has
// one number, and is sent under this number until there is an answer.

const STORES = { kept: {}, numbers: {}, outbox: { keyPath: ["session", "room", "no"] }, refused: { autoIncrement: true } };
let database;

export async function open() {
  database = await new Promise((resolve, reject) => {
    const request = indexedDB.open("conclave", 1);
    request.onupgradeneeded = () => {
      for (const [name, options] of Object.entries(STORES)) request.result.createObjectStore(name, options);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Runs `work` in a transaction, and waits until what it wrote is on disk. */
async function change(names, work) {
  const transaction = database.transaction(names, "readwrite", { durability: "strict" });
  const done = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
  const value = await work(...names.map((name) => transaction.objectStore(name)));
  await done;
  return value;
}

function reading(name) {
  return database.transaction(name, "readonly").objectStore(name);
}

export const get = (key) => result(reading("kept").get(key));
export const set = (key, value) => change(["kept"], (kept) => result(kept.put(value, key)));

const ofRoom = (session, room) => IDBKeyRange.bound([session, room, 0], [session, room, Infinity]);
const ofSession = (session) => IDBKeyRange.bound([session, 0, 0], [session, Infinity, Infinity]);
const numberKey = (session, room) => `${session}:${room}`;

/** Stores a request with the next number of its room. */
export function enqueue({ session_id: session, user }, room, action) {
  return change(["numbers", "outbox"], async (numbers, outbox) => {
    const no = (await result(numbers.get(numberKey(session, room)))) ?? 1;
    const entry = { session, user, room, no, action, at: Date.now() };
    await result(outbox.add(entry));
    await result(numbers.put(no + 1, numberKey(session, room)));
    return entry;
  });
}

export const waiting = (session) => result(reading("outbox").getAll(ofSession(session)));
export const first = async (session, room) => (await result(reading("outbox").getAll(ofRoom(session, room), 1)))[0];
export const settle = (entry) =>
  change(["outbox"], (outbox) => result(outbox.delete([entry.session, entry.room, entry.no])));

async function renumber(numbers, outbox, session, room, from) {
  const entries = await result(outbox.getAll(ofRoom(session, room)));
  await result(outbox.delete(ofRoom(session, room)));
  let no = from;
  for (const entry of entries) await result(outbox.add({ ...entry, no: no++ }));
  await result(numbers.put(no, numberKey(session, room)));
}

/** Gives the room's requests numbers from this one on: the server has said that this is the next one. */
export const renumberFrom = (session, room, from) =>
  change(["numbers", "outbox"], (numbers, outbox) => renumber(numbers, outbox, session, room, from));

/** Takes a refused request out of the outbox. If its number was not used up, those behind it move up. */
export function refuse(entry, reason, numberUsed) {
  return change(["numbers", "outbox", "refused"], async (numbers, outbox, refused) => {
    const found = await result(outbox.get([entry.session, entry.room, entry.no]));
    // Another tab was quicker.
    if (!found) return;
    await result(outbox.delete([entry.session, entry.room, entry.no]));
    await result(refused.add({ ...entry, reason }));
    if (!numberUsed) await renumber(numbers, outbox, entry.session, entry.room, entry.no);
  });
}

/** The refused requests of a session, with their keys. */
export async function refusedOf(session) {
  const store = reading("refused");
  const [keys, entries] = await Promise.all([result(store.getAllKeys()), result(store.getAll())]);
  return entries.map((entry, index) => ({ ...entry, key: keys[index] })).filter((entry) => entry.session === session);
}

/**
 * Shows what earlier sessions of this user left, as refused: their numbers are of those sessions, so it is not sent again.
 */
export function adopt({ session_id: session, user }, reason) {
  return change(["outbox", "refused"], async (outbox, refused) => {
    const left = (entry) => entry.user === user && entry.session !== session;
    for (const entry of (await result(outbox.getAll())).filter(left)) {
      await result(outbox.delete([entry.session, entry.room, entry.no]));
      await result(refused.add({ ...entry, session, reason }));
    }
    const [keys, entries] = [await result(refused.getAllKeys()), await result(refused.getAll())];
    for (const [index, entry] of entries.entries()) {
      if (left(entry)) await result(refused.put({ ...entry, session }, keys[index]));
    }
  });
}

/** Drops what a session has not sent. */
export async function abandon(session) {
  await change(["outbox"], (outbox) => result(outbox.delete(ofSession(session))));
}

/** Forgets a session, unless another one has been opened in another tab. */
export async function forgetSession(session) {
  await change(["kept"], async (kept) => {
    const known = await result(kept.get("session"));
    if (known?.session_id === session) await result(kept.delete("session"));
  });
}

export const dropRefused = (key) => change(["refused"], (refused) => result(refused.delete(key)));
