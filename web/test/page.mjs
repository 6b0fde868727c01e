// Opens the page of `socketpipe serve` in Chromium and uses it as a person would, by the direct path, by WebSocket, and by
// a data channel beside one, directly and by a TURN server, this also in Firefox, with connections that break. Screenshots go
// to target/web/.
//
//     node test/page.mjs [--program PATH] [--only TEXT]
//
// PATH is target/debug/socketpipe unless given: cargo build --features gateway --bin socketpipe
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { findBrowser, isExecutable } from '../../interop/js/lib/tools.mjs'
import { closeBrowser, openPage, startChromium, startFirefox } from './browsers.mjs'
import { startNetwork } from './network.mjs'
import { startProgram } from './program.mjs'
import { SCENARIOS } from './scenarios.mjs'
import { Turn, hasTurn, relayOnly } from './turn.mjs'

const folder = relative => fileURLToPath(new URL(relative, import.meta.url))
const { values: options } = parseArgs({
  options: {
    program: { type: 'string', default: folder('../../target/debug/socketpipe') },
    only: { type: 'string', default: '' }
  }
})
const pictures = folder('../../target/web')
const SCENARIO_LIMIT_MS = 120_000

/**
 * What is done in which browser, all at once, for most of it is waiting. Firefox for what depends on the browser's WebRTC
 * alone; the direct path in each of Chromium's two ways. Each has a program of its own; data channels come up within
 * moments, so what is about WebSockets alone has one without them.
 */
const isPlain = path => path === 'webrtc' || path === 'websocket'
const CELLS = [
  { browser: 'chromium', ice: 'v1', start: startChromium, webrtc: false, has: ({ path, ice }) => isPlain(path) && ice.includes('v1') },
  { browser: 'chromium', ice: 'v2', start: startChromium, webrtc: false, has: ({ path, ice }) => isPlain(path) && ice.includes('v2') },
  { browser: 'chromium', ice: 'v1', start: startChromium, webrtc: true, has: ({ path }) => path === 'channel' },
  { browser: 'firefox', start: startFirefox, webrtc: true, has: ({ path }) => path === 'channel' },
  { browser: 'chromium', ice: 'v1', start: startChromium, webrtc: true, relay: true, has: ({ path }) => path === 'relay' },
  { browser: 'firefox', start: startFirefox, webrtc: true, relay: true, has: ({ path }) => path === 'relay' }
]
const missing = [...new Set(CELLS.map(({ browser }) => browser))].filter(browser => findBrowser(browser) == null)

for (const browser of missing) {
  console.log(`SKIPPED: ${browser} is not installed; set ${browser.toUpperCase()} to its path`)
}

if (missing.length > 0 && (process.env.CI === 'true' || missing.length === 2)) {
  process.exit(process.env.CI === 'true' ? 1 : 0)
}

if (!hasTurn()) {
  console.log('SKIPPED: coturn is not installed (Debian: coturn); nothing is relayed')

  if (process.env.CI === 'true') {
    process.exit(1)
  }
}

if (!isExecutable(options.program)) {
  console.error(`${options.program} is not there; run: cargo build --features gateway --bin socketpipe`)
  process.exit(1)
}

mkdirSync(pictures, { recursive: true })
let failed = 0
let passed = 0

await Promise.all(CELLS.filter(({ browser, relay }) => !missing.includes(browser) && (!relay || hasTurn())).map(cell => runCell(cell).catch(err => {
  failed++
  console.log(`FAILED  ${cell.browser}\n${err.stack}`)
})))
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 || passed === 0 ? 1 : 0

async function runCell ({ browser, ice, start, webrtc, relay, has }) {
  const suffix = path => browser === 'firefox' ? 'firefox' : path === 'webrtc' ? ice : path === 'relay' ? browser : path
  const chosen = SCENARIOS
    .filter(has)
    .map(scenario => ({ ...scenario, name: `${scenario.name} [${suffix(scenario.path)}]` }))
    .filter(({ name }) => name.includes(options.only))

  if (chosen.length === 0) {
    return
  }

  const turn = relay === true ? await Turn.create('the secret of both') : undefined
  const program = await startProgram(options.program, { webrtc, turn })
  // It can be used again and again.
  const standing = program.invite('--uses', '0')
  const started = await start({ executable: findBrowser(browser), ice })

  for (const scenario of chosen) {
    await run(scenario, started, program, standing, turn)
  }

  await closeBrowser(started)
  await turn?.end()
  const code = await program.stop()

  if (code !== 0) {
    throw new Error(`the program ended with ${code}`)
  }
}

async function run ({ name, path, view, run }, browser, program, standing, turn) {
  const network = await startNetwork(standing)
  const page = await openPage(browser, view)

  if (path === 'channel') {
    await network.channels.forward(page.tab)
  } else if (path === 'relay') {
    await relayOnly(page.tab)
  }

  const screenshot = async file => await page.tab.screenshot({ path: `${pictures}/${file}.png` })
  const started = Date.now()
  let timer

  try {
    const facts = await Promise.race([
      run({ page, network, path, program, turn, screenshot }),
      new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('time limit')), SCENARIO_LIMIT_MS)
      })
    ])
    assert.deepEqual(page.violations, [], 'the Content-Security-Policy was violated')
    assert.deepEqual(page.errors, [], 'the page has errors')
    passed++
    console.log(`ok      ${name} (${Date.now() - started} ms)${facts == null ? '' : ` ${JSON.stringify(facts)}`}`)
  } catch (err) {
    failed++
    const state = await page.state().catch(() => '?')
    console.log(`FAILED  ${name} (${Date.now() - started} ms)\n${err.stack}\nstate: ${state}`)
    console.log(page.log.slice(-15).join('\n'))
    await screenshot(`failed-${name.replace(/\W+/g, '-')}`).catch(() => {})
  } finally {
    clearTimeout(timer)
    await page.close()
    network.stop()
  }
}
