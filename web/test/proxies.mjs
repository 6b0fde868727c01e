// Proxies between page and program, which break connections like a network does: without telling anybody.
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'

/** Forwards TCP connections to a port of this machine. */
export async function startTcpProxy (targetPort) {
  const pairs = new Set()
  let closed = false

  const server = createServer(client => {
    if (closed) {
      client.destroy()
      return
    }

    const target = connect(targetPort, '127.0.0.1')
    const pair = { client, target, bytes: 0, swallow: false }
    pairs.add(pair)
    join(pair, client, target)
    join(pair, target, client)
  })

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  function join (pair, from, to) {
    from.on('data', data => {
      if (!pair.swallow) {
        to.write(data)
      }
    })
    from.on('error', () => {})
    from.on('close', () => {
      pairs.delete(pair)
      to.destroy()
    })
  }

  return {
    port: server.address().port,
    /** Resets what is open. */
    cut: () => {
      for (const { client, target } of pairs) {
        client.resetAndDestroy()
        target.resetAndDestroy()
      }
    },
    /** What is open goes on, but nothing passes any more. */
    swallow: () => pairs.forEach(pair => { pair.swallow = true }),
    /** Refuses new connections, or takes them again. */
    refuse: on => { closed = on },
    stop: () => {
      pairs.forEach(({ client, target }) => { client.destroy(); target.destroy() })
      server.close()
    }
  }
}

/** Forwards UDP packets to a port of this machine, with an own socket for each sender. */
export async function startUdpProxy (targetPort, host) {
  const front = createSocket('udp4')
  const senders = new Map()
  let closed = false
  front.bind(0, host)
  await once(front, 'listening')

  front.on('message', (packet, { address, port }) => {
    const key = `${address}:${port}`

    if (!senders.has(key)) {
      if (closed) {
        return
      }

      const back = createSocket('udp4')
      back.on('message', answer => {
        if (!senders.get(key).dead) {
          front.send(answer, port, address)
        }
      })
      senders.set(key, { back, dead: false })
    }

    const sender = senders.get(key)

    if (!sender.dead) {
      sender.back.send(packet, targetPort, host)
    }
  })

  return {
    port: front.address().port,
    /** Nothing passes any more for who was there; others may come. */
    cut: () => senders.forEach(sender => { sender.dead = true }),
    refuse: on => { closed = on },
    stop: () => {
      front.close()
      senders.forEach(({ back }) => back.close())
    }
  }
}
