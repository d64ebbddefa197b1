// The console: who is logged in, which page is shown, and what surrounds it.

import { currentSession, logOut, whenSessionEnds } from "./api.js";
import { notice, problemNotice } from "./blocks.js";
import { tell } from "./dialogs.js";
import { add, announce, button, fill, h, say } from "./dom.js";
import { clock } from "./format.js";
import { Live } from "./live.js";
import { startTheme, themeSwitch } from "./theme.js";

const ROOT = "/console";
// By whose key: [path, title, module, whether it is found from another page only].
const PAGES = {
  admin: [
    ["", "Live", "overview"],
    ["queues", "Queues", "queues"],
    ["nodes", "Nodes", "nodes"],
    ["providers", "Providers", "providers"],
    ["organisations", "Organisations", "organisations"],
    ["organisation", "Organisation", "organisation", true],
    ["messages", "Messages", "messages"],
    ["message", "Message", "message", true],
    ["dead-letters", "Dead letters", "dead_letters"],
    ["webhooks", "Webhooks", "webhooks"],
    ["reports", "Reports", "reports"],
    ["plan", "Capacity", "plan"],
    ["changes", "Changes", "changes"],
  ],
  organisation: [
    ["", "Messages", "messages"],
    ["message", "Message", "message", true],
    ["balance", "Balance", "balance"],
    ["reports", "Reports", "reports"],
    ["webhooks", "Webhooks", "webhooks"],
  ],
};
const app = document.getElementById("app");

let session = null;
let live = null;
let leaving = null;
// The state of the connection that the page says.
let shown = "";

startTheme();
whenSessionEnds(() => showLogin("The session has ended. Log in again."));
document.addEventListener("click", follow);
addEventListener("popstate", () => session && showPage());
begin();

async function begin() {
  fill(app, h("p", { class: "quiet-line alone", role: "status" }, "Loading …"));
  try {
    session = await currentSession();
  } catch (problem) {
    fill(app, h("main", { class: "alone" }, problemNotice(problem, begin)));
    return;
  }
  if (session) showShell(false);
  else showLogin();
}

/** The page on which one logs in; `why`: what the person is to know before. */
async function showLogin(why = "") {
  leaving?.abort();
  live?.end();
  [leaving, live, session] = [null, null, null];
  document.querySelectorAll("dialog, .toast").forEach((one) => one.remove());
  const { logInForm } = await import("./pages/login.js");
  document.title = "Log in – smsengine";
  fill(app, logInForm(why, (facts) => {
    session = facts;
    showShell();
  }));
  app.querySelector("input").focus();
}

/** `moved`: whether the person has come from another page, and is to be told of this one. */
function showShell(moved = true) {
  const pages = PAGES[session.kind].filter((page) => !page[3]);
  const links = pages.map(([path, title]) => h("li", {}, h("a", { href: path ? `${ROOT}/${path}` : `${ROOT}/` }, title)));
  const menu = h("nav", { id: "menu", "aria-label": "Pages" }, h("div", { class: "pinned" }, h("ul", {}, links),
    h("div", { class: "account" }, h("p", { class: "who", title: `Scopes: ${session.scopes.join(", ")}` },
      session.kind === "admin" ? `Admin key ${session.name}` : session.name), themeSwitch(),
    button("Log out", leave))));
  const opener = h("button", { type: "button", class: "opener", "aria-expanded": "false", "aria-controls": "menu",
    on: { click: () => toggleMenu(opener.getAttribute("aria-expanded") !== "true") } }, "Menu");
  const connection = h("p", { class: "connection" });
  fill(app,
    h("a", { class: "skip", href: "#main", on: { click: skip } }, "Skip to the content"),
    h("header", {}, opener, h("p", { class: "brand" }, "smsengine"), connection),
    h("div", { class: "body" }, menu,
      h("main", { id: "main", tabindex: "-1" }, h("div", { id: "lost" }), h("div", { id: "page" }))));
  shown = "";
  if (session.kind === "admin") {
    live = new Live(async () => {
      const facts = await currentSession();
      if (facts) session = facts;
      else showLogin("The session has ended. Log in again.");
      return Boolean(facts);
    });
    live.start();
    live.follow(() => showConnection(connection), new AbortController().signal);
  }
  showPage(moved);
}

function toggleMenu(open) {
  document.querySelector(".opener")?.setAttribute("aria-expanded", String(open));
  document.getElementById("menu")?.classList.toggle("open", open);
}

function skip(event) {
  event.preventDefault();
  event.stopPropagation();
  document.getElementById("main").focus();
}

function showConnection(place) {
  const text = { connecting: "connecting", connected: "live", lost: "disconnected" }[live.connection];
  place.className = `connection ${live.connection}`;
  say(place, text);
  place.title = live.at ? `The state is of ${clock(new Date(live.at))}.` : "";
  if (shown === live.connection) return;
  if (live.connection === "lost") {
    const since = live.at ? ` What is shown is of ${clock(new Date(live.at))}.` : "";
    fill(document.getElementById("lost"), notice(`The connection to the engine is lost; it is tried again.${since}`, "warn"));
    announce("The connection to the engine is lost; it is tried again.");
  } else {
    fill(document.getElementById("lost"));
    if (shown === "lost" && live.connection === "connected") announce("The connection to the engine is there again.");
  }
  shown = live.connection;
}

async function leave() {
  try {
    await logOut();
    showLogin("You are logged out.");
  } catch (problem) {
    if (problem.status === 401) showLogin();
    else tell(problem.message, "bad");
  }
}

/** Links inside of the console change the page without loading it. */
function follow(event) {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (link.target || link.hasAttribute("download") || !session) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || !url.pathname.startsWith(ROOT) || url.pathname.startsWith(`${ROOT}/api/`)) return;
  event.preventDefault();
  goTo(url.pathname + url.search);
}

/** Show another page; `replace`: in place of this one in the history. */
function goTo(path, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", path);
  showPage(!replace);
}

async function showPage(moved = true) {
  leaving?.abort();
  const here = new AbortController();
  leaving = here;
  toggleMenu(false);
  document.querySelectorAll("dialog").forEach((one) => one.remove());
  const name = location.pathname.slice(ROOT.length).replaceAll(/^\/|\/$/g, "");
  const found = PAGES[session.kind].find(([path]) => path === name);
  for (const link of document.querySelectorAll("#menu a")) {
    const own = new URL(link.href).pathname.slice(ROOT.length).replace(/^\//, "");
    if (own === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = h("h1", { tabindex: "-1" }, found ? found[1] : "No such page");
  const view = h("div", { class: "page" });
  fill(document.getElementById("page"), title, view);
  document.title = `${title.textContent} – smsengine`;
  if (moved) {
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }
  if (!found) {
    add(view, [h("p", {}, "There is no page at this address. ", h("a", { href: `${ROOT}/` }, "Go to the first page"), ".")]);
    return;
  }
  const context = {
    session, live, signal: here.signal, goTo,
    query: new URLSearchParams(location.search),
    // Whether the key is good for a call that needs this scope.
    may: (scope) => session.scopes.includes(scope) || (session.kind === "admin" && session.scopes.includes("all")),
    setTitle: (text) => {
      say(title, text);
      document.title = `${text} – smsengine`;
    },
    // Note in the address what is shown, so that it can be linked and reloaded.
    remember: (query) => {
      const kept = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
      const text = new URLSearchParams(kept).toString();
      history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""));
    },
  };
  try {
    const page = await import(`./pages/${found[2]}.js`);
    if (!here.signal.aborted) await page.open(view, context);
  } catch (problem) {
    if (!here.signal.aborted) fill(view, problemNotice(problem, () => showPage(false)));
  }
}
