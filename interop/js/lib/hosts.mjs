// Starts a headless browser with one page. Offers `call(command, ...args)` (see
// commands.mjs), `version`, `log` with the last lines the page printed, `kill()`
// and `stop()`, and puppeteer's `browser` and `page`.
import { execFileSync } from 'node:child_process'
import puppeteer from 'puppeteer-core'
import { CHROMIUM_FLAGS, FIREFOX_PREFERENCES } from './browser-flags.mjs'
import { Tail } from './tail.mjs'

const LAUNCH_LIMIT_MS = 60_000

// The driver has the shorter time limits; this one only must not cut in.
const PROTOCOL_LIMIT_MS = 3_600_000

/**
 * Chromium; `trial` is a field trial with its group, as in `Trial/Enabled`. The page is there when it has set the
 * global variable `ready`.
 */
export async function startChromium ({ executable, origin, ice, trial, ready }) {
  return await startBrowser({
    browser: 'chrome',
    executablePath: executable,
    args: [
      ...CHROMIUM_FLAGS,
      ...(trial != null ? [`--force-fieldtrials=${trial}/`] : [])
    ]
  }, pageUrl(origin, ice), ready)
}

export async function startFirefox ({ executable, origin, ice, ready }) {
  return await startBrowser({
    browser: 'firefox',
    executablePath: executable,
    extraPrefsFirefox: FIREFOX_PREFERENCES
  }, pageUrl(origin, ice), ready)
}

function pageUrl (origin, ice) {
  return ice == null ? `${origin}/` : `${origin}/?ice=${ice}`
}

async function startBrowser (options, url, ready = 'execute') {
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
    await page.waitForFunction(`globalThis.${ready} != null`, { timeout: LAUNCH_LIMIT_MS })

    return {
      version: await browser.version(),
      log,
      browser,
      page,
      call: async (command, ...args) => unwrap(await page.evaluate(
        async (command, args) => await globalThis.execute(command, args), command, args
      )),
      kill: () => killTree(browser.process().pid),
      stop: async () => await closeBrowser(browser)
    }
  } catch (err) {
    await closeBrowser(browser)
    throw err
  }
}

/** A browser that hangs is killed by process id. */
async function closeBrowser (browser) {
  const kill = setTimeout(() => killTree(browser.process()?.pid), 5000)
  await browser.close().catch(() => {})
  clearTimeout(kill)
}

/**
 * SIGKILL for a process and all its descendants, for a browser's sockets belong
 * to one of them. They are stopped first, so that none can say goodbye when it
 * sees another die.
 */
function killTree (pid) {
  if (pid == null) {
    return
  }

  const pids = [pid, ...descendants(pid)]
  pids.forEach(pid => signal(pid, 'SIGSTOP'))
  pids.forEach(pid => signal(pid, 'SIGKILL'))
}

function descendants (root) {
  const parents = execFileSync('ps', ['-e', '-o', 'pid=,ppid='], { encoding: 'utf8' })
    .trim().split('\n').map(line => line.trim().split(/\s+/).map(Number))
  const found = [root]

  for (let i = 0; i < found.length; i++) {
    found.push(...parents.filter(([, ppid]) => ppid === found[i]).map(([pid]) => pid))
  }

  return found.slice(1)
}

function signal (pid, name) {
  try {
    process.kill(pid, name)
  } catch {
    // It ended by itself.
  }
}

function unwrap ({ result, error }) {
  if (error != null) {
    throw new Error(error)
  }

  return result
}
