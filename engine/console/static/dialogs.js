// Questions before something is changed. Each is asked once; it says what happened, or why it did not.

import { announce, fill, h } from "./dom.js";
import { fieldOf, problemNotice, valuesOf } from "./blocks.js";
import { newOnce } from "./api.js";

/** Ask, and do it.
 *
 * `title`: the question. `text`: what happens. `fields`: what else is to be known. `act(values, once)`: does
 * it, and answers with a sentence on what happened. `label`: the word of the control that does it.
 */
export function ask({ title, text, fields = [], act, label, danger = false }) {
  // One name for one wish: kept when no answer came, so that the same again counts once.
  let once = newOnce();
  let asked = "";
  const opener = document.activeElement;
  const answer = h("div", { class: "answer" });
  const go = h("button", { type: "submit", class: danger ? "danger solid" : "primary" }, label);
  const back = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
  const form = h("form", { on: { submit: async (event) => {
    event.preventDefault();
    go.disabled = true;
    form.setAttribute("aria-busy", "true");
    fill(answer);
    const values = valuesOf(form);
    if (asked && asked !== JSON.stringify(values)) once = newOnce();
    asked = JSON.stringify(values);
    try {
      const done = await act(values, once);
      dialog.close();
      tell(done);
      if (!opener?.isConnected) document.getElementById("main")?.focus();
    } catch (problem) {
      if (problem.status >= 400 && problem.status < 500) once = newOnce();
      fill(answer, problemNotice(problem));
      announce(problem.message);
      go.disabled = false;
    } finally {
      form.removeAttribute("aria-busy");
    }
  } } }, fields.map(fieldOf), answer, h("div", { class: "buttons" }, back, go));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", on: { close: () => dialog.remove() } },
    h("h2", { id: "dialog-title" }, title), text && h("p", {}, text), form);
  document.body.append(dialog);
  dialog.showModal();
  (fields.length ? form.querySelector("input, select, textarea") : back).focus();
}

/** Say what has happened, at the lower edge of the page, until something else has, or it is closed. */
export function tell(text, tone = "good") {
  document.querySelector(".toast")?.remove();
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close this notice",
    on: { click: () => toast.remove() } }, "Close");
  const toast = h("div", { class: `toast ${tone}` }, h("p", {}, text), close);
  document.body.append(toast);
  announce(text);
}
