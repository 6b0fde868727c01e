// The program behind the page: `socketpipe serve` with a state directory of its own, and `socketpipe invite`.
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const START_LIMIT_MS = 30_000

/** What the shell of the tests knows beside its own commands. */
const FUNCTIONS = String.raw`
# Numbered lines, not too fast; after the thousandth a test says when to go on.
count() {
    i=0
    while [ "$i" -lt "$1" ]; do
        i=$((i + 1))
        echo "n$i"
        [ $((i % 20)) -ne 0 ] || sleep 0.01
        [ "$i" -ne 1000 ] || until [ -e "$(dirname "$ENV")/go" ]; do sleep 0.02; done
    done
}
# Shows so many bytes as they come, with bracketed paste turned on.
raw() {
    stty -icanon -icrnl -echo
    printf '\033[?2004hready\n'
    head -c "$1" | cat -v
    printf '\033[?2004l\n'
    stty sane
}
colours() {
    for base in 30 90; do
        for i in 0 1 2 3 4 5 6 7; do printf '\033[%dmtext\033[0m ' $((base + i)); done
        echo
    done
    printf '\033[38;2;255;105;180mtrue colour\033[0m \033[1mbold\033[0m \033[4munderlined\033[0m\n'
}
`

/** Starts the program; without `webrtc` sessions stay on their WebSockets. `turn` is a TURN server that it knows the secret of. */
export async function startProgram (path, { webrtc, turn }) {
  const folder = mkdtempSync(join(tmpdir(), 'socketpipe-page-'))
  const state = join(folder, 'state')
  const config = join(folder, 'socketpipe.toml')
  const functions = join(folder, 'functions.sh')
  writeFileSync(functions, FUNCTIONS)
  const secret = join(folder, 'turn.secret')
  writeFileSync(secret, turn?.secret ?? '')
  writeFileSync(config, [
    'name = "workshop"',
    '[terminal]',
    'program = "/bin/sh"',
    `env = ["ENV=${functions}", "PS1=$ "]`,
    '[webrtc]',
    `enabled = ${webrtc}`,
    ...turn == null ? [] : [`servers = ["${turn.url}"]`, `turn_secret_file = "${secret}"`]
  ].join('\n'))

  const child = spawn(path, ['serve', '--json', '--state', state, '--config', config], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const exited = new Promise(resolve => child.once('exit', resolve))
  // Nothing is left running, however this process ends.
  process.once('exit', () => child.kill('SIGKILL'))

  const ask = (...args) => execFileSync(path, [...args, '--json', '--state', state], { encoding: 'utf8' })
    .split('\n').filter(line => line !== '').map(line => JSON.parse(line))
  const invite = (...options) => ask('invite', ...options)[0]
  let first = await firstLine(child)

  return {
    /** What it printed at its start, good for one session; later, a further invitation of that kind. */
    printed: () => {
      const printed = first ?? invite()
      first = undefined
      return printed
    },
    /** A further invitation, as the program prints it: `invitation` and `url`. */
    invite,
    /** Lets counters go on behind the thousandth line, or not. */
    go: on => on ? writeFileSync(join(folder, 'go'), '') : rmSync(join(folder, 'go'), { force: true }),
    sessions: () => ask('sessions'),
    stop: async () => {
      child.kill('SIGTERM')
      const code = await exited
      rmSync(folder, { recursive: true, force: true })
      return code
    }
  }
}

async function firstLine (child) {
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the program does not say that it serves')), START_LIMIT_MS)
    child.once('error', reject)
    child.once('exit', code => reject(new Error(`the program ended with ${code}`)))
    createInterface({ input: child.stdout }).once('line', line => {
      clearTimeout(timer)
      resolve(JSON.parse(line))
    })
  })
}
