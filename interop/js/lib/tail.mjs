// The last lines a process printed, kept as evidence for failures.
import { createInterface } from 'node:readline'

const MAX_LINES = 40

export class Tail {
  #lines = []

  push (line) {
    this.#lines.push(line)

    if (this.#lines.length > MAX_LINES) {
      this.#lines.shift()
    }
  }

  /** Collects the lines of a readable stream. */
  follow (stream) {
    createInterface({ input: stream }).on('line', line => this.push(line))
  }

  toString () {
    return this.#lines.join('\n')
  }
}
