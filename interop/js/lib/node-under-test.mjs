// Runs the program under test: `node listen` and `node dial` of libp2p-rtc, or
// the js-libp2p listener of this folder, which prints the same lines.
import { spawn } from 'node:child_process'
import { networkInterfaces } from 'node:os'
import { createInterface } from 'node:readline'
import { Tail } from './tail.mjs'

const START_LIMIT_MS = 20_000

// rust-libp2p's swarm logs every closed connection at level debug.
const LOG_CLOSES = { RUST_LOG: 'libp2p_swarm=debug' }

// A wildcard listener prints its addresses one by one.
const ADDRESSES_SETTLED_MS = 300

/** A listening process; use `startListener`. */
class Listener {
  addrs = []
  /** The peer of the newest connection; only the js-libp2p listener reports it. */
  lastOpened
  log = new Tail()
  #child
  #exit
  #closed = new Map()

  constructor (program, args) {
    this.#child = spawnProgram(program, ['listen', ...args], LOG_CLOSES)
    this.#exit = new Promise(resolve => this.#child.once('exit', resolve))
    createInterface({ input: this.#child.stdout }).on('line', line => this.#onLine(line))
    createInterface({ input: this.#child.stderr }).on('line', line => this.#onLog(line))
  }

  async waitForAddrs () {
    const deadline = Date.now() + START_LIMIT_MS

    for (let seen = -1; seen <= 0 || seen !== this.addrs.length;) {
      if (this.#child.exitCode != null || Date.now() > deadline) {
        throw new Error(`the listener prints no address, exit code ${this.#child.exitCode}:\n${this.log}`)
      }

      seen = this.addrs.length
      await new Promise(resolve => setTimeout(resolve, ADDRESSES_SETTLED_MS))
    }
  }

  /** When the listener reported the end of its connection to `peer`, in Unix time. */
  async closedAt (peer, limitMs) {
    for (let waited = 0; waited < limitMs; waited += 10) {
      if (this.#closed.has(peer)) {
        return this.#closed.get(peer)
      }

      await new Promise(resolve => setTimeout(resolve, 10))
    }

    throw new Error(`the listener did not report the close within ${limitMs} ms`)
  }

  signal (signal) {
    this.#child.kill(signal)
  }

  /** Ends the listener the way it is meant to end. */
  async stop () {
    this.#child.kill('SIGTERM')
    const kill = setTimeout(() => this.#child.kill('SIGKILL'), 5000)
    await this.#exit
    clearTimeout(kill)
  }

  #onLine (line) {
    this.log.push(line)
    const { addr, event, peer } = parse(line)

    if (addr != null) {
      this.addrs.push(addr)
    }

    if (event === 'open') {
      this.lastOpened = peer
    }

    if (event === 'close') {
      this.#closed.set(peer, Date.now())
    }
  }

  #onLog (line) {
    this.log.push(line)

    if (line.includes('Connection closed')) {
      const peer = /PeerId\("(\w+)"\)/.exec(line)?.[1]
      this.#closed.set(peer, Date.now())
    }
  }
}

/** Starts a listener and waits for its addresses. */
export async function startListener (program, args = []) {
  const listener = new Listener(program, args)

  try {
    await listener.waitForAddrs()
    return listener
  } catch (err) {
    await listener.stop()
    throw err
  }
}

/** Starts `node dial`; `done` resolves to its exit code and output. */
export function startDial (program, args) {
  const child = spawnProgram(program, ['dial', ...args])
  const stdout = []
  const log = new Tail()
  createInterface({ input: child.stdout }).on('line', line => stdout.push(parse(line)))
  log.follow(child.stderr)

  return {
    done: new Promise(resolve => {
      child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr: log.toString() }))
    }),
    results: stdout,
    stop: () => child.kill('SIGKILL')
  }
}

function spawnProgram (program, args, env = {}) {
  const [command, ...first] = program.endsWith('.mjs') ? [process.execPath, program] : [program]

  return spawn(command, [...first, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...env, NO_COLOR: '1', RUST_BACKTRACE: '1', ...process.env }
  })
}

/**
 * The address that suits browsers best: Firefox never uses loopback, so any
 * other interface comes first.
 */
export function pickAddr (addrs, family) {
  const usable = addrs.filter(addr => addr.startsWith(`/${family}/`) && !addr.startsWith('/ip6/fe80'))
  return usable.find(addr => !isLoopback(addr)) ?? usable[0]
}

export function isLoopback (addr) {
  return addr.startsWith('/ip4/127.') || addr.startsWith('/ip6/::1/')
}

/** The same address with a certhash nobody has a key for. */
export function withWrongCerthash (addr) {
  return addr.replace(/(\/certhash\/uEi.{10})(.)/, (_, head, char) => head + (char === 'A' ? 'B' : 'A'))
}

/** An IPv4 address of this machine, not loopback if there is another. */
export function hostAddress () {
  const addresses = Object.values(networkInterfaces()).flat().filter(({ family }) => family === 'IPv4')
  return (addresses.find(({ internal }) => !internal) ?? addresses[0]).address
}

function parse (line) {
  try {
    return JSON.parse(line) ?? {}
  } catch {
    return {}
  }
}
