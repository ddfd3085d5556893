import assert from 'node:assert/strict'
import { test } from 'node:test'

import { checkOffer, ownCeilings } from '../src/checks.js'
import { FiberNode } from '../src/node.js'
import { BODY, ORIGIN, parts, PAYEE } from './world.js'

async function read(invoice) {
  const fetch = async () => Response.json({ result: { invoice } })
  return new FiberNode({ rpcUrl: 'http://127.0.0.1:1', fetch }).parseInvoice('fibd1')
}

function knowledge({ claims }) {
  return {
    origin: ORIGIN,
    network: 'fiber:dev',
    digest: claims.rd,
    maxShannon: 1_000_000n,
    ceilings: { prompt: 5_000, completion: 64, n: 1 },
    nowS: claims.iat,
    payTo: PAYEE,
    price: { requestFee: 1120n, inputPerMtok: 200_000_000n, outputPerMtok: 600_000_000n },
  }
}

test('an honest offer passes', async () => {
  const { claims, invoice } = parts()
  checkOffer({ claims }, await read(invoice), knowledge({ claims }))
  const bare = { ceilings: undefined, payTo: undefined, price: undefined }
  checkOffer({ claims }, await read(invoice), { ...knowledge({ claims }), ...bare })
})

const attribute = (invoice, name) => invoice.data.attrs.find((each) => name in each)

/** One lie each, and the check that notices it: nothing else is wrong. */
const LIES = {
  origin: (p, e) => (e.origin = 'http://seller.test'),
  realm: (p) => (p.claims.iss = 'other.test'),
  network: (p) => (p.claims.net = 'fiber:testnet'),
  asset: (p) => (p.claims.ast = `udt:0x${'ab'.repeat(32)}`),
  request: (p) => (p.claims.rd = '00'.repeat(32)),
  mode: (p) => (p.claims.mod = 'hold'),
  amount: (p) => {
    p.claims.amt = '0'
    p.claims.prc = ['0', '0', '0']
    p.invoice.amount = '0x0'
  },
  cap: (p, e) => (e.maxShannon = 184_319n),
  quote: (p) => delete p.claims.prc,
  ceilings: (p, e) => (e.ceilings.completion = 63),
  price: (p, e) => (e.price.requestFee = 1119n),
  expiry: (p) => (p.claims.exp = p.claims.iat + 601),
  payee: (p, e) => (e.payTo = `03${'00'.repeat(32)}`),
  refund: (p) => (p.claims.rto = `03${'00'.repeat(32)}`),
  signed: (p) => (p.invoice.signature = null),
  signer: (p) => (attribute(p.invoice, 'payee_public_key').payee_public_key = `03${'00'.repeat(32)}`),
  'invoice network': (p) => (p.invoice.currency = 'Fibt'),
  'invoice amount': (p) => (p.invoice.amount = '0x1'),
  'invoice asset': (p) => p.invoice.data.attrs.push({ udt_script: '0x00' }),
  'payment hash': (p) => (p.invoice.data.payment_hash = `0x${'00'.repeat(32)}`),
  'hash algorithm': (p) => (attribute(p.invoice, 'hash_algorithm').hash_algorithm = 'ckb_hash'),
  description: (p) => (attribute(p.invoice, 'description').description = `f402:1:${'00'.repeat(32)}`),
  'invoice expiry': (p) => (attribute(p.invoice, 'expiry_time').expiry_time = '0x259'),
  'lock time': (p) => (attribute(p.invoice, 'final_htlc_minimum_expiry_delta').final_htlc_minimum_expiry_delta = '0xc04301'),
}

for (const [check, lie] of Object.entries(LIES)) {
  test(`the check ${check}`, async () => {
    const made = parts()
    const known = knowledge(made)
    lie(made, known)
    const invoice = await read(made.invoice)
    assert.throws(() => checkOffer(made, invoice, known), { code: 'offer_refused', details: { check } })
  })
}

test('loopback needs no https', async () => {
  const { claims, invoice } = parts()
  for (const host of ['localhost', '127.0.0.1', '[::1]']) {
    const known = { ...knowledge({ claims }), origin: `http://${host}:9402` }
    checkOffer({ claims: { ...claims, iss: `${host}:9402` } }, await read(invoice), known)
  }
})

test('what a request itself can use', () => {
  const bytes = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
  const chat = ownCeilings('/v1/chat/completions?x=1', bytes(BODY))
  assert.equal(chat.completion, 64)
  assert.equal(chat.n, 1)
  assert.ok(chat.prompt > 4_096 && chat.prompt < 6_000)
  assert.equal(ownCeilings('/v1/chat/completions', bytes({ n: 3 })).n, 3)
  assert.equal(ownCeilings('/v1/chat/completions', bytes({ n: 3 })).completion, undefined)
  assert.equal(ownCeilings('/v1/chat/completions', bytes({ max_completion_tokens: 5, max_tokens: 9 })).completion, 5)
  assert.equal(ownCeilings('/v1/completions', bytes({ prompt: ['a', 'b'], n: 2, max_tokens: 1 })).n, 4)
  assert.equal(ownCeilings('/v1/embeddings', bytes({ input: ['a', 'b'] })).n, 2)
  const image = { messages: [{ content: [{ type: 'image_url', image_url: { url: 'x' } }] }] }
  for (const [target, body] of [
    ['/v1/other', BODY],
    ['/v1/chat/completions', image],
    ['/v1/chat/completions', 'nonsense'],
    ['/v1/chat/completions', 'null'],
  ]) {
    assert.equal(ownCeilings(target, bytes(body)), undefined)
  }
})
