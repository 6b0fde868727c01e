// What the driver can ask of the page. Dialers are named by the driver;
// arguments and results are plain JSON.
import { describe } from './describe.mjs'
import { Dialer, mungingIsRefused, mustNotConnect } from './scenarios.mjs'

const dialers = new Map()

const COMMANDS = {
  /** Prepares a peer that will dial `addr`; nothing is sent yet. */
  create (id, addr) {
    dialers.set(id, new Dialer(addr))
  },
  run: async (id, scenario) => await dialers.get(id).run(scenario),
  connectAndPing: async id => await dialers.get(id).connectAndPing(),
  idle: async (id, seconds) => await dialers.get(id).idle(seconds),
  awaitEnd: async id => await dialers.get(id).awaitEnd(),
  end: async id => await dialers.get(id).end(),
  async stop (id) {
    await dialers.get(id)?.stop()
    dialers.delete(id)
  },
  mungingIsRefused,
  mustNotConnect
}

/** Runs one command; errors become `{ error }` so that they cross every boundary. */
export async function execute (command, args) {
  try {
    return { result: await COMMANDS[command](...args) ?? {} }
  } catch (err) {
    return { error: describe(err) }
  }
}
