// Runs the program under test as a listener: a peer program of the contract in
// ../../README.md, or the `node` example, which knows less of it.
import { spawn, spawnSync } from 'node:child_process'
import { networkInterfaces } from 'node:os'
import { createInterface } from 'node:readline'
import { Tail } from './tail.mjs'

const START_LIMIT_MS = 20_000

// The example reports closed connections and failed streams in its log only.
const LOG = { RUST_LOG: 'warn,libp2p_swarm=debug,node=debug' }

// A wildcard listener prints its addresses one by one.
const ADDRESSES_SETTLED_MS = 300

/** The program and what it can do. */
export class Program {
  #path

  constructor (path) {
    this.#path = path
    this.version = this.#version()
  }

  /** A listener on `addr` that has printed its addresses; `env` is added to its environment. */
  async listen (addr, { seed, env } = {}) {
    const args = ['listen', addr, ...(seed != null ? ['--seed', `${seed}`] : [])]
    // Only what answers to `version` knows `--events`.
    const child = this.#spawn(this.version != null ? [...args, '--events'] : args, env)
    const listener = new Listener(child)

    try {
      await listener.waitForAddrs()
      return listener
    } catch (err) {
      await listener.stop()
      throw err
    }
  }

  #version () {
    const [command, ...first] = this.#command()
    const { status, stdout } = spawnSync(command, [...first, 'version'], { encoding: 'utf8', timeout: START_LIMIT_MS })
    return status === 0 ? parse(stdout) : undefined
  }

  #spawn (args, env) {
    const [command, ...first] = this.#command()
    return spawn(command, [...first, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...LOG, NO_COLOR: '1', RUST_BACKTRACE: '1', ...process.env, ...env }
    })
  }

  #command () {
    return this.#path.endsWith('.mjs') ? [process.execPath, this.#path] : [this.#path]
  }
}

/** A listening process. */
class Listener {
  addrs = []
  log = new Tail()
  #child
  #exit
  #closed = new Map()
  #failedStreams = new Map()

  constructor (child) {
    this.#child = child
    this.#exit = new Promise(resolve => child.once('exit', resolve))
    createInterface({ input: child.stdout }).on('line', line => this.#onLine(line))
    createInterface({ input: child.stderr }).on('line', line => this.#onLog(line))
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
    return await reported(this.#closed, peer, limitMs, 'the close')
  }

  /** What the listener reported about a stream of `peer` that failed. */
  async failedStream (peer, limitMs) {
    return await reported(this.#failedStreams, peer, limitMs, 'a failed stream')
  }

  /** Ends the listener the way it is meant to end. */
  async stop () {
    this.#child.kill('SIGTERM')
    const kill = setTimeout(() => this.#child.kill('SIGKILL'), 5000)
    await this.#exit
    clearTimeout(kill)
  }

  /** Ends it with no chance to say goodbye. */
  async kill () {
    this.#child.kill('SIGKILL')
    await this.#exit
  }

  #onLine (line) {
    this.log.push(line)
    const { addr, event, peer } = parse(line)

    if (addr != null) {
      this.addrs.push(addr)
    }

    if (event === 'closed') {
      this.#closed.set(peer, Date.now())
    }
  }

  #onLog (line) {
    this.log.push(line)
    const peer = /PeerId\("(\w+)"\)|peer=(\w+)/.exec(line)?.slice(1).find(Boolean)

    if (line.includes('Connection closed')) {
      this.#closed.set(peer, Date.now())
    }

    if (/a (served )?stream failed/.test(line)) {
      this.#failedStreams.set(peer, /error=(.*)/.exec(line)?.[1])
    }
  }
}

async function reported (reports, peer, limitMs, what) {
  for (let waited = 0; waited < limitMs; waited += 10) {
    if (reports.has(peer)) {
      return reports.get(peer)
    }

    await new Promise(resolve => setTimeout(resolve, 10))
  }

  throw new Error(`the listener did not report ${what} within ${limitMs} ms`)
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

/** The part of an address that a listener is told. */
export function listenPart (addr) {
  return addr.split('/').slice(0, 6).join('/')
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

/** Whether an address other than loopback and link-local exists for IPv6. */
export function hasIp6 () {
  return Object.values(networkInterfaces()).flat()
    .some(({ family, internal, address }) => family === 'IPv6' && !internal && !address.startsWith('fe80'))
}

function parse (line) {
  try {
    return JSON.parse(line) ?? {}
  } catch {
    return {}
  }
}
