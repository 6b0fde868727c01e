// What run.mjs checks in each browser: a first visit, a second one with nothing but the stored addresses, and one after
// some of the nodes are gone.
import assert from 'node:assert/strict'
import { startChromium, startFirefox } from '../../interop/js/lib/hosts.mjs'
import { hostAddress } from '../../interop/js/lib/node-under-test.mjs'
import { delay, withLimit } from '../../interop/js/lib/time.mjs'
import { memoryOf } from './memory.mjs'
import { Programs } from './nodes.mjs'

const SWARM = 55
const DOOMED = 5

// With the provider.
const ALL = SWARM + 1

const CHECK_LIMIT_MS = 60_000

// When a dial of a node that is gone has failed, and why.
const GONE_LIMIT_MS = 5000
const GONE_REASON = /^no answer within \d s: the node is gone, /

// Walks over the table. One finds all nodes, unless the machine is so busy that too many of them answer late.
const MAX_WALKS = 3

// In the heap, mostly code that now is compiled. 50 open connections take more, 100 closed ones even more at first.
const MAX_LEFT_MIB = 4

const RECORD = { key: '/rtc/hello', value: 'put by a Rust node' }
const PROVIDED = 'hello'

/** Runs checks, prints a line for each and keeps the score. */
export class Report {
  passed = 0
  failed = 0
  // Whether a cell ended before its time.
  stopped = false

  /** `body` returns what to print. */
  async check (cell, name, body) {
    const start = Date.now()

    try {
      const facts = await withLimit(body(), CHECK_LIMIT_MS)
      this.passed++
      console.log(`ok      ${cell}: ${name}: ${facts}`)
    } catch (err) {
      this.failed++
      console.log(`FAILED  ${cell}: ${name} (${Date.now() - start} ms): ${err.message}`)
      throw err
    }
  }
}

/** Rust nodes that know each other, one of them provides something, and a record. */
export async function startNetwork (folder, cleanup) {
  const programs = new Programs(folder, `/ip4/${hostAddress()}/udp/0/webrtc-direct`)
  const swarm = cleanup.add(await programs.startSwarm(SWARM))
  const [bootstrap] = swarm.addrs
  const provider = cleanup.add(await programs.startProvider(PROVIDED, bootstrap))
  await programs.put(RECORD.key, RECORD.value, bootstrap)
  return { programs, bootstrap, provider: provider.addr }
}

export async function checkCell ({ cell, browser, executable, trial, origin, network, report, cleanup }) {
  const start = browser === 'firefox' ? startFirefox : startChromium
  const host = cleanup.add(await start({ executable, origin, trial, ready: 'dht' }))
  console.log(`${cell}: ${host.version}`)
  const visitor = new Visitor(host, browser)
  const check = async (name, body) => await report.check(cell, name, body)

  try {
    await firstVisit(check, visitor, network)
    await nextVisits(check, visitor)
    await visitAfterLoss(check, visitor, network.programs, cleanup)
  } catch (err) {
    // The next visit needs what this one stored.
    console.error(`${cell}: ${err.message}\n--- last lines of the page:\n${host.log}\n---`)
    report.stopped = true
  } finally {
    cleanup.delete(host)
    await host.stop()
  }
}

/** With nothing but the address of one node. */
async function firstVisit (check, visitor, { bootstrap, provider }) {
  await check('bootstrap', async () => {
    assert.equal((await visitor.call('state')).known, 0)
    const { ms } = await visitor.call('bootstrap', bootstrap)
    assert.deepEqual(await visitor.call('stored'), [peerOf(bootstrap)])
    return `${ms} ms`
  })
  await check('a record that a Rust node put', async () => {
    const { result, ms } = await visitor.timed('get', RECORD.key)
    assert.equal(result, RECORD.value)
    return `${ms} ms`
  })
  await check('a provider', async () => {
    const { result, ms } = await visitor.timed('find', PROVIDED)
    assert.equal(result?.peer, peerOf(provider))
    return `${ms} ms`
  })
  await check('all nodes found and stored', async () => {
    let walks = 0
    let known = 0
    let took = 0

    while (known < ALL && walks < MAX_WALKS) {
      const { result, ms } = await visitor.timed('explore', ALL)
      walks++
      known = result.known
      took += ms
    }

    assert.ok(known >= ALL, `${known} of ${ALL} nodes in ${walks} walks over the table`)
    return `${known} nodes, ${took} ms, walks over the table: ${walks}`
  })
  await closeAll(check, visitor)
}

/** From the stored addresses alone; a fresh page each, so that the figures do not depend on what was before. */
async function nextVisits (check, visitor) {
  let before

  for (const count of [20, 50]) {
    await visitor.reload()
    await visitor.call('start')
    before = await visitor.memory()
    await check(`${count} stored nodes dialed at once`, async () => await dialed(visitor, count, before))
    await check('the record again', async () => {
      const { result, ms } = await visitor.timed('get', RECORD.key)
      assert.equal(result, RECORD.value)
      return `${ms} ms`
    })
    await closeAll(check, visitor)
  }

  await check('50 dialed again in the same page', async () => await dialed(visitor, 50, before))
  await closeAll(check, visitor)

  if (before != null) {
    await check('the memory of 100 closed connections comes back', async () => await comesBack(visitor, before))
  }
}

/** js-libp2p's own time limits hold what is closed for some 10 s more. */
async function comesBack (visitor, before) {
  const start = Date.now()

  while ((await visitor.memory()).heap - before.heap > MAX_LEFT_MIB) {
    await delay(1000)
  }

  return `${await visitor.taken(before)}, ${Math.round((Date.now() - start) / 1000)} s later`
}

async function visitAfterLoss (check, visitor, programs, cleanup) {
  const doomed = await Promise.all(Array.from({ length: DOOMED }, async () => cleanup.add(await programs.startNode())))
  const gone = doomed.map(({ addr }) => peerOf(addr))

  await check(`${DOOMED} more nodes dialed`, async () => {
    const { result: outcomes, ms } = await visitor.timed('dial', doomed.map(({ addr }) => {
      return { peer: peerOf(addr), addresses: [addr] }
    }))
    return `${ms} ms${await dialLate(visitor, outcomes)}`
  })
  await Promise.all(doomed.map(async node => await node.stop()))
  await visitor.reload()
  await check('of the stored nodes, those that are gone are skipped', async () => {
    const outcomes = await visitor.call('connect', ALL + DOOMED)
    const failed = outcomes.filter(({ peer, reason }) => reason != null && gone.includes(peer))
    const slowest = Math.max(...failed.map(({ ms }) => ms))
    assert.equal(failed.length, DOOMED, describe(failed))
    failed.forEach(({ reason }) => assert.match(reason, GONE_REASON))
    assert.ok(slowest <= GONE_LIMIT_MS, `failed after ${slowest} ms`)
    const late = await dialLate(visitor, outcomes.filter(({ peer }) => !gone.includes(peer)))
    const answered = outcomes.length - DOOMED
    return `${answered} answered${late}, ${DOOMED} failed, the last after ${slowest} ms: ${failed[0].reason}`
  })
  await check('and not dialed again at once', async () => {
    const outcomes = await visitor.call('connect', ALL + DOOMED)
    assert.deepEqual(outcomes.filter(({ peer }) => gone.includes(peer)), [])
    return `${outcomes.length} dialed`
  })
  await check('the record once more', async () => {
    const { result, ms } = await visitor.timed('get', RECORD.key)
    assert.equal(result, RECORD.value)
    return `${ms} ms`
  })
  await closeAll(check, visitor)
}

async function dialed (visitor, count, before) {
  const { result: outcomes, ms } = await visitor.timed('connect', count)
  assert.equal(new Set(outcomes.map(({ peer }) => peer)).size, count)
  const late = await dialLate(visitor, outcomes)
  const { peers } = await visitor.call('state')
  assert.ok(peers >= count, `connections to ${peers} nodes`)
  const times = outcomes.map(({ ms }) => ms).sort((a, b) => a - b)
  const facts = `${ms} ms${late}, one ${times[0]} to ${times.at(-1)} ms, median ${times[Math.floor(count / 2)]} ms`
  return `${facts}; ${await visitor.taken(before)}`
}

/** A machine that is busy with other things may be late once. Returns what to add to the report. */
async function dialLate (visitor, outcomes) {
  const late = outcomes.filter(({ reason }) => reason != null)

  if (late.length === 0) {
    return ''
  }

  const failed = (await visitor.call('dial', late)).filter(({ reason }) => reason != null)
  assert.equal(failed.length, 0, describe(failed))
  return ` (${late.length} of them at the second try)`
}

async function closeAll (check, visitor) {
  await check('all closed', async () => {
    const { result: { left }, ms } = await visitor.timed('stop')
    assert.equal(left, 0)
    return `${ms} ms`
  })
}

/** The page in one browser. */
class Visitor {
  #host
  #measured

  constructor (host, browser) {
    this.#host = host
    // Firefox has no such figures.
    this.#measured = browser === 'chromium'
  }

  async call (command, ...args) {
    const { result } = await this.timed(command, ...args)
    return result
  }

  /** The result of a function of the page, and how long the page took for it. */
  async timed (command, ...args) {
    const { error, result, ms } = await this.#host.page.evaluate(async (command, args) => {
      const start = performance.now()

      try {
        const result = await globalThis.dht[command](...args)
        return { result, ms: Math.round(performance.now() - start) }
      } catch (err) {
        return { error: `${err.name}: ${err.message}` }
      }
    }, command, args)

    if (error != null) {
      throw new Error(error)
    }

    return { result, ms }
  }

  async reload () {
    await this.#host.page.reload()
    await this.#host.page.waitForFunction('globalThis.dht != null')
  }

  async memory () {
    return this.#measured ? await memoryOf(this.#host) : undefined
  }

  /** What memory there is more than before, and how many connections share it. */
  async taken (before) {
    const { connections } = await this.call('state')

    if (before == null) {
      return `${connections} connections`
    }

    const now = await this.memory()
    const more = kind => `${kind} ${(now[kind] - before[kind]).toFixed(1)}`
    return `${connections} connections, MiB more than before: ${['heap', 'renderer', 'browser'].map(more).join(', ')}`
  }
}

function peerOf (addr) {
  return addr.split('/').pop()
}

function describe (failed) {
  return failed.map(({ peer, ms, reason }) => `${peer} after ${ms} ms: ${reason}`).join('; ')
}
