import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sanitizePaste } from '../src/clipboard.ts'
import { CloseCode, ErrorCode } from '../src/codes.ts'
import { describeEnd, describeRefusal, pathName } from '../src/sentences.ts'

test('every code has a sentence of its own', () => {
  const ends = Object.values(CloseCode).map(code => describeEnd({ cause: 'closed', code, text: '' }).text)
  const codes = Object.values(ErrorCode).filter(code => code < 3000 || code >= 4000)
  const refusals = codes.map(code => describeRefusal({ during: 'handshake', code, text: '' }))
  const all = [...ends, ...refusals]
  assert.equal(new Set(all).size, all.length)
  all.forEach(text => assert.match(text, /^[A-Z].*[a-z][.]$/))
})

test('names exit status and signal', () => {
  const end = (text: string): unknown => describeEnd({ cause: 'closed', code: 2003, text })
  assert.deepEqual(end('exit=0'), { text: 'The program ended with exit status 0.', good: true })
  assert.deepEqual(end('exit=3 done'), { text: 'The program ended with exit status 3.', good: false })
  assert.deepEqual(end('signal=TERM'), { text: 'The program was ended by signal TERM.', good: false })
})

test('shows what the server says without control and direction characters', () => {
  const { detail } = describeEnd({ cause: 'closed', code: 7, text: 'a\u202eb\u001b[31mc' })
  assert.equal(detail, 'a b [31mc')
})

test('takes escapes out of what is pasted and keeps lines and tabs', () => {
  assert.equal(sanitizePaste('a\tb\r\nc\x1b[201~d\x9be\x7f\x03é'), 'a\tb\r\nc[201~deé')
})

test('names what carries the session', () => {
  const names = (['websocket', 'direct', 'relayed', 'restarting', 'falling-back'] as const).map(carrier => pathName('websocket', carrier).name)
  assert.deepEqual(names, ['WebSocket', 'WebRTC direct', 'WebRTC relayed', 'WebRTC interrupted', 'falling back to WebSocket'])
  assert.equal(pathName('websocket').name, 'WebSocket')
  assert.equal(pathName('webrtc').name, 'direct (WebRTC)')
})
