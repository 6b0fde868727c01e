/** Prints one JSON line, whole and at once, even if the process ends right after. */
import { writeSync } from 'node:fs'

export function print (value) {
  let line = Buffer.from(`${JSON.stringify(value)}\n`)

  while (line.length > 0) {
    line = line.subarray(writeSync(1, line))
  }
}
