// What a page in Chromium takes, in MiB: its JavaScript heap after a collection, the memory of its process, and that of
// all processes of the browser. Anonymous memory only, for the rest is shared or can be read again from files.
import { readFileSync } from 'node:fs'

const MIB = 1024 * 1024

export async function memoryOf ({ browser, page }) {
  const session = await page.createCDPSession()
  const root = await browser.target().createCDPSession()

  try {
    await session.send('HeapProfiler.collectGarbage')
    const { usedSize } = await session.send('Runtime.getHeapUsage')
    const { processInfo } = await root.send('SystemInfo.getProcessInfo')
    const sizes = processInfo.map(({ type, id }) => ({ type, size: anonymous(id) }))
    // There may be another one, kept ready for the next page.
    const renderer = Math.max(...sizes.filter(({ type }) => type === 'renderer').map(({ size }) => size))
    const all = sizes.reduce((sum, { size }) => sum + size, 0)
    return { heap: usedSize / MIB, renderer: renderer / MIB, browser: all / MIB }
  } finally {
    await session.detach()
    await root.detach()
  }
}

function anonymous (pid) {
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024
}
