// `peer.mjs dial`: runs what the command line asks for on one connection and
// prints one JSON line for each result.
import { multiaddr } from '@multiformats/multiaddr'
import { describe } from './describe.mjs'
import {
  closeTime, echoOf, halfClose, hangUp, pings, resetByPeer, streamsInParallel, streamsInTurn
} from './exchanges.mjs'
import { dialV2 } from './handshake-v2-node.mjs'
import { createPeer } from './peer.mjs'
import { print } from './print.mjs'
import { fromSeed } from './seed.mjs'
import { delay, withLimit } from './time.mjs'

const SCENARIO_LIMIT_MS = 60_000
const STOP_LIMIT_MS = 2000

// The other side's close must not need a time-out to arrive.
const NOTICE_LIMIT_MS = 1000

const AFTER_IDLE = 1024

export async function dial (addr, options) {
  // js-libp2p dials v1 unless told otherwise.
  if (options.ice === 'v2') {
    dialV2()
  }

  const peer = await createPeer(options.seed != null ? await fromSeed(options.seed) : {})
  const identified = new Promise(resolve => {
    peer.addEventListener('peer:identify', ({ detail }) => resolve(detail), { once: true })
  })
  let connection
  let failed = 0

  const scenario = async (result, body, extraMs = 0) => {
    const start = Date.now()
    const outcome = await withLimit(body(), SCENARIO_LIMIT_MS + extraMs).then(
      detail => ({ ok: true, detail }),
      err => ({ ok: false, detail: describe(err) })
    )
    failed += outcome.ok ? 0 : 1
    print({ result, ok: outcome.ok, ms: Date.now() - start, detail: outcome.detail ?? {} })
    return outcome.ok
  }

  if (await scenario('connected', async () => {
    connection = await peer.dial(multiaddr(addr))
    return { peer: connection.remotePeer.toString() }
  })) {
    await scenario('identify', async () => {
      const { agentVersion, protocols } = await identified
      return { agent: agentVersion, protocols }
    })

    for (const [name, body, extraMs] of asked(peer, connection, options)) {
      await scenario(name, body, extraMs)
    }
  }

  await withLimit(peer.stop(), STOP_LIMIT_MS).catch(err => console.error(`stop: ${err.message}`))
  return failed === 0 ? 0 : 1
}

/** What the command line asks for, in the order of the contract: name, what to do, time it waits on purpose. */
function asked (peer, connection, options) {
  const list = []
  const add = (value, name, body, extraMs) => value && list.push([name, body, extraMs])
  const { pings: count, echo, streams, idle } = options
  const upload = options['half-close']
  const inTurn = options['in-turn']
  const wait = options['wait-close']

  add(count, 'ping', async () => ({ rtts_ms: await pings(peer, connection, count) }))
  add(echo, 'echo', async () => await echoOf(connection, echo))
  add(upload, 'half-close', async () => await halfClose(connection, upload))
  add(streams, 'streams-in-turn', async () => await streamsInTurn(connection, streams))
  add(streams, 'streams-parallel', async () => await streamsInParallel(connection, streams))
  add(inTurn, 'streams-in-turn', async () => await streamsInTurn(connection, inTurn))
  add(idle, 'idle', async () => await idleFor(connection, idle), idle * 1000)
  add(options.reset, 'reset', async () => await resetByPeer(connection))
  add(options['remote-close'], 'remote-close', async () => await remoteClose(connection))
  add(wait, 'wait-close', async () => await waitClose(connection, wait), wait * 1000)
  return list
}

async function idleFor (connection, seconds) {
  const closed = closeTime(connection).then(() => 'closed')

  if (await Promise.race([closed, delay(seconds * 1000)]) === 'closed') {
    throw new Error(`the connection closed after ${Date.now() - connection.timeline.open} ms`)
  }

  return { seconds, ...await echoOf(connection, AFTER_IDLE) }
}

async function remoteClose (connection) {
  const noticed = await hangUp(connection)

  if (noticed > NOTICE_LIMIT_MS) {
    throw new Error(`noticed after ${noticed} ms`)
  }

  return { noticed_ms: noticed }
}

async function waitClose (connection, seconds) {
  const closed = closeTime(connection)
  const start = Date.now()
  print({ event: 'waiting' })
  const at = await withLimit(closed, seconds * 1000, `not noticed within ${seconds} s`)
  return { noticed_ms: at - start }
}
