import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatInvitation, InvitationError, parseInvitation, type Invitation } from '../src/invitation.ts'

const INVITATION: Invitation = {
  addresses: ['/ip4/192.0.2.1/udp/4001/webrtc-direct/certhash/uEiAAA/p2p/12D3KooWA'],
  webSocket: 'ws://127.0.0.1:8080/pty',
  token: 'tökén',
  mode: 'pty',
  host: 'inside',
  port: 22,
  name: 'my machine'
}

const encode = (value: unknown): string => 'socketpipe:1:' + Buffer.from(JSON.stringify(value)).toString('base64url')

test('reads what it wrote', () => {
  assert.deepEqual(parseInvitation(formatInvitation(INVITATION)), INVITATION)
})

test('matches the vector of the format description', () => {
  assert.equal(formatInvitation({
    addresses: [], webSocket: 'ws://127.0.0.1:8080/pty', token: 'abc', mode: 'pty', host: '', port: 0, name: 'n'
  }), 'socketpipe:1:eyJhIjpbXSwidyI6IndzOi8vMTI3LjAuMC4xOjgwODAvcHR5IiwidCI6ImFiYyIsIm0iOiJwdHkiLCJoIjoiIiwicCI6MCwibiI6Im4ifQ')
})

test('finds the invitation in a link and across broken lines', () => {
  const text = formatInvitation(INVITATION)
  assert.deepEqual(parseInvitation(`https://example.org/#${text}\n`), INVITATION)
  assert.deepEqual(parseInvitation(`${text.slice(0, 60)}\n  ${text.slice(60)}`), INVITATION)
})

test('fills in what may be absent', () => {
  assert.deepEqual(parseInvitation(encode({ a: ['/ip4/192.0.2.1'] })), {
    addresses: ['/ip4/192.0.2.1'], webSocket: undefined, token: '', mode: 'pty', host: '', port: 0, name: ''
  })
})

test('takes control and direction characters out of the name and cuts it', () => {
  const { name } = parseInvitation(encode({ a: ['/x'], n: `a\u202eb\u0007${'c'.repeat(100)}` }))
  assert.equal(name, 'ab' + 'c'.repeat(62))
})

const REFUSED: Array<[what: string, text: string]> = [
  ['something else', 'https://example.org/'],
  ['another version', 'socketpipe:2:e30'],
  ['no base64', 'socketpipe:1:!!!'],
  ['a cut invitation', formatInvitation(INVITATION).slice(0, -10)],
  ['no object', encode([])],
  ['no address at all', encode({ a: [], t: 'abc' })],
  ['an unknown mode', encode({ a: ['/x'], m: 'shell' })],
  ['a port too large', encode({ a: ['/x'], p: 65_536 })],
  ['an address of another type', encode({ a: [1] })],
  ['too many addresses', encode({ a: Array(17).fill('/x') })],
  ['a web address as WebSocket', encode({ a: [], w: 'https://example.org/' })],
  ['a script as WebSocket', encode({ a: [], w: 'javascript:alert(1)' })],
  ['hidden credentials', encode({ a: [], w: 'wss://good.example@evil.example/' })],
  ['a token of another type', encode({ a: ['/x'], t: 5 })],
  ['too much of everything', 'socketpipe:1:' + 'A'.repeat(9000)]
]

for (const [what, text] of REFUSED) {
  test(`refuses ${what} with a sentence`, () => {
    assert.throws(() => parseInvitation(text), (err: unknown) => {
      return err instanceof InvitationError && /^This .*[.?]$/.test(err.message)
    })
  })
}
