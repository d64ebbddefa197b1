// Which organisation a page of operators is about.

import { get } from "./api.js";

const KEY = "smsengine-organisation";

/** The fields that ask for the organisation, of an operator; none of an organisation. */
export async function organisationField({ session, query, signal }) {
  if (session.kind === "organisation") return [];
  const found = await get("/admin/organisations", { limit: 1000 }, { signal });
  // More than can be chosen from.
  if (found.next !== null) {
    const id = query.get("organisation") || sessionStorage.getItem(KEY) || "1";
    return [{ name: "organisation", label: "Organisation id", type: "number", min: 1, required: true, value: id }];
  }
  const value = query.get("organisation") || sessionStorage.getItem(KEY) || String(found.organisations[0]?.id ?? "");
  const options = found.organisations.map((one) => [String(one.id), `${one.name} (${one.id})`]);
  if (value && !options.some(([id]) => id === value)) options.push([value, `organisation ${value}`]);
  return [{ name: "organisation", label: "Organisation", options, value }];
}

/** The path of its calls: of operators below its own, of an organisation those of the API. */
export function pathOf(session, organisation) {
  if (session.kind === "organisation") return "";
  sessionStorage.setItem(KEY, organisation);
  return `/admin/organisations/${encodeURIComponent(organisation)}`;
}
