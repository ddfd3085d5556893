import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { readOffer } from '../src/offer.js'

const vectors = JSON.parse(readFileSync(new URL('../../vectors/f402.json', import.meta.url)))

test('tokens that a seller opens are read', () => {
  for (const { name, token, payload } of vectors.token) {
    const claims = JSON.parse(payload)
    assert.deepEqual(readOffer(bodyOf(token, claims)).claims, claims, name)
  }
})

test('tokens that cannot be read are refused', () => {
  const unreadable = vectors.token_refused.filter(({ comment }) => comment.startsWith('rightly signed'))
  assert.ok(unreadable.length > 50)
  for (const { name, token } of unreadable) {
    assert.throws(() => readOffer(bodyOf(token, {})), { details: { check: 'challenge' } }, name)
  }
})

test('a member that stands twice in a token is refused', () => {
  const { token } = vectors.token_refused.find(({ name }) => name === 'duplicate member')
  assert.throws(() => readOffer(bodyOf(token, {})), { details: { check: 'challenge' } })
})

test('an offer that contradicts its token is refused', () => {
  const { token, payload } = vectors.token.find(({ name }) => name === 'with terms')
  const claims = JSON.parse(payload)
  const good = JSON.parse(bodyOf(token, claims)).error.f402
  for (const name of Object.keys(good).filter((each) => each !== 'invoice' && each !== 'challenge')) {
    const f402 = { ...good, [name]: typeof good[name] === 'number' ? good[name] + 1 : 'x' }
    assert.throws(() => readOffer(JSON.stringify({ error: { f402 } })), { details: { check: 'agreement' } }, name)
  }
})

test('a 402 without an invoice offers nothing', () => {
  for (const body of ['', 'null', '[]', '{}', '{"error":7}', '{"error":{"f402":{"invoice":null}}}']) {
    assert.equal(readOffer(body), undefined, body)
  }
})

function bodyOf(token, c) {
  const f402 = {
    version: 1,
    network: c.net,
    asset: c.ast,
    amount: c.amt,
    mode: c.mod,
    invoice: 'fibt1',
    payment_hash: c.ph,
    pay_to: c.pay,
    expires_at: c.exp,
    redeem_until: c.rdm,
    challenge: token,
    request_hash: c.rd,
    listing: c.lst,
  }
  return JSON.stringify({ error: { f402 } })
}
