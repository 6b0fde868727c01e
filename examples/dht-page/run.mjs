#!/usr/bin/env node
// The page in browsers, against Rust nodes. See README.md.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import '../../interop/js/lib/node20.mjs'
import { Cleanup } from '../../interop/js/lib/cleanup.mjs'
import { findBrowser, missingPackages } from '../../interop/js/lib/tools.mjs'

const USAGE = 'usage: node run.mjs [--programs FOLDER] [--only chromium|firefox|CELL] [--serve]'
const PROGRAMS = fileURLToPath(new URL('../../target/release/examples', import.meta.url))

const CELLS = [
  { cell: 'chromium', browser: 'chromium' },
  // As Chromium is going to be: no rewritten offers, which handshake v1 needs.
  { cell: 'chromium-v2', browser: 'chromium', trial: 'WebRTC-NoSdpMangleUfrag/Enabled' },
  { cell: 'firefox', browser: 'firefox' }
]

const RUN_LIMIT_MS = 20 * 60_000

const options = readOptions()
const cleanup = new Cleanup()

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => leave(130))
}

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

  if (packages.length > 0) {
    return skipped(`npm packages are missing (npm ci --ignore-scripts in interop/js): ${packages.join(' ')}`)
  }

  // Loaded late, for they need the packages.
  const { servePage } = await import('../../interop/js/lib/bundle.mjs')
  const { origin } = cleanup.add(await servePage({
    entry: new URL('page.mjs', import.meta.url),
    html: readFileSync(new URL('index.html', import.meta.url))
  }))

  if (options.serve) {
    return await serve(origin)
  }

  setTimeout(() => {
    console.error(`not done within ${RUN_LIMIT_MS / 60_000} minutes`)
    leave(1)
  }, RUN_LIMIT_MS).unref()

  return await check(origin)
}

/** The page and some nodes for it, to be tried by hand. */
async function serve (origin) {
  const { startNetwork } = await import('./checks.mjs')
  const network = await startNetwork(options.programs, cleanup)
  console.log(`page:      ${origin}/\nbootstrap: ${network.bootstrap}\nStop with Ctrl-C.`)
  return await new Promise(() => {})
}

async function check (origin) {
  const cells = CELLS
    .filter(({ cell, browser }) => [undefined, cell, browser].includes(options.only))
    .map(cell => ({ ...cell, executable: findBrowser(cell.browser) }))
  const missing = cells.filter(({ executable }) => executable == null)
  const skip = missing.map(({ cell, browser }) => {
    return skipped(`${cell}, no ${browser} in PATH and no ${browser.toUpperCase()} in the environment`)
  })

  if (missing.length === cells.length) {
    return Math.max(...skip)
  }

  const { Report, checkCell, startNetwork } = await import('./checks.mjs')
  const report = new Report()
  const network = await startNetwork(options.programs, cleanup)

  for (const cell of cells.filter(({ executable }) => executable != null)) {
    await checkCell({ ...cell, origin, network, report, cleanup })
  }

  console.log(`${report.passed} passed, ${report.failed} failed`)
  return report.failed > 0 || report.stopped ? 1 : Math.max(0, ...skip)
}

/** In CI nothing may be skipped. */
function skipped (what) {
  console.log(`SKIPPED: ${what}`)
  return process.env.CI === 'true' ? 1 : 0
}

function readOptions () {
  try {
    const { values } = parseArgs({
      options: {
        programs: { type: 'string', default: PROGRAMS },
        only: { type: 'string' },
        serve: { type: 'boolean', default: false }
      }
    })

    if (![undefined, ...CELLS.flatMap(({ cell, browser }) => [cell, browser])].includes(values.only)) {
      throw new Error(USAGE)
    }

    for (const program of ['dht', 'dht_swarm'].map(name => join(values.programs, name))) {
      if (!existsSync(program)) {
        throw new Error(`there is no ${program}: cargo build --release --example dht --example dht_swarm`)
      }
    }

    return values
  } catch (err) {
    console.error(err.message)
    process.exit(2)
  }
}
