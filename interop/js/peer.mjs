#!/usr/bin/env node
// js-libp2p on Node as a peer of the interoperability matrix. The contract is
// in ../README.md.
import { parseArgs } from 'node:util'
import './lib/node20.mjs'
import { packageVersion } from './lib/tools.mjs'

const USAGE = `usage: node peer.mjs listen [MULTIADDR] [--seed N] [--events]
       node peer.mjs dial MULTIADDR [--ice auto|v1|v2] [--seed N] [--pings N] [--echo BYTES] [--half-close BYTES]
           [--streams N] [--in-turn N] [--idle SECONDS] [--reset] [--remote-close] [--wait-close SECONDS]
       node peer.mjs version`

const COMMANDS = {
  listen: {
    options: { seed: number(), events: { type: 'boolean', default: false } },
    run: async (addr, options) => await (await import('./lib/listen.mjs')).listen(addr, options)
  },
  dial: {
    options: {
      ice: { type: 'string', default: 'auto' },
      seed: number(),
      pings: number(),
      echo: number(),
      'half-close': number(),
      streams: number(),
      'in-turn': number(),
      idle: number(),
      reset: { type: 'boolean', default: false },
      'remote-close': { type: 'boolean', default: false },
      'wait-close': number()
    },
    run: async (addr, options) => await (await import('./lib/dial.mjs')).dial(addr, options)
  },
  version: { options: {}, run: async () => printVersion() }
}

process.exit(await main())

async function main () {
  const { run, addr, options } = readCommandLine() ?? {}

  if (run == null) {
    console.error(USAGE)
    return 2
  }

  return await run(addr, options)
}

function readCommandLine () {
  const [name, ...args] = process.argv.slice(2)
  const command = COMMANDS[name]

  if (command == null) {
    return undefined
  }

  try {
    const { values, positionals } = parseArgs({ args, options: command.options, allowPositionals: true })

    for (const [option, { isNumber }] of Object.entries(command.options)) {
      if (isNumber && values[option] != null) {
        values[option] = Number(values[option])
      }
    }

    const sound = Object.values(values).every(value => !Number.isNaN(value)) &&
      ['auto', 'v1', 'v2', undefined].includes(values.ice) &&
      positionals.length <= 1 && (name !== 'dial' || positionals.length === 1)

    return sound ? { run: command.run, addr: positionals[0], options: values } : undefined
  } catch (err) {
    console.error(err.message)
  }
}

function printVersion () {
  console.log(JSON.stringify({ peer: 'js-libp2p', version: packageVersion('libp2p') }))
  return 0
}

function number () {
  return { type: 'string', isNumber: true }
}
