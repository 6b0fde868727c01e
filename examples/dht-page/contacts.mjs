// The nodes that a page knows, with their addresses, kept in localStorage from one visit to the next. A WebRTC Direct
// address holds the hash of the node's certificate, so it is all that is needed to dial the node again.

const KEY = 'dht-contacts'

// What the DHT tells may be made up: no more than this is kept of it.
const MAX_CONTACTS = 500
const MAX_ADDRESSES = 4

// A node that did not answer is left alone for a minute, then for four, and so on; then it is forgotten.
const FIRST_PAUSE_MS = 60_000
const PAUSE_FACTOR = 4
const MAX_FAILURES = 5

export class Contacts {
  #contacts = load()

  get size () {
    return this.#contacts.size
  }

  get peers () {
    return [...this.#contacts.keys()]
  }

  /** Notes nodes of which somebody told, `[{ peer, addresses }]`; each address must end with `/p2p/` and the peer. */
  learn (nodes) {
    for (const { peer, addresses } of nodes) {
      const known = this.#contacts.get(peer) ?? { addresses: [], answered: 0, failures: 0, retryAt: 0 }
      known.addresses = [...new Set([...known.addresses, ...addresses])].slice(0, MAX_ADDRESSES)

      if (known.addresses.length > 0) {
        this.#contacts.set(peer, known)
      }
    }

    this.#save()
  }

  /** The node answered at this address, which is the first to be tried the next time. */
  answered (peer, address) {
    const others = this.#contacts.get(peer)?.addresses.filter(other => other !== address) ?? []
    const addresses = [address, ...others].slice(0, MAX_ADDRESSES)
    this.#contacts.set(peer, { addresses, answered: Date.now(), failures: 0, retryAt: 0 })
    this.#save()
  }

  /** The node answered at none of its addresses. */
  failed (peer) {
    const contact = this.#contacts.get(peer)

    if (contact == null) {
      return
    }

    contact.failures++
    contact.retryAt = Date.now() + FIRST_PAUSE_MS * PAUSE_FACTOR ** (contact.failures - 1)

    if (contact.failures > MAX_FAILURES) {
      this.#contacts.delete(peer)
    }

    this.#save()
  }

  /** Up to `count` nodes to dial now, those first that answered last: `[{ peer, addresses }]`. */
  toDial (count) {
    const now = Date.now()
    return this.#ranked()
      .filter(([, { retryAt }]) => retryAt <= now)
      .slice(0, count)
      .map(([peer, { addresses }]) => ({ peer, addresses }))
  }

  #ranked () {
    return [...this.#contacts].sort(([, a], [, b]) => a.failures - b.failures || b.answered - a.answered)
  }

  #save () {
    const kept = this.#ranked().slice(0, MAX_CONTACTS)
    this.#contacts = new Map(kept)
    localStorage.setItem(KEY, JSON.stringify(kept))
  }
}

function load () {
  try {
    return new Map(JSON.parse(localStorage.getItem(KEY)))
  } catch {
    return new Map()
  }
}
