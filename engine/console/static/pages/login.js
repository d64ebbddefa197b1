// Log in with an admin key, or with an API key of an organisation.

import { logIn } from "../api.js";
import { fieldOf, notice, problemNotice, valuesOf } from "../blocks.js";
import { fill, h } from "../dom.js";
import { themeSwitch } from "../theme.js";

/** The page. `why`: what is to be known before; `entered` gets the facts of the session. */
export function logInForm(why, entered) {
  const answer = h("div", {}, why && notice(why));
  const go = h("button", { type: "submit", class: "primary" }, "Log in");
  const form = h("form", { on: { submit: async (event) => {
    event.preventDefault();
    go.disabled = true;
    fill(answer);
    try {
      entered(await logIn(valuesOf(form).key));
    } catch (problem) {
      fill(answer, problemNotice(problem));
      go.disabled = false;
      form.elements.key.select();
    }
  } } },
  fieldOf({ name: "key", label: "Key", type: "password", required: true, maxlength: 512, spellcheck: "false",
    autocomplete: "off",
    hint: "An admin key, or an API key of an organisation. It is sent once and is not kept in this browser." }),
  answer, go);
  return h("main", { class: "login" }, h("h1", {}, "smsengine"), form, h("footer", {}, themeSwitch()));
}
