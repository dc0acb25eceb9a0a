// Elements. Text becomes text nodes only: nothing here or elsewhere turns a string into markup.

/** An element with properties, event listeners (`onclick`), attributes (`aria-label`) and children (nodes, texts, or nothing). */
export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key in node && !key.includes("-")) node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const LINK = /((?:https?:\/\/|mailto:)[^\s<>"]+)/g;
const SCHEMES = ["http:", "https:", "mailto:"];

/** A text with its links. */
export function linked(text) {
  return text.split(LINK).map((part, index) => (index % 2 === 1 ? link(part) : part));
}

function link(text) {
  // A full stop or a bracket at the end belongs to the sentence.
  const address = text.replace(/[.,;:!?)\]]+$/, "");
  let url;
  try {
    url = new URL(address);
  } catch {
    return text;
  }
  if (!SCHEMES.includes(url.protocol)) return text;
  const anchor = el("a", { href: url.href, rel: "noopener noreferrer", target: "_blank" }, address);
  const fragment = document.createDocumentFragment();
  fragment.append(anchor, text.slice(address.length));
  return fragment;
}

/** Makes the children of a list these nodes, and moves none that is at its place: so focus and selection stay. */
export function arrange(parent, nodes) {
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
  while (parent.children.length > nodes.length) parent.lastElementChild.remove();
}

/** The time of day, with the date if it is not today's. */
export function clock(ms) {
  const time = new Date(ms);
  const today = new Date().toDateString() === time.toDateString();
  const options = today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(undefined, options).format(time);
}
