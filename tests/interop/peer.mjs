// A js-libp2p peer for the interoperability tests, driven by JSON lines: one request a line on stdin, one answer a line on
// stdout ({"id", "result"} or {"id", "error"}), and {"event", …} for what happens by itself. It ends with stdin.
import { createInterface } from 'node:readline'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { autoNAT } from '@libp2p/autonat'
import { gossipsub, StrictSign, TopicValidatorResult } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const tell = (message) => process.stdout.write(JSON.stringify(message) + '\n')
const hex = (bytes) => Buffer.from(bytes).toString('hex')
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'hex'))

let node

// Our own protocols carry messages with an unsigned varint for their length; below 128 bytes that is one byte.
async function echo (stream) {
  for await (const chunk of stream) stream.send(chunk.subarray())
  await stream.close()
}

const commands = {
  async start ({ listen, swarmKey, kad, namespace, autonat }) {
    const services = {
      identify: identify({ agentVersion: 'interop-js/1' }),
      ping: ping(),
      pubsub: gossipsub({
        globalSignaturePolicy: StrictSign, emitSelf: false, allowPublishToZeroTopicPeers: true, heartbeatInterval: 200
      })
    }
    if (kad !== undefined) {
      services.dht = kadDHT({
        protocol: kad,
        clientMode: false,
        kBucketSize: 20,
        peerInfoMapper: passthroughMapper, // loopback addresses count
        validators: { [namespace]: async () => {} },
        selectors: { [namespace]: () => 0 }
      })
    }
    if (autonat) services.autonat = autoNAT()
    node = await createLibp2p({
      addresses: { listen },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      connectionProtector: swarmKey === undefined ? undefined : preSharedKey({ psk: new TextEncoder().encode(swarmKey) }),
      services
    })
    await node.handle('/interop/echo/1', (stream) => { echo(stream).catch(() => stream.abort(new Error('echo failed'))) })
    node.addEventListener('peer:identify', ({ detail }) => tell({
      event: 'identified',
      peer: detail.peerId.toString(),
      protocols: detail.protocols,
      addrs: detail.listenAddrs.map(String),
      observed: detail.observedAddr?.toString(),
      signed: detail.signedPeerRecord !== undefined
    }))
    node.addEventListener('peer:connect', ({ detail }) => tell({ event: 'connected', peer: detail.toString() }))
    node.addEventListener('peer:disconnect', ({ detail }) => tell({ event: 'disconnected', peer: detail.toString() }))
    node.services.pubsub.addEventListener('message', ({ detail }) => tell({
      event: 'message', topic: detail.topic, from: detail.from?.toString(), data: hex(detail.data), signed: detail.type
    }))
    return { peer: node.peerId.toString(), addrs: node.getMultiaddrs().map(String) }
  },

  async dial ({ addr, ms = 8000 }) {
    const connection = await node.dial(multiaddr(addr), { signal: AbortSignal.timeout(ms) })
    return { peer: connection.remotePeer.toString() }
  },

  async ping ({ addr }) {
    return { ms: await node.services.ping.ping(multiaddr(addr), { signal: AbortSignal.timeout(8000) }) }
  },

  async say ({ addr, protocol, message }) {
    const stream = await node.dialProtocol(multiaddr(addr), protocol, { signal: AbortSignal.timeout(8000) })
    const data = bytes(message)
    stream.send(Uint8Array.from([data.length, ...data]))
    const got = []
    for await (const chunk of stream) {
      got.push(...chunk.subarray())
      if (got.length > data.length) break
    }
    await stream.close()
    return { answer: hex(got.slice(1)) }
  },

  // A question of AutoNAT in js-libp2p's own encoding, and the answer as it reads it. Its service would not ask about
  // loopback.
  async dialback ({ addr, addrs }) {
    const codec = new URL('../../node_modules/@libp2p/autonat/dist/src/pb/index.js', import.meta.url)
    const { Message } = await import(codec)
    const stream = await node.dialProtocol(multiaddr(addr), '/libp2p/autonat/1.0.0', { signal: AbortSignal.timeout(8000) })
    const data = Message.encode({
      type: Message.MessageType.DIAL,
      dial: { peer: { id: node.peerId.toMultihash().bytes, addrs: addrs.map((text) => multiaddr(text).bytes) } }
    })
    stream.send(Uint8Array.from([data.length, ...data]))
    const got = []
    for await (const chunk of stream) {
      got.push(...chunk.subarray())
      if (got.length > got[0]) break
    }
    await stream.close()
    const { dialResponse } = Message.decode(Uint8Array.from(got.slice(1)))
    return { status: dialResponse.status, addr: dialResponse.addr && multiaddr(dialResponse.addr).toString() }
  },

  // What js-libp2p does not do by itself: the negotiation and the first message of a stream in one go, as go-libp2p sends
  // them. Every byte of the answer comes back.
  async blurt ({ addr, protocol, message }) {
    const connection = await node.dial(multiaddr(addr), { signal: AbortSignal.timeout(8000) })
    const stream = await connection.muxer.createStream({})
    const line = (text) => [text.length + 1, ...Buffer.from(text + '\n')]
    const data = bytes(message)
    const want = [...line('/multistream/1.0.0'), ...line(protocol), data.length, ...data]
    stream.send(Uint8Array.from(want))
    const got = []
    for await (const chunk of stream) {
      got.push(...chunk.subarray())
      if (got.length >= want.length) break
    }
    await stream.close()
    return { answer: hex(got), sent: hex(want) }
  },

  // Messages whose bytes begin with `reject` are refused by the topic's validator, the others accepted.
  async subscribe ({ topic, reject }) {
    if (reject !== undefined) {
      node.services.pubsub.topicValidators.set(topic, (_peer, message) =>
        hex(message.data).startsWith(reject) ? TopicValidatorResult.Reject : TopicValidatorResult.Accept)
    }
    node.services.pubsub.subscribe(topic)
    return {}
  },

  async subscribers ({ topic }) {
    return { peers: node.services.pubsub.getSubscribers(topic).map(String) }
  },

  async publish ({ topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, bytes(data))
    return { recipients: recipients.map(String) }
  },

  async put ({ key, value }) {
    await node.services.dht.setMode('server')
    let stored = 0
    for await (const event of node.services.dht.put(bytes(key), bytes(value), { signal: AbortSignal.timeout(8000) })) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE') stored += 1
    }
    return { stored }
  },

  // Only what came over the wire counts: an answer from our own store has our own id on it.
  async get ({ key }) {
    const found = []
    for await (const event of node.services.dht.get(bytes(key), { signal: AbortSignal.timeout(8000) })) {
      if (event.name === 'VALUE') found.push({ value: hex(event.value), from: event.from.toString() })
    }
    return { found }
  },

  async provide ({ digest }) {
    let told = 0
    for await (const event of node.services.dht.provide(cid(digest), { signal: AbortSignal.timeout(8000) })) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'ADD_PROVIDER') told += 1
    }
    return { told }
  },

  async providers ({ digest }) {
    const found = []
    for await (const event of node.services.dht.findProviders(cid(digest), { signal: AbortSignal.timeout(8000) })) {
      if (event.name === 'PROVIDER') {
        for (const provider of event.providers) {
          found.push({ peer: provider.id.toString(), addrs: provider.multiaddrs.map(String), from: event.from.toString() })
        }
      }
    }
    return { found }
  },

  async peers () {
    return { peers: node.getPeers().map(String), table: node.services.dht?.routingTable.size ?? 0 }
  }
}

// Provider keys are multihashes: sha2-256 (0x12) of 32 bytes here, raw (0x55) because a CID wants a codec.
const cid = (digest) => CID.createV1(0x55, Digest.create(0x12, bytes(digest)))

async function serve ({ id, command, ...rest }) {
  try {
    tell({ id, result: await commands[command](rest) })
  } catch (error) {
    tell({ id, error: `${error.name}: ${error.message}` })
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('line', (line) => { serve(JSON.parse(line)) })
lines.on('close', () => process.exit(0))
