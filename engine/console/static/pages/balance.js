// Balance: the credit of an organisation and its journal, as the organisation sees it.

import { section } from "../blocks.js";
import { creditBlock } from "../credit.js";
import { add } from "../dom.js";

export function open(view, context) {
  const credit = creditBlock("", context, { balance: "/balance", journal: "/balance/transactions" });
  add(view, [section("Credit", credit.balance.element), section("Journal", credit.journal.element)]);
  credit.load();
}
