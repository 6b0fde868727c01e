// Everything that must end with the driver: child processes, browsers, servers.

export class Cleanup {
  #entries = new Set()

  /** Registers something with a `stop()`. */
  add (entry) {
    this.#entries.add(entry)
    return entry
  }

  delete (entry) {
    this.#entries.delete(entry)
  }

  /** Stops all of it, the newest first. */
  async stopAll () {
    const entries = [...this.#entries].reverse()
    this.#entries.clear()
    await Promise.allSettled(entries.map(async entry => await entry.stop()))
  }
}
