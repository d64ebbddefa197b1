// Elements are made by functions, and data goes into them as text alone: no string is ever read as HTML.

/** An element. `properties`: `class`, `on` (listeners by event), `data` (data-*), else attributes; null and
 * false are left out. `children`: nodes, texts, numbers, null, or arrays of them. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "data") {
      Object.assign(element.dataset, value);
    } else if (name === "value" && "value" in element) {
      element.value = value;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  add(element, children);
  return element;
}

/** Put children at the end of an element. */
export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Replace everything in an element. A focus in it goes to the first control that is there then. */
export function fill(element, ...children) {
  const focused = document.activeElement;
  const had = focused !== element && element.contains(focused);
  element.replaceChildren();
  add(element, children);
  if (had && !element.contains(document.activeElement)) element.querySelector("button, a[href], input, select")?.focus();
}

/** Set the text of an element, only when it is another one. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell who listens to the page rather than looks at it. */
export function announce(text) {
  say(document.getElementById("announcements"), text);
}

/** A state as a word with a colour. `tone`: good, warn, bad or quiet. */
export function state(text, tone = "quiet") {
  return h("span", { class: `state ${tone}` }, text);
}

/** A button. `options`: `danger`, `quiet`, `label` (for those who do not see where it stands). */
export function button(text, act, options = {}) {
  const kind = options.danger ? "danger" : options.primary ? "primary" : options.quiet ? "quiet" : null;
  return h("button", { type: "button", class: kind, "aria-label": options.label, on: { click: act } }, text);
}
