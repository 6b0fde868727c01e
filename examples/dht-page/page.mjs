// The page: buttons for what dht.mjs can do. The same functions are in `globalThis.dht`, for the console and run.mjs.
import { Contacts } from './contacts.mjs'
import { createNode, dialAll, findProvider, getRecord, heardOf, walk } from './dht.mjs'

const contacts = new Contacts()
let node

const dht = {
  async start () {
    await started()
  },

  /** Enters the DHT by the address of any of its nodes. */
  async bootstrap (address) {
    const [outcome] = await dht.dial([{ peer: address.split('/').pop(), addresses: [address] }])

    if (outcome.reason != null) {
      throw new Error(outcome.reason)
    }

    return outcome
  },

  /** Walks over the table of the DHT until `count` nodes are known, or to its end. */
  async explore (count) {
    for await (const nodes of walk(await started())) {
      contacts.learn(nodes)

      if (contacts.size >= count) {
        break
      }
    }

    return { known: contacts.size }
  },

  /** Dials up to `count` stored nodes at once. */
  async connect (count) {
    return await dht.dial(contacts.toDial(count))
  },

  /** The peers that are stored. */
  stored () {
    return contacts.peers
  },

  async dial (nodes) {
    const outcomes = await dialAll(await started(), nodes)
    outcomes.forEach(({ peer, address }) => address != null ? contacts.answered(peer, address) : contacts.failed(peer))
    return outcomes
  },

  async get (key) {
    return await lookUp(getRecord, key)
  },

  async find (key) {
    return await lookUp(findProvider, key)
  },

  /** Closes all connections. Only without the node: kad-dht opens connections to nodes near to itself again. */
  async stop () {
    const stopping = await node
    node = undefined
    await stopping?.stop()
    return { left: stopping?.getConnections().length ?? 0 }
  },

  async state () {
    const connections = (await node)?.getConnections() ?? []
    return {
      connections: connections.length,
      peers: new Set(connections.map(({ remotePeer }) => remotePeer.toString())).size,
      known: contacts.size,
      inTable: (await node)?.services.dht.routingTable.size ?? 0
    }
  }
}

globalThis.dht = dht

async function started () {
  node ??= createNode()
  return await node
}

/** Each look-up tells of nodes on its way. */
async function lookUp (what, ...args) {
  const running = await started()

  try {
    return await what(running, ...args)
  } finally {
    contacts.learn(await heardOf(running))
  }
}

const field = name => document.getElementsByName(name)[0].value.trim()

const buttons = {
  bootstrap: async () => await dht.bootstrap(field('address')),
  explore: async () => await dht.explore(Infinity),
  connect: async () => await dht.connect(Number(field('count'))),
  get: async () => await dht.get(field('record')),
  find: async () => await dht.find(field('provided')),
  stop: dht.stop
}

for (const button of document.getElementsByTagName('button')) {
  button.onclick = async () => {
    button.disabled = true
    const start = performance.now()
    const result = await buttons[button.id]().catch(err => `${err.name}: ${err.message}`)
    button.disabled = false
    const ms = Math.round(performance.now() - start)
    say(`${button.textContent}, ${ms} ms: ${JSON.stringify(result ?? 'done', null, 2)}`)
  }
}

setInterval(async () => {
  const { connections, known, inTable } = await dht.state()
  document.getElementById('state').textContent =
    `${connections} connections, ${inTable} nodes in the routing table, ${known} nodes stored`
}, 1000)

function say (text) {
  document.getElementById('log').prepend(`${text}\n`)
}
