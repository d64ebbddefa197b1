// What a page is made of: blocks that load, are empty, fail and are tried again; notices; fields.

import { add, announce, button, fill, h } from "./dom.js";

/** A line that says that something is under way. */
export function loading(text = "Loading …") {
  return h("p", { class: "quiet-line", "aria-busy": "true" }, text);
}

/** A line that says that there is nothing, and what that means. */
export function empty(text) {
  return h("p", { class: "quiet-line" }, text);
}

/** A notice. `tone`: good, warn or bad. */
export function notice(text, tone = "warn", ...more) {
  return h("div", { class: `notice ${tone}`, role: tone === "bad" ? "alert" : null }, h("p", {}, text), more);
}

/** What is shown of a problem: its sentence, and the id by which it is found in the log. */
export function problemNotice(problem, again = null) {
  const id = problem.requestId ? h("p", { class: "small" }, "Request id ", h("code", {}, problem.requestId)) : null;
  return notice(problem.message, "bad", id, again && button("Try again", again));
}

let sectionNumber = 0;

/** A titled part of a page. */
export function section(title, ...children) {
  const id = `section-${++sectionNumber}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** A place whose content is loaded. What it has is kept while it is loaded again. */
export class Block {
  /** `load`: makes the data; `draw`: makes nodes of them. */
  constructor({ signal, load, draw, busy = "Loading …" }) {
    this.element = h("div", { class: "block" });
    this._problem = h("div");
    this._content = h("div");
    this._signal = signal;
    this._load = load;
    this._draw = draw;
    this._turn = 0;
    this._drawn = false;
    add(this.element, [this._problem, this._content]);
    fill(this._content, loading(busy));
  }

  /** Load it (again). A later call wins over an earlier one. */
  async load() {
    const turn = ++this._turn;
    this.element.setAttribute("aria-busy", "true");
    try {
      const data = await this._load();
      if (turn !== this._turn || this._signal.aborted) return;
      fill(this._problem);
      this._show([await this._draw(data)].flat(Infinity).filter(Boolean));
      this._drawn = true;
    } catch (problem) {
      if (turn !== this._turn || this._signal.aborted) return;
      if (!this._drawn) fill(this._content);
      fill(this._problem, problemNotice(problem, () => this.load()));
      announce(problem.message);
    } finally {
      if (turn === this._turn) this.element.removeAttribute("aria-busy");
    }
  }

  /** What is there already is left where it is: moved, it would lose the focus. */
  _show(nodes) {
    const shown = [...this._content.childNodes];
    if (shown.length === nodes.length && shown.every((node, place) => node === nodes[place])) return;
    fill(this._content, nodes);
  }
}

let fieldNumber = 0;

/** A labelled field. `field`: name, label, and type (text, number, select, checkbox, datetime-local, …),
 * value, options ([value, text]), hint, required, dir, and other attributes of an input. */
export function fieldOf(field) {
  const { name, label, type = "text", value = "", options = null, hint = "", ...more } = field;
  const id = `f-${name}-${++fieldNumber}`;
  const described = hint ? `${id}-hint` : null;
  const control = options
    ? h("select", { id, name, "aria-describedby": described, ...more },
        options.map(([key, text]) => h("option", { value: key }, text)))
    : type === "textarea"
      ? h("textarea", { id, name, rows: 4, "aria-describedby": described, ...more })
      : h("input", { id, name, type, "aria-describedby": described, autocomplete: "off", ...more });
  if (type === "checkbox") control.checked = Boolean(value);
  else control.value = value;
  return h("div", { class: type === "checkbox" ? "field check" : "field" },
    h("label", { for: id }, label), control, hint && h("p", { class: "hint", id: described }, hint));
}

/** The values of a form's fields by name. */
export function valuesOf(form) {
  const values = {};
  for (const control of form.elements) {
    if (control.name) values[control.name] = control.type === "checkbox" ? control.checked : control.value.trim();
  }
  return values;
}

/** A row of filters, sent together. `act` gets the values. */
export function filters(fields, act, label = "Show") {
  const form = h("form", { class: "filters", on: { submit: (event) => {
    event.preventDefault();
    act(valuesOf(form));
  } } }, fields.map(fieldOf), h("button", { type: "submit", class: "primary" }, label));
  return form;
}

/** Facts as names and values. */
export function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
