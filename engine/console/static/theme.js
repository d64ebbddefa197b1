// Dark or light: as the system says, until the person chooses.

import { h } from "./dom.js";

const KEY = "smsengine-theme";
const listeners = new Set();
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function apply(theme) {
  document.documentElement.dataset.theme = theme || (system.matches ? "dark" : "light");
  for (const listener of listeners) listener();
}

/** Begin; to be called once, before anything is drawn. */
export function startTheme() {
  apply(chosen());
  system.addEventListener("change", () => apply(chosen()));
}

/** Call `listener` after each change, until the signal. */
export function onThemeChange(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

/** The value of a colour of the style sheet, such as "--ink". */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The control by which the theme is chosen. */
export function themeSwitch() {
  const options = [["", "System"], ["light", "Light"], ["dark", "Dark"]];
  const select = h("select", { on: { change: () => {
    try {
      localStorage.setItem(KEY, select.value);
    } catch {
      // Without storage it is chosen for this page alone.
    }
    apply(select.value);
  } } }, options.map(([value, text]) => h("option", { value }, text)));
  select.value = chosen();
  return h("label", { class: "theme" }, "Theme", select);
}
