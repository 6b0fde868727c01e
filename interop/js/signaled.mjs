#!/usr/bin/env node
// Dials a `/ws/webrtc` address from pages in Chromium and Firefox, with plain browser APIs. See README.md.
import { parseArgs } from 'node:util'
import './lib/node20.mjs'
import { Cleanup } from './lib/cleanup.mjs'
import { findBrowser, missingPackages } from './lib/tools.mjs'

const USAGE = 'usage: node signaled.mjs --addr MULTIADDR [--only chromium|firefox]'
const BROWSERS = ['chromium', 'firefox']
const RUN_LIMIT_MS = 5 * 60_000
const MIB = 1024 * 1024

/** Another peer than any. */
const STRANGER = '12D3KooWA23EmP7xQ8RoLaFAEwLghcq25pFdeFbTwReeAuqRR5Zi'

/** What is asked of the page, by the name that is reported, in this order. */
const SCENARIOS = {
  'wrong-peer': async ({ host, addr }) => await host.call('mustNotConnect', addr.replace(/\/p2p\/.*$/, `/p2p/${STRANGER}`)),
  connect: async ({ host, addr }) => await connect(host, addr),
  'ping-x20': async ({ host }) => await host.call('ping', 20),
  'echo-1MiB': async ({ host }) => await host.call('echo', MIB),
  'streams-50-parallel': async ({ host }) => await host.call('streams', 50),
  'ice-restart': async ({ host }) => {
    await host.call('restart')
    return await host.call('echo', MIB)
  },
  'without-websocket': async ({ host }) => {
    await host.call('closeSocket')
    return await host.call('echo', MIB)
  },
  'connect-again': async ({ host, addr }) => {
    await host.call('close')
    await connect(host, addr)
    return await host.call('ping', 1)
  }
}

const options = readOptions()
const cleanup = new Cleanup()

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => leave(130))
}
setTimeout(() => {
  console.error(`not done within ${RUN_LIMIT_MS / 60_000} minutes`)
  leave(1)
}, RUN_LIMIT_MS).unref()

await leave(await main().catch(err => {
  console.error(err)
  return 1
}))

async function leave (code) {
  await cleanup.stopAll()
  process.exit(code)
}

async function main () {
  const packages = missingPackages()
  const wanted = BROWSERS.filter(browser => [undefined, browser].includes(options.only))
  const browsers = packages.length > 0 ? [] : wanted.filter(browser => findBrowser(browser) != null)
  const missing = packages.length > 0
    ? [`all of it, npm packages are missing (npm ci --ignore-scripts): ${packages.join(' ')}`]
    : wanted.filter(browser => !browsers.includes(browser)).map(browser => `no ${browser} in PATH`)

  missing.forEach(what => console.log(`SKIPPED: ${what}`))

  if (missing.length > 0 && process.env.CI === 'true') {
    console.error('In CI nothing may be skipped.')
    return 1
  }

  if (browsers.length === 0) {
    return 0
  }

  // Loaded late, for they need the packages.
  const { Report } = await import('./lib/report.mjs')
  const { servePage } = await import('./lib/bundle.mjs')
  const report = new Report()
  const { origin } = cleanup.add(await servePage({ entry: new URL('./signaled/entry.mjs', import.meta.url) }))

  for (const browser of browsers) {
    await runBrowser(browser, origin, report)
  }

  report.printSummary()
  return report.failed === 0 ? 0 : 1
}

async function runBrowser (browser, origin, report) {
  const { startChromium, startFirefox } = await import('./lib/hosts.mjs')
  const start = browser === 'firefox' ? startFirefox : startChromium
  const peer = `browser-${browser}`
  const cell = report.cell(peer, 'it-dials', 'full')
  const host = cleanup.add(await start({ executable: findBrowser(browser), origin }))
  report.version(peer, host.version)

  for (const [name, run] of Object.entries(SCENARIOS)) {
    await cell.scenario(name, async () => await run({ host, addr: options.addr }))
  }

  if (report.failed > 0) {
    console.error(`--- last lines of ${peer}:\n${host.log}\n---`)
  }

  await host.stop()
}

/** The page must have found the peer of the address. */
async function connect (host, addr) {
  const found = await host.call('connect', addr)

  if (!addr.endsWith(`/p2p/${found.peer}`)) {
    throw new Error(`the peer is ${found.peer}`)
  }

  return found
}

function readOptions () {
  try {
    const { values } = parseArgs({ options: { addr: { type: 'string' }, only: { type: 'string' } } })

    if (values.addr == null || ![undefined, ...BROWSERS].includes(values.only)) {
      throw new Error(USAGE)
    }

    return values
  } catch (err) {
    console.error(err.message)
    process.exit(2)
  }
}
