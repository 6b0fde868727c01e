// Bundles a browser page and serves it on loopback, which browsers treat as
// a secure context (js-libp2p needs crypto.subtle).
import { createServer } from 'node:http'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const PAGE = '<!doctype html><meta charset="utf-8"><title>interop</title><script type="module" src="/bundle.js"></script>'

/**
 * Starts the page server; returns its origin and a function that stops it. `html` must load `/bundle.js`, which is
 * made of `entry` and takes its packages from here, wherever it is.
 */
export async function servePage ({ entry = new URL('../page/entry.mjs', import.meta.url), html = PAGE } = {}) {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(entry)],
    nodePaths: [fileURLToPath(new URL('../node_modules', import.meta.url))],
    bundle: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    define: { global: 'globalThis', 'process.env.NODE_DEBUG': 'undefined' },
    logLevel: 'error',
    write: false
  })
  const bundle = outputFiles[0].contents

  const server = createServer((request, response) => {
    const isBundle = request.url === '/bundle.js'
    response.writeHead(200, { 'content-type': isBundle ? 'text/javascript' : 'text/html' })
    response.end(isBundle ? bundle : html)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    stop: () => {
      server.closeAllConnections()
      server.close()
    }
  }
}
