// Where a dialing js-libp2p peer runs: a headless browser page or a Node child
// process. Both offer `call(command, ...args)` (see commands.mjs), `version`,
// `noticesClose` (a closed connection changes `connectionState`), `log` with the
// last lines the peer printed, and `stop()`.
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import puppeteer from 'puppeteer-core'
import { Tail } from './tail.mjs'

const LAUNCH_LIMIT_MS = 60_000

// The driver has the shorter time limits; this one only must not cut in.
const PROTOCOL_LIMIT_MS = 3_600_000

/** Chromium with the given handshake; v2 also makes Chromium refuse munged credentials. */
export async function startChromium ({ executable, origin, ice }) {
  return await startBrowser({
    browser: 'chrome',
    executablePath: executable,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-dev-shm-usage',
      '--disable-background-timer-throttling',
      '--disable-renderer-backgrounding',
      '--disable-backgrounding-occluded-windows',
      '--disable-features=WebRtcHideLocalIpsWithMdns',
      '--allow-loopback-in-peer-connection',
      `--force-fieldtrials=WebRTC-NoSdpMangleUfrag/${ice === 'v2' ? 'Enabled' : 'Disabled'}/`
    ]
  }, `${origin}/?ice=${ice}`)
}

export async function startFirefox ({ executable, origin, ice }) {
  return await startBrowser({
    browser: 'firefox',
    executablePath: executable,
    extraPrefsFirefox: {
      'media.peerconnection.ice.loopback': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'dom.min_background_timeout_value': 4,
      'dom.timeout.enable_budget_timer_throttling': false
    }
  }, `${origin}/?ice=${ice}`)
}

async function startBrowser (options, url) {
  const browser = await puppeteer.launch({
    ...options,
    headless: true,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    timeout: LAUNCH_LIMIT_MS,
    protocolTimeout: PROTOCOL_LIMIT_MS
  })
  const log = new Tail()

  try {
    const page = await browser.newPage()
    page.on('console', message => log.push(message.text()))
    page.on('pageerror', err => log.push(`page error: ${err.message}`))
    await page.goto(url, { timeout: LAUNCH_LIMIT_MS })
    await page.waitForFunction('globalThis.execute != null', { timeout: LAUNCH_LIMIT_MS })

    return {
      version: await browser.version(),
      noticesClose: false,
      log,
      call: async (command, ...args) => unwrap(await page.evaluate(
        async (command, args) => await globalThis.execute(command, args), command, args
      )),
      stop: async () => await closeBrowser(browser)
    }
  } catch (err) {
    await closeBrowser(browser)
    throw err
  }
}

/** A browser that hangs is killed by process id. */
async function closeBrowser (browser) {
  const kill = setTimeout(() => browser.process()?.kill('SIGKILL'), 5000)
  await browser.close().catch(() => {})
  clearTimeout(kill)
}

/** js-libp2p on Node, in its own process because its WebRTC stack is native code. */
export async function startNodeDialer () {
  const child = fork(fileURLToPath(new URL('../node-dialer.mjs', import.meta.url)), { silent: true })
  const log = new Tail()
  log.follow(child.stdout)
  log.follow(child.stderr)

  const pending = new Map()
  let calls = 0

  child.on('message', ({ id, ...outcome }) => {
    pending.get(id)?.resolve(outcome)
    pending.delete(id)
  })
  child.on('exit', (code, signal) => {
    for (const { resolve } of pending.values()) {
      resolve({ error: `the Node dialer ended with ${signal ?? `exit code ${code}`}` })
    }
  })

  return {
    version: `Node/${process.versions.node}`,
    noticesClose: true,
    log,
    call: async (command, ...args) => unwrap(await new Promise((resolve, reject) => {
      const id = calls++
      pending.set(id, { resolve })
      child.send({ id, command, args }, err => err != null && reject(err))
    })),
    stop: async () => { child.kill('SIGKILL') }
  }
}

function unwrap ({ result, error }) {
  if (error != null) {
    throw new Error(error)
  }

  return result
}
