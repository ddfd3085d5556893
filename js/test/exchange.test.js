import assert from 'node:assert/strict'
import { test } from 'node:test'

import { currentRun, payable } from '../src/exchange.js'
import { MemoryJournal } from '../src/journal.js'
import { openWallet } from '../src/wallet.js'
import { BODY, framework, json, offerAnswer, parts, URL_, World } from './world.js'

const PATIENCE = { pauseMs: 1, proofs: 3, payMs: 20_000 }

function client(world, { middle = framework(currentRun), ...options } = {}) {
  const wallet = openWallet({
    rpcUrl: 'http://127.0.0.1:1',
    network: 'dev',
    maxShannon: 1_000_000n,
    patience: PATIENCE,
    fetch: world.node,
    ...options,
  })
  return { wallet, fetch: payable(wallet, middle, { fetch: world.seller }) }
}

function ask(fetch, init = {}) {
  return fetch(URL_, { method: 'POST', body: BODY, headers: { 'content-type': 'application/json' }, ...init })
}

/** Unlike AbortSignal.timeout, it keeps the test's process alive. */
function endsSoon() {
  const controller = new AbortController()
  setTimeout(() => controller.abort(new DOMException('time is over', 'TimeoutError')), 30)
  return controller.signal
}

async function codeOf(response) {
  return (await response.json()).error.code
}

test('one request, one payment', async () => {
  const world = new World()
  const { wallet, fetch } = client(world)
  const response = await ask(fetch)
  assert.deepEqual(await response.json(), { ok: true })
  assert.equal(world.paid, 1)
  assert.deepEqual(wallet.atStake(), [])
  assert.equal(wallet.spent, 184_320n + 1_000n + 1_844n)
  assert.equal(world.requests[0].get('f402-max-amount'), '1000000')
})

const ONCE = {
  503: () => json(503, 'overloaded'),
  500: () => new Response('<html>', { status: 500 }),
  425: () => json(425, 'payment_pending'),
  'in progress': () => json(409, 'request_in_progress'),
  429: () => json(429, 'rate_limit_exceeded'),
  reset: () => Promise.reject(new TypeError('fetch failed')),
}

for (const [name, turn] of Object.entries(ONCE)) {
  test(`a proof answered by ${name} is shown again`, async () => {
    const world = new World()
    world.turns.push(turn, turn)
    const { wallet, fetch } = client(world)
    assert.equal((await ask(fetch)).status, 200)
    assert.equal(world.paid, 1)
    assert.equal(wallet.atStake().length, 1, 'answered only when the body was read')
  })

  test(`a caller that repeats after ${name} pays once`, async () => {
    const world = new World()
    world.turns.push(turn, turn, turn, turn)
    const { wallet, fetch } = client(world)
    const first = await ask(fetch).catch((error) => error)
    assert.ok(first instanceof Error || first.headers.get('x-should-retry') === 'false')
    assert.deepEqual(
      wallet.atStake().map(({ state }) => state).filter((state) => state === 'proving'),
      [],
    )
    await (await ask(fetch)).text()
    assert.equal(world.paid, 1)
    assert.equal(world.offers, 1, 'the repetition asked for no new invoice')
    assert.deepEqual(wallet.atStake(), [])
  })
}

const ALWAYS = {
  'invalid_challenge': () => json(402, 'invalid_challenge'),
  'invalid_challenge with an offer': () => anew('invalid_challenge'),
  'offer_refused': () => anew('payment_required'),
  'invalid_request': () => json(400, 'invalid_request'),
}

function anew(code) {
  const { claims } = parts(99)
  return offerAnswer(claims, 'fibd99', code)
}

for (const [name, turn] of Object.entries(ALWAYS)) {
  for (const rounds of [1, 3]) {
    test(`a seller that keeps answering ${name} is paid once (${rounds} rounds)`, async () => {
      const world = new World()
      world.turns = Array(50).fill(turn)
      const { wallet, fetch } = client(world, { middle: framework(currentRun, { rounds }) })
      for (let attempt = 0; attempt < 3; attempt++) {
        const response = await ask(fetch).catch((error) => error)
        if (response instanceof Error) continue
        assert.equal(await codeOf(response), name.split(' ')[0])
        assert.equal(response.headers.get('payment-required'), null)
        assert.equal(response.headers.get('x-should-retry'), 'false')
      }
      assert.equal(world.paid, 1)
      assert.deepEqual(wallet.atStake().map(({ state }) => state), ['unredeemed'])
    })
  }
}

test('a redirect is not followed by a proof', async () => {
  const world = new World()
  world.turns.push(() => new Response(null, { status: 307, headers: { location: 'https://thief.test/' } }))
  const { fetch } = client(world)
  assert.equal(await codeOf(await ask(fetch)), 'offer_refused')
  assert.equal(world.requests.length, 2)
})

test('a caller whose time is over while the proof is out pays once', async () => {
  const world = new World()
  world.turns.push((_request, { signal }) => new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason))
  }))
  const { wallet, fetch } = client(world)
  await assert.rejects(ask(fetch, { signal: endsSoon() }), { name: 'TimeoutError' })
  assert.deepEqual(wallet.atStake().map(({ state }) => state), ['unredeemed'])
  assert.equal((await ask(fetch)).status, 200)
  assert.equal(world.paid, 1)
})

test('a caller whose time is over while the node pays asks the node afterwards', async () => {
  const world = new World()
  let hash
  world.sends.push((known) => {
    hash = known
    world.payments.set(known.slice(2), { payment_hash: known, status: 'Inflight' })
    return { result: { payment_hash: known, status: 'Created' } }
  })
  const { wallet, fetch } = client(world)
  await assert.rejects(ask(fetch, { signal: endsSoon() }), { name: 'TimeoutError' })
  assert.deepEqual(wallet.atStake().map(({ state }) => state), ['paying'])
  world.payments.set(hash.slice(2), { payment_hash: hash, status: 'Success' })
  assert.equal((await ask(fetch)).status, 200)
  assert.equal(world.calls.filter((method) => method === 'send_payment').length, 1)
  assert.equal(world.paid, 1)
})

test('an unknown outcome is an answer that nobody repeats, and never a second payment', async () => {
  const world = new World()
  world.sends.push('Inflight')
  const { fetch } = client(world, { patience: { ...PATIENCE, payMs: 50 } })
  for (let attempt = 0; attempt < 2; attempt++) {
    const response = await ask(fetch)
    assert.equal(response.status, 402)
    assert.equal(await codeOf(response), 'payment_outcome_unknown')
  }
  assert.equal(world.calls.filter((method) => method === 'send_payment').length, 1)
})

test('a payment that failed may be made again', async () => {
  const world = new World()
  world.sends.push('Failed')
  const { wallet, fetch } = client(world)
  assert.equal(await codeOf(await ask(fetch)), 'payment_failed')
  assert.equal(wallet.spent, 0n)
  assert.equal((await ask(fetch)).status, 200)
  assert.equal(world.paid, 1)
})

test('equal requests side by side are two needs', async () => {
  const world = new World()
  const { fetch } = client(world)
  const answers = await Promise.all([ask(fetch), ask(fetch), ask(fetch)])
  assert.deepEqual(answers.map(({ status }) => status), [200, 200, 200])
  assert.equal(world.paid, 3)
})

test('a framework that throws after the payment has paid once', async () => {
  const world = new World()
  let fail = true
  const middle = (inner) => async (input, init) => {
    const response = await framework(currentRun)(inner)(input, init)
    if (fail) {
      fail = false
      throw new Error("the user's hook")
    }
    return response
  }
  const { wallet, fetch } = client(world, { middle })
  await assert.rejects(ask(fetch), /hook/)
  assert.deepEqual(wallet.atStake().map(({ state }) => state), ['unredeemed'])
  await (await ask(fetch)).text()
  assert.equal(world.paid, 1)
  assert.deepEqual(wallet.atStake(), [])
})

test('a body that breaks off leaves the payment redeemable', async () => {
  const world = new World()
  world.turns.push(() => {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode('{"o'))
        controller.error(new TypeError('terminated'))
      },
    })
    return new Response(body, { status: 200, headers: { 'content-type': 'application/json' } })
  })
  const { wallet, fetch } = client(world)
  await assert.rejects((await ask(fetch)).text())
  assert.deepEqual(wallet.atStake().map(({ state }) => state), ['unredeemed'])
  await (await ask(fetch)).text()
  assert.equal(world.paid, 1)
})

for (const [name, text, state] of [
  ['whole', 'data: {"a":1}\n\n: f402-receipt x\n\ndata: [DONE]\n\n', undefined],
  ['whole without a receipt', 'data: {"a":1}\n\ndata: [DONE]\n\n', undefined],
  ['without its end', 'data: {"a":1}\n\n', 'unredeemed'],
  ['with an error', 'data: {"a":1}\n\ndata: {"error":{}}\n\n', 'unredeemed'],
]) {
  test(`a stream ${name}`, async () => {
    const world = new World()
    world.turns.push(() => {
      // In pieces of three bytes: lines are found across them.
      const pieces = text.match(/[^]{1,3}/g).map((piece) => new TextEncoder().encode(piece))
      const body = ReadableStream.from(pieces)
      return new Response(body, { status: 200, headers: { 'content-type': 'text/event-stream' } })
    })
    const { wallet, fetch } = client(world)
    assert.equal(await (await ask(fetch)).text(), text)
    assert.equal(wallet.atStake()[0]?.state, state)
  })
}

test('what the framework accepted must be what the body offers', async () => {
  const world = new World()
  const middle = (inner) => async (input, init) => {
    const response = await inner(input, init)
    const accepted = JSON.parse(Buffer.from(response.headers.get('payment-required'), 'base64').toString())
    await currentRun().pay({ ...accepted, amount: '1' })
  }
  const { fetch } = client(world, { middle })
  assert.equal(await codeOf(await ask(fetch)), 'offer_refused')
  assert.deepEqual(world.calls, [])
})

test("a framework's own refusal is told once, and a 402 without an offer as it is", async () => {
  const world = new World()
  const middle = (inner) => async (input, init) => {
    await inner(input, init)
    throw new Error('over my cap')
  }
  const { fetch } = client(world, { middle })
  const response = await ask(fetch)
  assert.equal(response.status, 402)
  assert.match((await response.json()).error.message, /over my cap/)
  world.offer = () => json(402, 'price_above_max')
  assert.equal(await codeOf(await ask(fetch)), 'price_above_max')
})

test('caps', async () => {
  const world = new World()
  const dear = client(world, { maxShannon: 10n })
  assert.equal(await codeOf(await ask(dear.fetch)), 'offer_refused')
  const poor = client(world, { maxSessionShannon: 200_000 })
  assert.equal((await ask(poor.fetch)).status, 200)
  assert.equal(await codeOf(await ask(poor.fetch, { body: BODY.replace('hi', 'ho') })), 'budget_exceeded')
  assert.equal(world.paid, 1)
})

test('a wallet has a cap, a network and whole sums', () => {
  const good = { rpcUrl: 'http://127.0.0.1:1', network: 'dev', maxShannon: 1 }
  openWallet(good)
  for (const bad of [
    { maxShannon: undefined },
    { maxShannon: 0 },
    { maxShannon: 1.5 },
    { maxShannon: -1n },
    { maxShannon: '5' },
    { network: 'main' },
    { rpcUrl: 'nowhere' },
    { pinned: { 'https://a.test': { payTo: 'x' } } },
  ]) {
    assert.throws(() => openWallet({ ...good, ...bad }), TypeError)
  }
})

test('other requests pass, and a scheme outside of payable refuses', async () => {
  const world = new World()
  const seen = []
  const { fetch } = client(world, { middle: () => async (input) => seen.push(String(input)) })
  await fetch('https://seller.test/v1/models')
  await fetch('https://seller.test/v1/f402/keys', { method: 'POST', body: '{}' })
  assert.equal(seen.length, 2)
  assert.throws(() => currentRun(), { code: 'offer_refused' })
})

test('a journal that takes no row stops the payment', async () => {
  class Full extends MemoryJournal {
    _write() {
      throw new Error('no space')
    }
  }
  const world = new World()
  const { wallet, fetch } = client(world, { journal: new Full() })
  assert.equal(await codeOf(await ask(fetch)), 'ledger_unavailable')
  assert.deepEqual(world.calls, ['parse_invoice'])
  assert.equal(wallet.spent, 0n)
})
