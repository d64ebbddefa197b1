// Tables that keep their rows: an update changes only the cells that differ, so that focus, selection and
// the place of a pointer stay where they are while numbers move.

import { button, fill, h, say, state } from "./dom.js";
import { json } from "./format.js";

/** Columns: `title`, `cell(row)` → a text, a number, a node, {text, tone} for a state, or {text, href} for a
 * link; `number` (aligned right), `controls(row)` → [{label, act, danger}], `dir`, `code`. */
export class Table {
  /** `key(row)`: a text that names the row. `caption`: what the table shows. */
  constructor({ caption, columns, key, emptyText = "Nothing here." }) {
    this._columns = columns;
    this._key = key;
    this._rows = new Map();
    this._body = h("tbody");
    this._empty = h("p", { class: "quiet-line" }, emptyText);
    const head = h("tr", {}, columns.map((one) =>
      h("th", { scope: "col", class: classOf(one) },
        one.controls ? h("span", { class: "visually-hidden" }, one.title) : one.title)));
    this._region = h("div", { class: "table", role: "region", tabindex: "0", "aria-label": caption },
      h("table", {}, h("caption", { class: "visually-hidden" }, caption), h("thead", {}, head), this._body));
    this.element = h("div", { class: "block" }, this._region, this._empty);
  }

  /** What is said while there are no rows, from now on. */
  sayEmpty(text) {
    say(this._empty, text);
  }

  /** Show these rows, in this order. */
  update(rows) {
    const seen = new Set();
    let before = null;
    for (const row of rows) {
      const key = this._key(row);
      seen.add(key);
      let kept = this._rows.get(key);
      if (!kept) {
        kept = this._made();
        this._rows.set(key, kept);
      }
      kept.row = row;
      this._columns.forEach((column, place) => this._cell(kept, column, place));
      const next = before ? before.nextSibling : this._body.firstChild;
      if (next !== kept.element) this._body.insertBefore(kept.element, next);
      before = kept.element;
    }
    const focused = this._body.contains(document.activeElement);
    for (const [key, kept] of this._rows) {
      if (!seen.has(key)) {
        kept.element.remove();
        this._rows.delete(key);
      }
    }
    this._region.hidden = rows.length === 0;
    this._empty.hidden = rows.length > 0;
    // The row with the focus has gone.
    if (focused && !this._body.contains(document.activeElement)) this._region.focus();
    return this;
  }

  _made() {
    const cells = this._columns.map((column, place) =>
      h(place === 0 ? "th" : "td", { scope: place === 0 ? "row" : null, class: classOf(column), dir: column.dir }));
    return { element: h("tr", {}, cells), cells, signs: [], row: null };
  }

  _cell(kept, column, place) {
    const cell = kept.cells[place];
    if (column.controls) {
      const controls = column.controls(kept.row).filter(Boolean);
      const sign = controls.map((one) => one.label + (one.name ?? "")).join("\n");
      if (kept.signs[place] === sign) return;
      kept.signs[place] = sign;
      // Which row it is, is looked up when it is used: the row may have changed since.
      fill(cell, controls.map((one, number) => button(one.label, () => {
        column.controls(kept.row).filter(Boolean)[number]?.act();
      }, { danger: one.danger, label: one.name ? `${one.label} ${one.name}` : null })));
      return;
    }
    const value = column.cell(kept.row);
    if (value instanceof Node) {
      fill(cell, value);
      kept.signs[place] = null;
      return;
    }
    const sign = value && typeof value === "object" ? json(value) : String(value ?? "");
    if (kept.signs[place] === sign) return;
    kept.signs[place] = sign;
    if (value && typeof value === "object") {
      fill(cell, value.href ? h("a", { href: value.href }, value.text) : state(value.text, value.tone));
    } else {
      cell.textContent = sign;
    }
  }
}

function classOf(column) {
  return [column.number && "number", column.controls && "controls", column.code && "code", column.wide && "wide"]
    .filter(Boolean).join(" ") || null;
}
