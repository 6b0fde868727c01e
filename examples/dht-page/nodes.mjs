// Runs the examples `dht` and `dht_swarm`: nodes for the page to dial, and what they put into the DHT.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Tail } from '../../interop/js/lib/tail.mjs'
import { withLimit } from '../../interop/js/lib/time.mjs'

// A machine that is busy with other things takes long for some thousand handshakes.
const LIMIT_MS = 180_000

/** The programs in `folder`; `listen` is where their nodes listen. */
export class Programs {
  #folder
  #listen

  constructor (folder, listen) {
    this.#folder = folder
    this.#listen = listen
  }

  /** Many nodes in one process, that know each other. */
  async startSwarm (nodes) {
    const swarm = this.#run('dht_swarm', ['serve', '--nodes', `${nodes}`, '--listen', this.#listen])
    const addrs = []

    while (addrs.length < nodes) {
      const { addr } = await swarm.line(({ addr }) => addr != null, 'an address')
      addrs.push(addr)
    }

    await swarm.line(({ event }) => event === 'joined', 'that its nodes know each other')
    return { addrs, stop: swarm.stop }
  }

  /** A node that knows no other. */
  async startNode () {
    const node = this.#dht(['run', '--listen', this.#listen])
    const { addr } = await node.line(({ addr }) => addr != null, 'an address')
    return { addr, stop: node.stop }
  }

  /** A node that has announced that it provides `key`. */
  async startProvider (key, bootstrap) {
    const node = this.#dht(['provide', key, '--listen', this.#listen, '--bootstrap', bootstrap])
    const { addr } = await node.line(({ addr }) => addr != null, 'an address')
    await node.line(({ event }) => event === 'providing', `that it provides ${key}`)
    return { addr, stop: node.stop }
  }

  /** Ends when the record is stored. */
  async put (key, value, bootstrap) {
    const putter = this.#dht(['put', key, value, '--bootstrap', bootstrap])

    try {
      await putter.line(({ event }) => event === 'stored', 'that the record is stored')
    } finally {
      await putter.stop()
    }
  }

  #dht (args) {
    const folder = mkdtempSync(join(tmpdir(), 'dht-page-'))
    const { line, stop } = this.#run('dht', [...args, '--json', '--folder', folder])

    return {
      line,
      stop: async () => {
        await stop()
        rmSync(folder, { recursive: true, force: true })
      }
    }
  }

  #run (program, args) {
    const child = spawn(join(this.#folder, program), args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const exit = once(child, 'exit')
    const lines = new Lines(child)

    /** SIGKILL: no peer is told. */
    const stop = async () => {
      child.kill('SIGKILL')
      await exit
    }
    const line = async (fits, what) => await withLimit(lines.first(fits), LIMIT_MS).catch(async err => {
      await stop()
      throw new Error(`${program} ${args[0]} does not say ${what}: ${err.message}\n${lines.log}`)
    })

    return { line, stop }
  }
}

/** What a process prints: lines of JSON on stdout, reasons on stderr. */
class Lines {
  log = new Tail()
  #seen = []
  #ended
  #waiting = () => {}

  constructor (child) {
    this.#ended = new Promise((_resolve, reject) => {
      child.once('exit', code => reject(new Error(`exit code ${code}`)))
    })
    this.#ended.catch(() => {})
    this.log.follow(child.stderr)
    createInterface({ input: child.stdout }).on('line', line => {
      this.#seen.push(JSON.parse(line))
      this.#waiting()
    })
  }

  /** The first line that fits, of those that came and those to come. */
  async first (fits) {
    const found = new Promise(resolve => {
      this.#waiting = () => {
        const index = this.#seen.findIndex(fits)

        if (index >= 0) {
          const line = this.#seen[index]
          this.#waiting = () => {}
          this.#seen = this.#seen.slice(index + 1)
          resolve(line)
        }
      }
      this.#waiting()
    })
    return await Promise.race([found, this.#ended])
  }
}
