#!/usr/bin/env node
// A js-libp2p dialer on Node. `node node-dialer.mjs MULTIADDR` runs all
// scenarios on one connection and prints one JSON line per result; started by
// the driver it takes the driver's commands instead.
import './lib/node20.mjs'
import { execute } from './lib/commands.mjs'
import { ON_CONNECTION } from './lib/scenarios.mjs'

if (process.send != null) {
  process.on('message', async ({ id, command, args }) => {
    process.send({ id, ...await execute(command, args) })
  })
  process.on('disconnect', () => process.exit(0))
} else {
  process.exit(await dialAll(process.argv[2]))
}

async function dialAll (addr) {
  if (addr == null) {
    console.error('usage: node node-dialer.mjs MULTIADDR')
    return 2
  }

  await execute('create', ['main', addr])
  let failed = 0

  for (const scenario of Object.keys(ON_CONNECTION)) {
    const start = Date.now()
    const { result, error } = await execute('run', ['main', scenario])
    failed += error == null ? 0 : 1
    console.log(JSON.stringify({ scenario, ok: error == null, ms: Date.now() - start, detail: result ?? error }))
  }

  return failed === 0 ? 0 : 1
}
