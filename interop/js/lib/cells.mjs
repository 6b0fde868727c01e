// One cell: js-libp2p in one browser, with one handshake, dials the program
// under test. What mostly waits runs beside the rest.
import { openFirstContact } from './first-contact.mjs'
import { hasIp6, hostAddress, listenPart, pickAddr, withWrongCerthash } from './node-under-test.mjs'
import { withLimit } from './time.mjs'

// Both sides must notice a close without waiting for a timeout.
const NOTICE_LIMIT_MS = 1000

// Both sides must notice that the other one is gone.
const GONE_LIMIT_MS = 30_000

const ON_ONE_CONNECTION = [
  'identify',
  'ping-x20',
  'echo-1MiB',
  'echo-16MiB',
  'half-close',
  'streams-100-in-turn',
  'streams-100-held',
  'streams-100-parallel',
  'streams-1000-in-turn',
  'stream-close'
]

let seeds = 1

/**
 * Runs a cell. Returns a function that waits for what runs beside and then
 * kills the browser, which the caller calls together with those of other cells.
 */
export async function runCell ({ cell, host, ice, program, listener, idle, cleanup }) {
  const addr = pickAddr(listener.addrs, 'ip4')
  const beside = []
  const aside = (name, body, extraMs) => beside.push(cell.scenario(name, body, extraMs))
  const finish = async () => {
    await Promise.all(beside)
    await cell.scenario('dialer-killed', async () => await browserKilled(host, addr, listener))
    await host.stop()
  }

  await cell.scenario('first-contact', async () => await firstContact(host, ice))
  const dialer = new RestartingDialer(host, addr)

  if (!await cell.scenario('connect', async () => await dialer.run('connect'))) {
    // All else would only repeat this failure, slowly.
    return async () => await host.stop()
  }

  if (program.version?.peer === 'libp2p-rtc') {
    await withCookie(cell, host, program, cleanup)
  }

  aside('wrong-certhash', async () => await host.call('mustNotConnect', withWrongCerthash(addr)))
  aside('listener-killed', async () => await nodeKilled(host, program, cleanup))

  if (idle > 0) {
    aside('idle', async () => {
      await host.call('create', 'idle', addr)
      return await host.call('idle', 'idle', idle)
    }, idle * 1000)
  }

  for (const name of ON_ONE_CONNECTION) {
    await cell.scenario(name, async () => await dialer.run(name))
  }

  if (program.version != null) {
    await cell.scenario('reset', async () => await dialer.run('reset'))
  } else {
    cell.skip('reset', 'only a full peer program serves /reset/1.0.0')
  }

  await cell.scenario('reset-by-js', async () => await resetByJs(dialer, listener))
  await cell.scenario('close-by-dialer', async () => await connectionClose(dialer, listener))
  await restarts(cell, host, program, cleanup)

  if (hasIp6()) {
    await cell.scenario('ip6', async () => await overIp6(host, program, cleanup))
  }

  return finish
}

/** A cell of a browser that forbids to rewrite the offer, which handshake v1 needs. */
export async function runRefusingCell ({ cell, host, listener }) {
  const addr = pickAddr(listener.addrs, 'ip4')
  await cell.scenario('munging-refused', async () => await host.call('mungingIsRefused', addr))
  await host.stop()
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

/** js-libp2p resets a stream; the program under test must get an error, not the end of the stream. */
async function resetByJs (dialer, listener) {
  const { local } = await dialer.run('reset-by-js')
  return { error: await listener.failedStream(local, NOTICE_LIMIT_MS) }
}

/** js-libp2p closes; the program under test must notice. */
async function connectionClose (dialer, listener) {
  const { local, closed, at } = await dialer.run('close-by-dialer')
  const noticed = await listener.closedAt(local, NOTICE_LIMIT_MS) - at
  return { closed, noticed }
}

/** A listener of its own ends on SIGTERM, comes back with the same seed, and is dialed by its old address. */
async function restarts (cell, host, program, cleanup) {
  const seed = seeds++
  const first = cleanup.add(await program.listen(`/ip4/${hostAddress()}/udp/0/webrtc-direct`, { seed }))
  const addr = pickAddr(first.addrs, 'ip4')

  await cell.scenario('close-by-listener', async () => {
    return await noticesEnd(host, 'close-by-listener', addr, NOTICE_LIMIT_MS, async () => await first.stop())
  })
  await cell.scenario('restart', async () => {
    await first.stop()
    const second = cleanup.add(await program.listen(listenPart(addr), { seed }))

    try {
      if (!second.addrs.includes(addr)) {
        throw new Error(`the address changed from ${addr} to ${second.addrs.join(' ')}`)
      }

      return await connectOnce(host, 're-dial', addr)
    } finally {
      await second.stop()
    }
  })
}

/** The program under test gets SIGKILL; js-libp2p must notice in the end. */
async function nodeKilled (host, program, cleanup) {
  const listener = cleanup.add(await program.listen(`/ip4/${hostAddress()}/udp/0/webrtc-direct`))
  const addr = pickAddr(listener.addrs, 'ip4')
  return await noticesEnd(host, 'listener-killed', addr, GONE_LIMIT_MS, async () => await listener.kill())
}

/** How long js-libp2p takes to notice that `end` ended its connection to `addr`. */
async function noticesEnd (host, id, addr, limitMs, end) {
  await host.call('create', id, addr)

  try {
    await host.call('awaitEnd', id)
    const start = Date.now()
    await end()
    const ended = Date.now() - start
    const { stream, connection } = await host.call('end', id)
    const noticed = { stream: stream - start, connection: connection - start, ended }

    if (Math.max(noticed.stream, noticed.connection) > limitMs) {
      throw new Error(`ended for js-libp2p, in ms: ${JSON.stringify(noticed)}`)
    }

    return noticed
  } finally {
    await host.call('stop', id)
  }
}

/** The browser gets SIGKILL; the program under test must notice in the end. */
async function browserKilled (host, addr, listener) {
  await host.call('create', 'killed', addr)
  const { local } = await host.call('connectAndPing', 'killed')
  const start = Date.now()
  host.kill()
  return { noticed: await listener.closedAt(local, GONE_LIMIT_MS) - start }
}

/** A listener of its own asks for a DTLS cookie before it keeps anything of a dialer. */
async function withCookie (cell, host, program, cleanup) {
  const env = { INTEROP_COOKIES: '1' }
  const listener = cleanup.add(await program.listen(`/ip4/${hostAddress()}/udp/0/webrtc-direct`, { env }))
  const addr = pickAddr(listener.addrs, 'ip4')
  await cell.scenario('connect-with-cookie', async () => await connectOnce(host, 'cookie', addr))
  await listener.stop()
}

async function overIp6 (host, program, cleanup) {
  const listener = cleanup.add(await program.listen('/ip6/::/udp/0/webrtc-direct'))

  try {
    return await connectOnce(host, 'ip6', pickAddr(listener.addrs, 'ip6'))
  } finally {
    await listener.stop()
  }
}

async function connectOnce (host, id, addr) {
  await host.call('create', id, addr)

  try {
    return { ...await host.call('connectAndPing', id), addr: listenPart(addr) }
  } finally {
    await host.call('stop', id)
  }
}
