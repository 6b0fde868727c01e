// Runs scenarios within their time limits, prints one JSON line for each and
// keeps the score.
import { withLimit } from './time.mjs'

const SCENARIO_LIMIT_MS = 60_000
const CELL_LIMIT_MS = 150_000

export class Report {
  #rows = []
  #skipped = 0

  /** Says once which version of a peer is running. */
  version (peer, version) {
    console.log(JSON.stringify({ peer, version }))
  }

  /** A cell is one peer, direction and handshake. */
  cell (peer, direction, ice) {
    return new Cell({ peer, direction, ice }, {
      record: row => {
        this.#rows.push(row)
        console.log(JSON.stringify(row))
      },
      skip: text => {
        this.#skipped++
        console.log(`SKIPPED: ${text}`)
      }
    })
  }

  get skipped () {
    return this.#skipped
  }

  get failed () {
    return this.#rows.filter(row => !row.ok).length
  }

  /** Prints a table of scenarios by cells, the failures again, and the score. */
  printSummary () {
    const name = row => `${row.peer} ${row.direction} ${row.ice}`
    const cells = [...new Set(this.#rows.map(name))]
    const width = Math.max(...this.#rows.map(row => row.scenario.length), 0)

    console.log()
    cells.forEach((cell, i) => console.log(`${' '.repeat(width)} ${'  |   '.repeat(i)}  +-- ${cell}`))

    for (const scenario of new Set(this.#rows.map(row => row.scenario))) {
      const marks = cells.map(cell => {
        const row = this.#rows.find(row => row.scenario === scenario && name(row) === cell)
        return row == null ? '  -   ' : row.ok ? '  ok  ' : ' FAIL '
      })
      console.log(`${scenario.padEnd(width)} ${marks.join('')}`)
    }

    console.log()
    for (const row of this.#rows.filter(row => !row.ok)) {
      console.log(`FAIL ${name(row)} ${row.scenario}: ${row.detail}`)
    }

    console.log(`${this.#rows.length - this.failed} passed, ${this.failed} failed`)
  }
}

class Cell {
  #name
  #report
  #deadline = Date.now() + CELL_LIMIT_MS

  constructor (name, report) {
    this.#name = name
    this.#report = report
  }

  skip (scenario, reason) {
    const { peer, ice } = this.#name
    this.#report.skip(`${scenario} of ${peer} ${ice}: ${reason}`)
  }

  /** Runs `body`; tells whether it succeeded. `extraMs` is time it spends waiting on purpose. */
  async scenario (scenario, body, extraMs = 0) {
    const start = Date.now()
    const left = extraMs > 0 ? SCENARIO_LIMIT_MS : Math.min(SCENARIO_LIMIT_MS, this.#deadline - start)
    let ok = true
    let detail

    try {
      if (left <= 0) {
        throw new Error(`not run: the cell has used up its ${CELL_LIMIT_MS / 1000} s`)
      }

      detail = await withLimit(body(), left + extraMs)
    } catch (err) {
      ok = false
      detail = err.message
    }

    this.#report.record({ ...this.#name, scenario, ok, ms: Date.now() - start, detail: detail ?? {} })
    return ok
  }
}
