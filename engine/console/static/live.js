// The state of the engine as it comes, once a second, and the last minutes of latency.

const URL = "/console/live";
const SAMPLES_MAX = 600;
// After so long without anything the connection counts as lost, milliseconds.
const SILENT_MS = 15_000;
const AGAIN_MS = 3_000;

export class Live {
  /** `ask`: checks whether the session is still there, when the stream is refused. */
  constructor(ask) {
    this.status = null;
    this.at = 0;
    // "connecting", "connected", "lost"
    this.connection = "connecting";
    this.samples = { express: [], normal: [] };
    this._ask = ask;
    this._listeners = new Set();
    this._source = null;
    this._watch = null;
    this._again = null;
  }

  start() {
    this._open();
    this._watch = setInterval(() => {
      if (this.connection === "connected" && Date.now() - this.at > SILENT_MS) this._lost();
    }, 1_000);
  }

  end() {
    this._close();
    clearInterval(this._watch);
    clearTimeout(this._again);
    this._listeners.clear();
  }

  /** Call `listener` now and after each change, until the signal. */
  follow(listener, signal) {
    this._listeners.add(listener);
    signal.addEventListener("abort", () => this._listeners.delete(listener));
    listener();
  }

  _open() {
    this._close();
    const source = new EventSource(URL);
    this._source = source;
    source.addEventListener("status", (event) => this._take(event.data));
    source.addEventListener("error", () => this._lost());
  }

  _close() {
    this._source?.close();
    this._source = null;
  }

  _take(data) {
    this.status = JSON.parse(data);
    this.at = Date.now();
    for (const [queue, samples] of Object.entries(this.samples)) {
      const flow = this.status.flow?.queues?.[queue];
      samples.push({ at: this.at / 1000, p50: flow?.p50_ms ?? null, p99: flow?.p99_ms ?? null });
      if (samples.length > SAMPLES_MAX) samples.shift();
    }
    this._set("connected");
  }

  /** The pause is our own, because a browser tries a stream that was refused never again. */
  _lost() {
    this._close();
    this._set("lost");
    clearTimeout(this._again);
    this._again = setTimeout(async () => {
      try {
        if (await this._ask()) this._open();
      } catch {
        this._lost();
      }
    }, AGAIN_MS);
  }

  _set(connection) {
    this.connection = connection;
    for (const listener of this._listeners) listener();
  }
}
