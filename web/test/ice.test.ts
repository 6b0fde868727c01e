import assert from 'node:assert/strict'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { allowsChannels, endpointFor, IceServers, parseAnswer } from '../src/paths/ice.ts'

const turn = { urls: ['turn:192.0.2.1:3478?transport=udp', 'turns:turn.example:443'], username: 'u', credential: 'c' }
const answer = (iceServers: unknown, rest = {}): string => JSON.stringify({ iceServers, ...rest })

test('data channels are allowed over TLS, and to the own machine', () => {
  for (const url of ['wss://host/pty', 'ws://localhost:1/pty', 'ws://127.0.0.1/pty', 'ws://127.3.2.1/', 'ws://[::1]:8/pty', 'ws://a.localhost/']) {
    assert.equal(allowsChannels(url), true, url)
  }

  for (const url of ['ws://host/pty', 'ws://192.0.2.1/', 'ws://localhost.example/', 'ws://127.0.0.1.example/', 'ws://[fe80::1]/']) {
    assert.equal(allowsChannels(url), false, url)
  }
})

test('the token goes to the server of the WebSocket, and only if that is the one of the page', () => {
  const endpoint = (webSocket: string, origin: string): string | undefined => endpointFor(webSocket, origin)?.href
  assert.equal(endpoint('wss://host/pty', 'https://host'), 'https://host/ice')
  assert.equal(endpoint('ws://127.0.0.1:8080/pty?a#b', 'http://127.0.0.1:8080'), 'http://127.0.0.1:8080/ice')
  assert.equal(endpoint('wss://host/under/pty', 'https://host'), 'https://host/under/ice')
  assert.equal(endpoint('wss://host:444/pty', 'https://host'), undefined)
  assert.equal(endpoint('ws://host/pty', 'https://host'), undefined)
  assert.equal(endpoint('wss://other/pty', 'https://host'), undefined)
})

test('takes servers as they are told', () => {
  assert.deepEqual(parseAnswer(answer([turn, { urls: 'stun:192.0.2.1' }], { expires_in: 300 })), {
    servers: [turn, { urls: ['stun:192.0.2.1'] }],
    lifeMs: 300_000
  })
})

test('leaves out what a browser would refuse', () => {
  const { servers } = parseAnswer(answer([
    null, 7, {}, { urls: [] }, { urls: ['http://x', 5, 'stun:'] }, { urls: 'turn:192.0.2.1' }, { ...turn, credential: 5 },
    { urls: ['turn:a b', 'stun:192.0.2.1'], username: 'u' }, turn
  ]))
  assert.deepEqual(servers, [{ urls: ['stun:192.0.2.1'] }, turn])
})

test('takes no more than is useful', () => {
  assert.equal(parseAnswer(answer(Array(50).fill({ urls: 'stun:a' }))).servers.length, 8)
  assert.equal(parseAnswer(answer([{ urls: Array(50).fill('stun:a') }])).servers[0]!.urls.length, 8)
  assert.throws(() => parseAnswer(answer(Array(2000).fill({ urls: 'stun:a' }))))
  assert.throws(() => parseAnswer('[]'))
  assert.throws(() => parseAnswer('<html>'))
})

const servers: Server[] = []
after(() => servers.forEach(server => server.close()))

interface Endpoint {
  url: URL
  asked: IncomingMessage[]
  answer: (status: number, body: string) => void
  /** No answer leaves until what this gives is called. */
  hold: () => () => void
}

/** An endpoint that answers so, and what it was asked. */
async function endpoint (status: number, body = ''): Promise<Endpoint> {
  const asked: IncomingMessage[] = []
  let reply = { status, body }
  let held = Promise.resolve()
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    asked.push(request)
    void held.then(() => response.writeHead(reply.status).end(reply.body))
  })
  servers.push(server)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/ice`)
  return {
    url,
    asked,
    answer: (status, body) => { reply = { status, body } },
    hold: () => {
      let release = (): void => {}
      held = new Promise(resolve => { release = resolve })
      return release
    }
  }
}

test('asks with the token, and again when the credentials become old', async () => {
  const { url, asked } = await endpoint(200, answer([turn], { expires_in: 600 }))
  let now = 0
  const ice = new IceServers(url, 'token', () => now)
  assert.deepEqual(await ice.get(), [turn])
  now = 539_000
  assert.deepEqual(await ice.get(), [turn])
  assert.equal(asked.length, 1)
  assert.equal(asked[0]!.method, 'POST')
  assert.equal(asked[0]!.headers.authorization, 'Bearer token')
  now = 541_000
  await ice.get()
  assert.equal(asked.length, 2)
})

test('who cannot wait gets the servers of before, and the next one the new', { timeout: 10_000 }, async () => {
  const { url, asked, answer: then, hold } = await endpoint(200, answer([turn], { expires_in: 600 }))
  let now = 0
  const ice = new IceServers(url, 'token', () => now)
  let release = hold()
  assert.deepEqual(await ice.get(1), [], 'there were none before')
  release()
  assert.deepEqual(await ice.get(), [turn])
  now = 541_000
  then(200, answer([{ urls: 'stun:192.0.2.2' }]))
  release = hold()
  assert.deepEqual(await ice.get(1), [turn])
  release()
  assert.deepEqual(await ice.get(), [{ urls: ['stun:192.0.2.2'] }])
  assert.equal(asked.length, 2, 'one question at a time')
})

test('a server that has none is asked once', async () => {
  const { url, asked } = await endpoint(404)
  const ice = new IceServers(url, 'token', () => 0)
  assert.deepEqual(await ice.get(), [])
  assert.deepEqual(await ice.get(), [])
  assert.equal(asked.length, 1)
})

test('what cannot be had now may be had later', async () => {
  const { url, answer: then } = await endpoint(500)
  const ice = new IceServers(url, 'token', () => 0)
  assert.deepEqual(await ice.get(), [])
  then(200, 'nonsense')
  assert.deepEqual(await ice.get(), [])
  then(200, answer([turn]))
  assert.deepEqual(await ice.get(), [turn])
})

test('nobody is asked where there is nobody to ask', async () => {
  assert.deepEqual(await new IceServers(undefined, 'token', () => 0).get(), [])
})

test('a token that no header can carry is not sent', async () => {
  const { url, asked } = await endpoint(200, answer([turn]))
  assert.deepEqual(await new IceServers(url, 'té\nken☃', () => 0).get(), [])
  assert.equal(asked.length, 0)
})
