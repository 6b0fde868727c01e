import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decode, encode, ErrorCode, FrameError, FrameReader, type Frame } from '../src/frame.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const hex = (text: string): Uint8Array => Uint8Array.from(text.match(/../g) ?? [], pair => parseInt(pair, 16))
const toHex = (data: Uint8Array): string => Array.from(data, byte => byte.toString(16).padStart(2, '0')).join('')
const ID = Uint8Array.from({ length: 16 }, (_, index) => index)

// The golden vectors of the protocol reference, section 14.
const VECTORS: Array<[name: string, bytes: string, frame: Frame]> = [
  ['handshake request', '014200000000001b010000160000000000000000096c6f63616c686f73740003616263', {
    type: 'handshake-request', capabilities: 0x42, major: 1, minor: 0, port: 22, pingInterval: 0, pingTimeout: 0,
    maxMessageSize: 0, host: 'localhost', token: bytes('abc')
  }],
  ['empty handshake request', '010000000000000f010000000000000000000000000000', {
    type: 'handshake-request', capabilities: 0, major: 1, minor: 0, port: 0, pingInterval: 0, pingTimeout: 0,
    maxMessageSize: 0, host: '', token: bytes('')
  }],
  ['handshake response, success', '024300000000000a0100001e000a00010000', {
    type: 'handshake-response', ok: true, capabilities: 0x42, major: 1, minor: 0, pingInterval: 30, pingTimeout: 10,
    maxMessageSize: 65_536
  }],
  ['handshake response, failure', '020000000000000a03e90765787069726564', {
    type: 'handshake-response', ok: false, code: 1001, text: 'expired'
  }],
  ['data', '10000000000000036c730d', { type: 'data', data: bytes('ls\r') }],
  ['numbered data', '100200000000000b00000000000000016c730d', { type: 'data', number: 1n, data: bytes('ls\r') }],
  ['resize', '20000000000000080078002800000000', { type: 'resize', columns: 120, rows: 40, width: 0, height: 0 }],
  ['signal', '210000000000000101', { type: 'signal', signal: 1 }],
  ['env', '2200000000000015045445524d000e787465726d2d323536636f6c6f72', {
    type: 'env', name: 'TERM', value: 'xterm-256color'
  }],
  ['xoff', '2300000000000000', { type: 'flow-control', on: false }],
  ['xon', '2301000000000000', { type: 'flow-control', on: true }],
  ['ping', '3000000000000004deadbeef', { type: 'ping', payload: hex('deadbeef') }],
  ['pong', '3100000000000004deadbeef', { type: 'pong', payload: hex('deadbeef') }],
  ['close', '4001000000000003000000', { type: 'close', byClient: true, code: 0, text: '' }],
  ['error', 'f00000000000001107d30e6261636b656e6420636c6f736564', {
    type: 'error', code: 2003, text: 'backend closed'
  }],
  ['session id', '500000000000001910000102030405060708090a0b0c0d0e0f0000012c00010000', {
    type: 'session-id', id: ID, timeout: 300, bufferSize: 65_536
  }],
  ['resume request', '510000000000001910000102030405060708090a0b0c0d0e0f0000000000000002', {
    type: 'resume-request', id: ID, last: 2n
  }],
  ['resume response, success', '520100000000000c000000000000000300000003', {
    type: 'resume-response', ok: true, start: 3n, count: 3
  }],
  ['resume response, failure', '520000000000000a0fa10765787069726564', {
    type: 'resume-response', ok: false, code: 4001, text: 'expired'
  }],
  ['ice candidate', '620000000000003a003463616e6469646174653a312031207564702032313330373036343331203139322e302e322e3120' +
    '353030302074797020686f737401300000', {
    type: 'ice-candidate', candidate: 'candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host', mid: '0', line: 0
  }],
  ['end of candidates', '6200000000000006000001300000', { type: 'ice-candidate', candidate: '', mid: '0', line: 0 }],
  ['webrtc ready', '6300000000000000', { type: 'webrtc-ready' }]
]

for (const [name, golden, frame] of VECTORS) {
  test(`${name}: encodes to and decodes from the golden bytes`, () => {
    assert.equal(toHex(encode(frame)), golden)
    assert.deepEqual(plain(decode(hex(golden))), plain(frame))
  })
}

test('a byte stream yields all golden frames wherever it is cut', () => {
  const stream = hex(VECTORS.map(([, golden]) => golden).join(''))

  for (const size of [1, 2, 3, 7, 8, 9, 64, stream.length]) {
    const reader = new FrameReader()
    const frames: Frame[] = []

    for (let start = 0; start < stream.length; start += size) {
      frames.push(...reader.push(stream.slice(start, start + size)))
    }

    assert.deepEqual(frames.map(plain), VECTORS.map(([, , frame]) => plain(frame)))
    assert.equal(reader.hasPartialFrame, false)
  }
})

const REFUSED: Array<[name: string, bytes: string, code: number]> = [
  ['no whole header', '30000000000000', ErrorCode.invalidMessage],
  ['a reserved field that is not zero', '1000000100000000', ErrorCode.invalidMessage],
  ['a length one too large', '10000000000000046c730d', ErrorCode.invalidMessage],
  ['a length one too small', '10000000000000026c730d', ErrorCode.invalidMessage],
  ['a host running past the payload', '010000000000000f0100000000000000000000000a0000', ErrorCode.invalidMessage],
  ['a host that is not UTF-8', '0100000000000010010000000000000000000000' + '01ff' + '0000', ErrorCode.invalidMessage],
  ['a close text running past the end', '4001000000000004000002' + '61', ErrorCode.invalidMessage],
  ['a numbered DATA with 7 bytes', '100200000000000700000000000001', ErrorCode.invalidMessage],
  ['a short resize', '200000000000000700780028000000', ErrorCode.invalidMessage],
  ['a short resume response', '520100000000000b0000000000000003000000', ErrorCode.invalidMessage],
  ['the largest length there is', '10000000ffffffff', ErrorCode.messageTooLarge],
  ['the largest length of an unknown type', 'a0000000ffffffff', ErrorCode.messageTooLarge],
  ['a PING over 1 KiB', '3000000000000401', ErrorCode.messageTooLarge],
  ['DATA over the limit', '1000000000010009', ErrorCode.messageTooLarge]
]

for (const [name, message, code] of REFUSED) {
  test(`refuses ${name}`, () => {
    assert.throws(() => decode(hex(message)), (err: unknown) => err instanceof FrameError && err.code === code)
  })
}

test('refuses an oversized frame in a byte stream by its header alone', () => {
  const reader = new FrameReader()
  assert.throws(() => reader.push(hex('10000000ffffffff')), { code: ErrorCode.messageTooLarge })
})

test('takes DATA of the negotiated size with a number on top', () => {
  const data = new Uint8Array(1024)
  const frame = decode(encode({ type: 'data', number: 5n, data }), 1024)
  assert.deepEqual(plain(frame), plain({ type: 'data', number: 5n, data }))
})

test('ignores bytes after the known fields', () => {
  const frame = decode(hex('500000000000001e10000102030405060708090a0b0c0d0e0f0000012c000100000300002710'))
  assert.deepEqual(plain(frame), plain({ type: 'session-id', id: ID, timeout: 300, bufferSize: 65_536 }))
})

test('ignores unknown flag bits', () => {
  assert.deepEqual(decode(hex('23fe000000000000')), { type: 'flow-control', on: false })
})

test('reports an unknown type without judging it', () => {
  assert.deepEqual(decode(hex('a0000000000000020102')), { type: 'unknown', code: 0xa0 })
})

test('shows text that is not UTF-8 with replacement characters', () => {
  assert.deepEqual(decode(hex('f00000000000000507d3026fff')), { type: 'error', code: 2003, text: 'o\ufffd' })
})

test('reads the appended fields of the resume frames', () => {
  const response: Frame = { type: 'resume-response', ok: true, start: 3n, count: 0, lastFromClient: 9n }
  const request: Frame = { type: 'resume-request', id: ID, last: 2n, token: bytes('abc') }
  assert.equal(encode(response).length, 8 + 20)
  assert.deepEqual(plain(decode(encode(response))), plain(response))
  assert.deepEqual(plain(decode(encode(request))), plain(request))
  assert.equal(toHex(encode(request)).slice(-10), '0003616263', 'a length of two bytes, then the token')
})

test('a resume request takes any token that a handshake takes', () => {
  const request: Frame = { type: 'resume-request', id: ID, last: 2n, token: new Uint8Array(4096) }
  assert.deepEqual(plain(decode(encode(request))), plain(request))
})

test('cuts a long text between two characters', () => {
  const frame = decode(encode({ type: 'error', code: 1, text: 'a' + 'é'.repeat(200) }))
  assert.deepEqual(frame, { type: 'error', code: 1, text: 'a' + 'é'.repeat(127) })
})

test('does not encode a field that is too long', () => {
  assert.throws(() => encode({ type: 'env', name: 'a'.repeat(256), value: '' }), RangeError)
})

/** Subarrays compare unequal to arrays of their own in some Node versions. */
function plain (frame: Frame): Record<string, unknown> {
  return Object.fromEntries(Object.entries(frame)
    .map(([key, value]) => [key, value instanceof Uint8Array ? toHex(value) : value]))
}
