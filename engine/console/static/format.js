// How numbers, lengths of time and times are written: as the command line writes them.

export const UNKNOWN = "–";
// One at which no line is broken.
const BLANK = "\u00a0";
const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

/** A whole number with commas. */
export function number(value) {
  return value === null || value === undefined ? UNKNOWN : whole.format(value);
}

/** A whole number in at most six characters: 12,345, 1.2 M. */
export function short(value) {
  if (value === null || value === undefined) return UNKNOWN;
  value = Number(value);
  if (Math.abs(value) < 100_000) return whole.format(value);
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) {
      const part = value / size;
      return `${Math.abs(part) < 100 ? part.toFixed(1) : Math.trunc(part)} ${unit}`;
    }
  }
  return whole.format(value);
}

/** How often a second, in a few digits. */
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return UNKNOWN;
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : short(Math.round(perSecond));
}

/** A length of time, milliseconds, in a few characters; it is never broken between number and unit. */
export function span(ms) {
  if (ms === null || ms === undefined) return UNKNOWN;
  if (ms < 1000) return `${Math.round(ms)}${BLANK}ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)}${BLANK}s`;
  if (seconds < 120) return `${Math.round(seconds)}${BLANK}s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)}${BLANK}min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)}${BLANK}h`;
  return `${Math.round(seconds / 86_400)}${BLANK}days`;
}

// How far values on an axis may be apart, so that no two are written alike: by `short`, `rate` and `span`.
const HOUR_MS = 3_600_000;
export const WHOLE_STEPS = steps(0, 15);
export const RATE_STEPS = steps(-1, 9);
export const SPAN_STEPS = [
  ...steps(0, 3), 10_000, 20_000, 60_000, 120_000, 300_000, 600_000, ...[1, 2, 6, 24, 72, 240].map((hours) => hours * HOUR_MS),
];

/** 1, 2 and 5 times the powers of ten from 10^`least` to 10^`most`. */
function steps(least, most) {
  const powers = Array.from({ length: most - least + 1 }, (_, place) => least + place);
  return powers.flatMap((power) => [1, 2, 5].map((one) => Number(`${one}e${power}`)));
}

/** A part of 1 as a percentage. */
export function percent(part) {
  if (part === null || part === undefined) return UNKNOWN;
  const points = part * 100;
  return `${points.toFixed(points > 99.9 && points < 100 ? 2 : points < 10 || points > 90 ? 1 : 0)} %`;
}

const two = (value) => String(value).padStart(2, "0");

/** A time of day of this browser's time zone, 24 hours. */
export function clock(date) {
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** A day and a time of this browser's time zone; `text` is RFC 3339. */
export function time(text) {
  if (!text) return UNKNOWN;
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return text;
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${clock(date)}`;
}

/** A local time of a field or an address as RFC 3339; what is no time as it is, so that the engine says so. */
export function instant(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : at.toISOString();
}

/** As `time`, with milliseconds. */
export function exactTime(text) {
  const date = new Date(text);
  return `${time(text)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** How long ago something was; `text` is RFC 3339. */
export function ago(text) {
  return text ? `${span(Math.max(0, Date.now() - new Date(text).getTime()))} ago` : UNKNOWN;
}

/** A value as JSON; a whole number that `api.js` holds as a BigInt is written to the unit where the browser can. */
export function json(value) {
  return JSON.stringify(value, (_, one) => typeof one === "bigint" ? JSON.rawJSON?.(String(one)) ?? Number(one) : one);
}

/** "1 message", "2 messages". */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

/** A word of the API as words: `outcome_unknown` → "outcome unknown". */
export function words(name) {
  return String(name).replaceAll("_", " ");
}
