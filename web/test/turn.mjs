// A real TURN server, coturn, and pages that have no other way than by it.
import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const START_LIMIT_MS = 10_000

/** Whether there is such a program (Debian: coturn). */
export const hasTurn = () => spawnSync('turnserver', ['--version']).error == null

/** An address of this machine that browsers use; without a network they have loopback. */
const ownAddress = () =>
  Object.values(networkInterfaces()).flat().find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1'

export class Turn {
  secret
  #host
  #port
  #child
  #folder = mkdtempSync(join(tmpdir(), 'socketpipe-turn-'))
  #log = []

  /** Not started yet. The program is told this secret, so that it makes credentials with it. */
  static async create (secret) {
    const turn = new Turn()
    turn.secret = secret
    turn.#host = ownAddress()
    // A port that is free for both programs, which are told it before they run.
    const probe = createSocket('udp4')
    probe.bind(0, turn.#host)
    await once(probe, 'listening')
    turn.#port = probe.address().port
    probe.close()
    // Nothing is left running, however this process ends.
    process.once('exit', () => turn.#child?.kill('SIGKILL'))
    return turn
  }

  get url () {
    return `turn:${this.#host}:${this.#port}?transport=udp`
  }

  /** Starts it anew, with this secret: it takes no other credentials. */
  async start (secret) {
    await this.stop()
    this.#log = []
    this.#child = spawn('turnserver', [
      '-v', '-n', '--listening-ip', this.#host, '--relay-ip', this.#host, '--listening-port', String(this.#port),
      '--realm', 'test', '--use-auth-secret', '--static-auth-secret', secret, '--allow-loopback-peers', '--no-tls', '--no-dtls',
      '--no-cli', '--simple-log', '--log-file', 'stdout', '--userdb', join(this.#folder, 'db'), '--pidfile', join(this.#folder, 'pid')
    ], { stdio: ['ignore', 'pipe', 'ignore'] })
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('the TURN server does not start')), START_LIMIT_MS)
      this.#child.once('error', reject)
      createInterface({ input: this.#child.stdout }).on('line', line => {
        this.#log.push(line)

        if (line.includes('Total General servers')) {
          clearTimeout(timer)
          resolve()
        }
      })
    })
  }

  /** How often it has said this of an allocation for this user. */
  said (user, text) {
    return this.#log.filter(line => line.includes(`<${user}>`) && line.includes(text)).length
  }

  async stop () {
    if (this.#child != null && this.#child.exitCode == null) {
      this.#child.kill('SIGKILL')
      await once(this.#child, 'exit')
    }
  }

  async end () {
    await this.stop()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** This page connects by TURN servers only, and remembers what it was told of them. */
export async function relayOnly (tab) {
  await tab.evaluateOnNewDocument(() => {
    globalThis.serversSeen = []
    const relayed = configuration => ({ ...configuration, iceTransportPolicy: 'relay' })

    globalThis.RTCPeerConnection = class extends RTCPeerConnection {
      constructor (configuration) {
        super(relayed(configuration))
      }

      setConfiguration (configuration) {
        globalThis.serversSeen.push(...(configuration.iceServers ?? []))
        super.setConfiguration(relayed(configuration))
      }
    }
  })
}
