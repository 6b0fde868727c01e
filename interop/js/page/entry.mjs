// Entry point of the browser bundle. The page's address says which handshake
// to use: /?ice=v1 or /?ice=v2.
import { execute } from '../lib/commands.mjs'
import { installHandshakeV2 } from '../lib/handshake-v2.mjs'

if (new URLSearchParams(location.search).get('ice') === 'v2') {
  installHandshakeV2()
}

globalThis.execute = execute
