#!/usr/bin/env node
// Runs js-libp2p in Chromium and Firefox against libp2p-rtc. See README.md.
import { existsSync } from 'node:fs'
import { parseArgs } from 'node:util'
import './lib/node20.mjs'
import { Cleanup } from './lib/cleanup.mjs'
import { findBrowser, missingPackages, packageVersion } from './lib/tools.mjs'

const USAGE = 'usage: node run.mjs --node PROGRAM [--only chromium|firefox|PEER] [--ice v1|v2] [--idle SECONDS]'

// Chromium's WebRTC numbers each kind of rewriting: 21 is a=ice-pwd, 22 is a=ice-ufrag.
const PEERS = [
  { peer: 'js-chromium', browser: 'chromium' },
  { peer: 'js-chromium-no-sdp-mangle-ufrag', browser: 'chromium', trial: 'WebRTC-NoSdpMangleUfrag/Enabled' },
  { peer: 'js-chromium-no-sdp-mangle-reject', browser: 'chromium', trial: 'WebRTC-NoSdpMangleReject/Enabled,21,22' },
  { peer: 'js-firefox', browser: 'firefox' }
]
const VERSIONS = ['v1', 'v2']

// Longer than all cells together may take.
const RUN_LIMIT_MS = 10 * 60_000

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
    return skippedInCi()
  }

  if (peers.length === 0) {
    return 0
  }

  // Loaded late, for they need the packages.
  const { Report } = await import('./lib/report.mjs')
  const report = new Report()
  await runCells(peers, report)
  report.printSummary()

  if (report.skipped > 0 && process.env.CI === 'true') {
    return skippedInCi()
  }

  return report.failed === 0 ? 0 : 1
}

function skippedInCi () {
  console.error('In CI nothing may be skipped.')
  return 1
}

/** What can run here, and what is missing for the rest. */
function choosePeers () {
  const packages = missingPackages()

  if (packages.length > 0) {
    return { peers: [], missing: [`all of it, npm packages are missing (npm ci --ignore-scripts): ${packages.join(' ')}`] }
  }

  const wanted = PEERS.filter(({ peer, browser }) => [undefined, peer, browser].includes(options.only))
  const peers = wanted.filter(({ browser }) => findBrowser(browser) != null)
  const missing = wanted
    .filter(peer => !peers.includes(peer))
    .map(({ peer, browser }) => `${peer}, no ${browser} in PATH and no ${browser.toUpperCase()} in the environment`)

  return { peers, missing }
}

async function runCells (peers, report) {
  const { hostAddress, isLoopback, pickAddr, Program } = await import('./lib/node-under-test.mjs')
  const { servePage } = await import('./lib/bundle.mjs')
  const program = new Program(options.node)
  const listener = cleanup.add(await program.listen(`/ip4/${hostAddress()}/udp/0/webrtc-direct`))

  if (isLoopback(pickAddr(listener.addrs, 'ip4'))) {
    console.log('WARNING: this machine has only loopback, which browsers do not use by default')
  }

  const { origin } = cleanup.add(await servePage())
  const finishes = []

  for (const peer of peers) {
    for (const ice of VERSIONS.filter(ice => options.ice == null || options.ice === ice)) {
      finishes.push(await runOne({ ...peer, ice, report, program, listener, origin }))
    }
  }

  await Promise.all(finishes.map(cell => cell?.finished))
}

/** Runs one cell; `finished` in what it returns is ready when that part is done which only waits. */
async function runOne ({ peer, browser, trial, ice, report, program, listener, origin }) {
  const { startChromium, startFirefox } = await import('./lib/hosts.mjs')
  const { runCell, runRefusingCell } = await import('./lib/cells.mjs')
  const start = browser === 'firefox' ? startFirefox : startChromium
  const cell = report.cell(peer, 'it-dials', ice)
  const before = report.failed
  let host

  if (!await cell.scenario('launch', async () => {
    host = cleanup.add(await start({ executable: findBrowser(browser), origin, ice, trial }))
    return { version: host.version }
  })) {
    return
  }

  report.version(peer, `${host.version}, js-libp2p ${packageVersion('libp2p')}`)

  if (trial != null && ice === 'v1') {
    await runRefusingCell({ cell, host, listener })
    return
  }

  const finish = await runCell({ cell, host, ice, program, listener, idle: options.idle, cleanup })

  if (report.failed > before) {
    console.error(`--- last lines of ${peer} ${ice}:\n${host.log}\n--- last lines of the listener:\n${listener.log}\n---`)
  }

  // Not awaited here: the next cell runs meanwhile.
  return { finished: finish() }
}

function readOptions () {
  try {
    const { values } = parseArgs({
      options: {
        node: { type: 'string' },
        only: { type: 'string' },
        ice: { type: 'string' },
        idle: { type: 'string', default: '60' }
      }
    })
    const idle = Number(values.idle)
    const peers = [undefined, ...PEERS.flatMap(({ peer, browser }) => [peer, browser])]
    const known = peers.includes(values.only) && [undefined, ...VERSIONS].includes(values.ice)

    if (values.node == null || !(idle >= 0) || !known) {
      throw new Error(USAGE)
    }

    if (!existsSync(values.node)) {
      throw new Error(`there is no ${values.node}; build it first, see README.md`)
    }

    return { ...values, idle }
  } catch (err) {
    console.error(err.message)
    process.exit(2)
  }
}
