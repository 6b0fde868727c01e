// Bytes in both directions of a simulated session that show loss, repetition and changes of order.
import assert from 'node:assert/strict'
import { type Link, type Simulation } from './simulation.ts'

/** Bytes that differ, so that a change of order shows. */
const pattern = (from: number, length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, index) => ((from + index) * 2_654_435_761) >>> 24)

/** Both directions with a pattern in each, and whether all of it arrived as it was sent. */
export class Load {
  readonly #simulation: Simulation
  #typed = 0
  #printed = 0

  constructor (simulation: Simulation) {
    this.#simulation = simulation
  }

  add (typed: number, printed: number): void {
    const { session, now, remote } = this.#simulation
    assert.ok(session.write(pattern(this.#typed, typed), now))
    this.#typed += typed

    for (let left = printed; left > 0; left -= 4000) {
      remote.output(pattern(this.#printed, Math.min(4000, left)))
      this.#printed += Math.min(4000, left)
    }
  }

  assertExact (): void {
    const { input, output } = this.#simulation
    assert.ok(Buffer.from(input).equals(Buffer.from(pattern(0, this.#typed))), `input differs, ${input.length} of ${this.#typed}`)
    assert.ok(Buffer.from(output).equals(Buffer.from(pattern(0, this.#printed))), `output differs, ${output.length} of ${this.#printed}`)
  }
}

/** Delays of the channel and of everything else. */
export const skewed = (channel: number, main: number) => (link: Link): number => link.kind === 'channel' ? channel : main
