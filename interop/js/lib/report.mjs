// Runs scenarios within their time limits, prints one JSON line for each and
// keeps the score.
const SCENARIO_LIMIT_MS = 60_000
const CELL_LIMIT_MS = 120_000

export class Report {
  #rows = []

  /** A cell is one peer, direction and handshake. */
  cell (peer, direction, ice) {
    return new Cell({ peer, direction, ice }, row => {
      this.#rows.push(row)
      console.log(JSON.stringify(row))
    })
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
  #record
  #deadline = Date.now() + CELL_LIMIT_MS

  constructor (name, record) {
    this.#name = name
    this.#record = record
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

    this.#record({ ...this.#name, scenario, ok, ms: Date.now() - start, detail: detail ?? {} })
    return ok
  }
}

/** Rejects when `promise` takes longer than `ms`. */
export async function withLimit (promise, ms) {
  let timer
  const limit = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${Math.round(ms / 1000)} s`)), ms)
  })

  try {
    return await Promise.race([promise, limit])
  } finally {
    clearTimeout(timer)
  }
}
