import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FiberNode } from '../src/node.js'

const HASH = 'ab'.repeat(32)
const MISSING = { error: { message: `Payment session not found: Hash256(0x${HASH})` } }
const BROKEN = new TypeError('fetch failed')
const REFUSED_WIRE = Object.assign(new TypeError('fetch failed'), { cause: { code: 'ECONNREFUSED' } })

function record(status, more = {}) {
  return { result: { payment_hash: `0x${HASH}`, status, ...more } }
}

/** A node that answers by a script; the last answer of a method is repeated. */
function scripted(script) {
  const calls = []
  const fetch = async (_url, { body }) => {
    const { method, params } = JSON.parse(body)
    calls.push({ method, params: params[0] })
    const answers = script[method]
    const answer = answers.length > 1 ? answers.shift() : answers[0]
    if (answer instanceof Error) throw answer
    return Response.json(answer)
  }
  return { node: new FiberNode({ rpcUrl: 'http://127.0.0.1:1', fetch }), calls }
}

function pay(node, options = {}) {
  return node.pay({
    invoice: 'fibd1',
    paymentHash: HASH,
    amount: 79_800n,
    feeCap: 1_798n,
    lookUpFirst: false,
    timeoutMs: 20_000,
    ...options,
  })
}

const count = (calls, method) => calls.filter((call) => call.method === method).length

test('sent once, looked up until it succeeded', async () => {
  const { node, calls } = scripted({
    send_payment: [record('Created')],
    get_payment: [record('Inflight'), record('Success', { payment_preimage: `0x${'cd'.repeat(32)}` })],
  })
  assert.deepEqual(await pay(node), { preimage: 'cd'.repeat(32) })
  assert.equal(count(calls, 'send_payment'), 1)
  assert.deepEqual(calls[0].params, { invoice: 'fibd1', max_fee_amount: '0x706', max_fee_rate: '0x17' })
  assert.deepEqual(calls[1].params, { payment_hash: `0x${HASH}` })
})

test('a payment that was made before is not sent', async () => {
  const { node, calls } = scripted({ get_payment: [record('Success')], send_payment: [BROKEN] })
  assert.deepEqual(await pay(node, { lookUpFirst: true }), { preimage: undefined })
  assert.equal(count(calls, 'send_payment'), 0)
})

test('one that the node does not know is sent', async () => {
  const { node, calls } = scripted({ get_payment: [MISSING, record('Success')], send_payment: [record('Created')] })
  await pay(node, { lookUpFirst: true })
  assert.equal(count(calls, 'send_payment'), 1)
})

test('an old failure may be sent again, and does not count as the new one', async () => {
  const old = record('Failed', { failed_error: 'old', last_updated_at: '0x1' })
  const { node, calls } = scripted({
    get_payment: [old, old, record('Success')],
    send_payment: [BROKEN],
  })
  await pay(node, { lookUpFirst: true })
  assert.equal(count(calls, 'send_payment'), 1)
})

test('a send without an answer is looked up, not repeated at once', async () => {
  const { node, calls } = scripted({
    send_payment: [BROKEN],
    get_payment: [MISSING, record('Inflight'), record('Success')],
  })
  await pay(node)
  assert.equal(count(calls, 'send_payment'), 1)
})

for (const [name, script, code, money] of [
  ['failed', { send_payment: [record('Created')], get_payment: [record('Failed', { failed_error: 'x' })] }, 'payment_failed', 'unmoved'],
  ['no route', { send_payment: [{ error: { message: 'Failed to build route' } }], get_payment: [MISSING] }, 'no_route', 'unmoved'],
  ['refused', { send_payment: [{ error: { message: 'invoice is expired' } }], get_payment: [MISSING] }, 'payment_failed', 'unmoved'],
  ['node away', { send_payment: [REFUSED_WIRE], get_payment: [REFUSED_WIRE] }, 'fiber_unavailable', 'unmoved'],
  ['under way for ever', { send_payment: [record('Created')], get_payment: [record('Inflight')] }, 'payment_outcome_unknown', 'unknown'],
  ['node silent after the send', { send_payment: [record('Created')], get_payment: [BROKEN] }, 'payment_outcome_unknown', 'unknown'],
  ['node lost it', { send_payment: [record('Created')], get_payment: [MISSING] }, 'payment_outcome_unknown', 'unknown'],
  ['no answer at all', { send_payment: [BROKEN], get_payment: [BROKEN] }, 'payment_outcome_unknown', 'unknown'],
  ['contradicts itself', { send_payment: [{ error: { message: 'Payment session already exists: x' } }], get_payment: [MISSING] }, 'payment_outcome_unknown', 'unknown'],
  ['another payment', { send_payment: [{ result: { payment_hash: `0x${'ff'.repeat(32)}`, status: 'Success' } }], get_payment: [MISSING] }, 'payment_outcome_unknown', 'unknown'],
]) {
  test(`how it ends: ${name}`, async () => {
    const { node, calls } = scripted(script)
    await assert.rejects(pay(node, money === 'unknown' ? { timeoutMs: 100 } : {}), { code, money })
    assert.equal(count(calls, 'send_payment'), 1)
  })
}

test('who leaves stops waiting, and the outcome is unknown', async () => {
  const { node } = scripted({ send_payment: [record('Created')], get_payment: [record('Inflight')] })
  const controller = new AbortController()
  setTimeout(() => controller.abort(), 20)
  await assert.rejects(pay(node, { timeoutMs: 60_000, signal: controller.signal }), { money: 'unknown' })
})

test('an invoice as the node reads it', async () => {
  const invoice = {
    currency: 'Fibd',
    amount: '0xf4240',
    signature: '0201',
    data: {
      timestamp: '0x1a2052c74ee',
      payment_hash: `0x${HASH}`,
      attrs: [{ description: 'd' }, { expiry_time: '0x258' }, { hash_algorithm: 'sha256' }, { payee_public_key: '02' }],
    },
  }
  const { node } = scripted({ parse_invoice: [{ result: { invoice } }] })
  assert.deepEqual(await node.parseInvoice('fibd1'), {
    currency: 'Fibd',
    amount: 1_000_000n,
    isSigned: true,
    timestampMs: 0x1a2052c74een,
    paymentHash: HASH,
    payee: '02',
    description: 'd',
    expiryS: 600n,
    hashAlgorithm: 'sha256',
    isUdt: false,
    finalDeltaMs: undefined,
  })
})

test('an invoice that no node reads, or with an attribute twice', async () => {
  const bad = scripted({ parse_invoice: [{ error: { message: 'Invalid signature' } }] })
  await assert.rejects(bad.node.parseInvoice('x'), { code: 'invalid_invoice', money: 'unmoved' })
  const data = { timestamp: '0x1', payment_hash: `0x${HASH}`, attrs: [{ description: 'a' }, { description: 'b' }] }
  const twice = scripted({ parse_invoice: [{ result: { invoice: { currency: 'Fibd', data } } }] })
  await assert.rejects(twice.node.parseInvoice('x'), { code: 'invalid_invoice' })
  const away = scripted({ parse_invoice: [BROKEN] })
  await assert.rejects(away.node.parseInvoice('x'), { code: 'fiber_unavailable', money: 'unmoved' })
})

test('the node is shown its token', async () => {
  let seen
  const fetch = async (_url, { headers }) => {
    seen = headers.authorization
    return Response.json({ result: {} })
  }
  await new FiberNode({ rpcUrl: 'http://127.0.0.1:1', rpcToken: 'biscuit', fetch }).call('node_info', {})
  assert.equal(seen, 'Bearer biscuit')
})
