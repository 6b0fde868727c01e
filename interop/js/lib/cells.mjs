// The cells: js-libp2p dials the node under test, or the other way round.
import { openFirstContact } from './first-contact.mjs'
import {
  hostAddress, pickAddr, startDial, startListener, withWrongCerthash
} from './node-under-test.mjs'
import { withLimit } from './report.mjs'

// Both sides must notice a close without waiting for a timeout.
const NOTICE_LIMIT_MS = 1000

// Firefox gives up after 9 s without answers, Chromium after 5.
const CONSENT_LIMIT_MS = 20_000

const ON_ONE_CONNECTION = [
  'identify',
  'ping-x20',
  'echo-1MiB',
  'echo-16MiB',
  'half-close',
  'streams-100-in-turn',
  'streams-100-held',
  'streams-100-parallel',
  'stream-close'
]

/**
 * js-libp2p on `host` dials `listener`. Returns a function that runs the idle
 * scenario, which the caller starts together with those of other cells.
 */
export async function itDials ({ cell, host, ice, program, listener, cleanup }) {
  const addr = pickAddr(listener.addrs, 'ip4')
  // A dial that must fail only fails when it times out, so it runs beside the rest.
  const wrongCerthash = host.call('mustNotConnect', withWrongCerthash(addr))
  wrongCerthash.catch(() => {})

  await cell.scenario('first-contact', async () => await firstContact(host, ice))
  const dialer = new RestartingDialer(host, addr)

  if (!await cell.scenario('connect', async () => await dialer.run('connect'))) {
    // All else would only repeat this failure, slowly.
    return async () => {}
  }

  for (const name of ON_ONE_CONNECTION) {
    await cell.scenario(name, async () => await dialer.run(name))
  }

  await cell.scenario('connection-close', async () => await connectionClose(dialer, listener))
  await cell.scenario('remote-close', async () => await remoteClose(host, program, cleanup))

  const ip6 = pickAddr(listener.addrs, 'ip6')
  if (ip6 != null) {
    await cell.scenario('ip6', async () => await connectOnce(host, ip6))
  }

  await cell.scenario('wrong-certhash', async () => await wrongCerthash)

  return async seconds => {
    await cell.scenario('idle', async () => {
      await host.call('create', 'idle', addr)
      return await host.call('idle', 'idle', seconds)
    }, seconds * 1000)
  }
}

/** The node under test dials the js-libp2p listener of this folder. */
export async function itIsDialed ({ cell, program, jsListener, ice, cleanup }) {
  const listener = cleanup.add(await startListener(jsListener))
  const addr = pickAddr(listener.addrs, 'ip4')
  const dial = async (...args) => await runDial(program, [addr, '--ice', ice, ...args], cleanup)

  if (!await cell.scenario('connect', async () => expectSuccess(await dial()))) {
    await listener.stop()
    return
  }

  await cell.scenario('ping-x20', async () => expectSuccess(await dial('--pings', '20')))
  await cell.scenario('echo-1MiB', async () => expectSuccess(await dial('--echo', `${1 << 20}`)))
  await cell.scenario('echo-16MiB', async () => expectSuccess(await dial('--echo', `${16 << 20}`)))
  await cell.scenario('streams-100', async () => expectSuccess(await dial('--streams', '100')))
  await cell.scenario('everything', async () => expectSuccess(
    await dial('--pings', '20', '--echo', `${1 << 20}`, '--streams', '100')
  ))
  await cell.scenario('connection-close', async () => await dialerLeaves(dial, listener))
  await cell.scenario('remote-close', async () => await listenerHangsUp(program, addr, ice, listener, cleanup))
  await cell.scenario('wrong-certhash', async () => {
    const outcome = await runDial(program, [withWrongCerthash(addr), '--ice', ice], cleanup)

    if (outcome.code === 0) {
      throw new Error('the dial succeeded')
    }

    return { error: outcome.stderr.split('\n').at(-1) }
  })

  await listener.stop()
}

/** A dialer that starts afresh after a failure, so that one failure is reported once. */
class RestartingDialer {
  #host
  #addr
  #id
  #created = 0

  constructor (host, addr) {
    this.#host = host
    this.#addr = addr
  }

  async run (scenario) {
    if (this.#id == null) {
      this.#id = `main-${this.#created++}`
      await this.#host.call('create', this.#id, this.#addr)
    }

    const id = this.#id
    this.#id = undefined
    // A scenario that never ends leaves no dialer behind.
    const result = await this.#host.call('run', id, scenario).catch(async err => {
      this.#host.call('stop', id).catch(() => {})
      throw err
    })
    this.#id = id
    return result
  }
}

/** Proves the handshake with the first packet, seen on a socket of our own. */
async function firstContact (host, ice) {
  const contact = await openFirstContact(hostAddress(), ice)

  try {
    host.call('mustNotConnect', contact.addr).catch(() => {})
    return await withLimit(contact.check(), 10_000)
  } finally {
    contact.stop()
  }
}

/** js-libp2p closes; the node under test must notice. */
async function connectionClose (dialer, listener) {
  const { local, closed, at } = await dialer.run('connection-close')
  const noticed = await listener.closedAt(local, NOTICE_LIMIT_MS) - at
  return { closed, noticed }
}

/**
 * A listener of its own ends on SIGTERM. Open streams must end at once. In
 * browsers js-libp2p takes the connection for closed only when ICE consent
 * fails: neither SCTP nor DTLS closing changes `connectionState`.
 */
async function remoteClose (host, program, cleanup) {
  const listener = cleanup.add(await startListener(program))
  await host.call('create', 'remote-close', pickAddr(listener.addrs, 'ip4'))

  try {
    await host.call('awaitRemoteClose', 'remote-close')
    const start = Date.now()
    await listener.stop()
    const stopped = Date.now() - start
    const { stream, connection } = await host.call('remoteClose', 'remote-close')
    const noticed = { stream: stream - start, connection: connection - start, stopped }
    const connectionLimit = host.noticesClose ? NOTICE_LIMIT_MS : CONSENT_LIMIT_MS

    if (noticed.stream > NOTICE_LIMIT_MS || noticed.connection > connectionLimit) {
      throw new Error(`ended for js-libp2p after SIGTERM, in ms: ${JSON.stringify(noticed)}`)
    }

    return noticed
  } finally {
    await host.call('stop', 'remote-close')
  }
}

async function connectOnce (host, addr) {
  await host.call('create', 'once', addr)

  try {
    return { ...await host.call('connectAndPing', 'once'), addr: addr.split('/').slice(0, 5).join('/') }
  } finally {
    await host.call('stop', 'once')
  }
}

/** The node under test ends after its work; js-libp2p must notice. */
async function dialerLeaves (dial, listener) {
  const outcome = await dial()
  const ended = Date.now()
  expectSuccess(outcome)
  return { noticed: await listener.closedAt(listener.lastOpened, NOTICE_LIMIT_MS) - ended }
}

/** js-libp2p closes while the node under test pings; that must end with an error. */
async function listenerHangsUp (program, addr, ice, listener, cleanup) {
  const dial = startDial(program, [addr, '--ice', ice, '--pings', '1000', '--echo', '1'])
  cleanup.add(dial)

  // Long enough to connect, identify and start to ping.
  const early = await Promise.race([dial.done, new Promise(resolve => setTimeout(resolve, 2000))])

  if (early != null) {
    throw new Error(`the dial ended by itself, exit code ${early.code}: ${early.stderr}`)
  }

  const start = Date.now()
  listener.signal('SIGUSR2')
  const { code, stderr } = await dial.done
  const noticed = Date.now() - start

  if (code === 0 || noticed > NOTICE_LIMIT_MS) {
    throw new Error(`exit code ${code} after ${noticed} ms: ${stderr}`)
  }

  return { noticed, error: stderr.split('\n').at(-1) }
}

async function runDial (program, args, cleanup) {
  const dial = startDial(program, args)
  cleanup.add(dial)

  try {
    return await withLimit(dial.done, 60_000)
  } finally {
    dial.stop()
    cleanup.delete(dial)
  }
}

function expectSuccess ({ code, signal, stdout, stderr }) {
  if (code !== 0) {
    throw new Error(`exit code ${code ?? signal}: ${stderr}`)
  }

  return stdout.filter(({ result }) => result !== 'ping')
}
