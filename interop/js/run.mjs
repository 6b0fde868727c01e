#!/usr/bin/env node
// Runs js-libp2p in Chromium, Firefox and Node against libp2p-rtc's example
// program, in both directions. See README.md.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import './lib/node20.mjs'
import { Cleanup } from './lib/cleanup.mjs'
import { findBrowser, missingPackages } from './lib/tools.mjs'

const USAGE = 'usage: node run.mjs --node PROGRAM [--only chromium|firefox|nodejs] [--idle SECONDS]'
const PEERS = ['chromium', 'firefox', 'nodejs']
const JS_LISTENER = fileURLToPath(new URL('./node-listener.mjs', import.meta.url))

// Longer than all cells together may take.
const RUN_LIMIT_MS = 15 * 60_000

const options = readOptions()
const cleanup = new Cleanup()

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => leave(130))
}
setTimeout(() => {
  console.error(`not done within ${RUN_LIMIT_MS / 60_000} minutes`)
  leave(1)
}, RUN_LIMIT_MS + options.idle * 1000).unref()

await leave(await main().catch(err => {
  console.error(err)
  return 1
}))

async function leave (code) {
  await cleanup.stopAll()
  process.exit(code)
}

async function main () {
  const { peers, missing } = choosePeers()

  for (const what of missing) {
    console.log(`SKIPPED: ${what}`)
  }

  if (missing.length > 0 && process.env.CI === 'true') {
    console.error('In CI nothing may be skipped.')
    return 1
  }

  if (peers.length === 0) {
    return 0
  }

  // Loaded late, for they need the packages.
  const { Report } = await import('./lib/report.mjs')
  const report = new Report()
  await runCells(peers, report)
  report.printSummary()

  return report.failed === 0 ? 0 : 1
}

/** What can run here, and what is missing for the rest. */
function choosePeers () {
  const packages = missingPackages()

  if (packages.length > 0) {
    return { peers: [], missing: [`all of it, npm packages are missing (npm ci --ignore-scripts): ${packages.join(' ')}`] }
  }

  const wanted = PEERS.filter(peer => options.only == null || options.only === peer)
  const peers = wanted.filter(peer => peer === 'nodejs' || findBrowser(peer) != null)
  const missing = wanted
    .filter(peer => !peers.includes(peer))
    .map(peer => `${peer}, no such program in PATH and no ${peer.toUpperCase()} in the environment`)

  return { peers, missing }
}

async function runCells (peers, report) {
  const { itDials, itIsDialed } = await import('./lib/cells.mjs')
  const { isLoopback, pickAddr, startListener } = await import('./lib/node-under-test.mjs')
  const listener = cleanup.add(await startListener(options.node))

  if (isLoopback(pickAddr(listener.addrs, 'ip4') ?? '')) {
    console.log('WARNING: this machine has only loopback, which browsers do not use by default')
  }

  const idles = []

  for (const { name, ice, start } of await dialingPeers(peers)) {
    const cell = report.cell(name, 'it-dials', ice)
    let host

    if (await cell.scenario('launch', async () => {
      host = cleanup.add(await start())
      return { version: host.version }
    })) {
      const before = report.failed
      const idle = await itDials({ cell, host, ice, program: options.node, listener, cleanup })

      if (options.idle > 0) {
        idles.push(idle)
      } else {
        await host.stop()
      }

      if (report.failed > before) {
        console.error(`--- last lines of ${name} ${ice}:\n${host.log}\n--- last lines of the listener:\n${listener.log}\n---`)
      }
    }
  }

  if (peers.includes('nodejs')) {
    for (const ice of ['v1', 'auto']) {
      const cell = report.cell('js-node', 'it-is-dialed', ice)
      await itIsDialed({ cell, program: options.node, jsListener: JS_LISTENER, ice, cleanup })
    }
  }

  await Promise.all(idles.map(async idle => await idle(options.idle)))
}

/** The cells in which js-libp2p dials. */
async function dialingPeers (peers) {
  const { startChromium, startFirefox, startNodeDialer } = await import('./lib/hosts.mjs')
  const { servePage } = await import('./lib/bundle.mjs')
  const { origin } = peers.some(peer => peer !== 'nodejs') ? cleanup.add(await servePage()) : {}
  const cells = []

  for (const [peer, startBrowser] of [['chromium', startChromium], ['firefox', startFirefox]]) {
    if (peers.includes(peer)) {
      const executable = findBrowser(peer)

      for (const ice of ['v1', 'v2']) {
        cells.push({ name: `js-${peer}`, ice, start: async () => await startBrowser({ executable, origin, ice }) })
      }
    }
  }

  if (peers.includes('nodejs')) {
    cells.push({ name: 'js-node', ice: 'v1', start: startNodeDialer })
  }

  return cells
}

function readOptions () {
  try {
    const { values } = parseArgs({
      options: {
        node: { type: 'string' },
        only: { type: 'string' },
        idle: { type: 'string', default: '60' }
      }
    })
    const idle = Number(values.idle)

    if (values.node == null || !(idle >= 0) || !(values.only == null || PEERS.includes(values.only))) {
      throw new Error(USAGE)
    }

    if (!existsSync(values.node)) {
      throw new Error(`there is no ${values.node}; build it with cargo build --release --example node`)
    }

    return { ...values, idle }
  } catch (err) {
    console.error(err.message)
    process.exit(2)
  }
}
