import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { fromBase64url, jcs, parseAmount, requestDigest } from '../src/encoding.js'

const vectors = JSON.parse(readFileSync(new URL('../../vectors/f402.json', import.meta.url)))

test('canonical JSON as the vectors have it', () => {
  for (const { name, json, canonical } of vectors.canonical_json) {
    assert.equal(jcs(JSON.parse(json)), canonical, name)
  }
})

test('canonical JSON refuses what it cannot hold', () => {
  for (const value of [0.5, 2 ** 53, NaN, undefined, 1n, { a: undefined }]) assert.throws(() => jcs(value))
})

test('request digests as the vectors have them', () => {
  for (const { name, method, target, body_base64: body, digest } of vectors.request_digest) {
    assert.equal(requestDigest(method, target, Buffer.from(body, 'base64')), digest, name)
  }
})

test('amounts have one text', () => {
  for (const { name, text, valid } of vectors.amount) {
    assert.equal(parseAmount(text), valid ? BigInt(text) : undefined, name)
  }
})

test('base64url has one text', () => {
  assert.equal(fromBase64url('Zm9v').toString(), 'foo')
  for (const text of ['Zm9v=', 'Zm9vYg==', 'Zm9vYh', 'a+b/', 'A', 7, undefined]) {
    assert.equal(fromBase64url(text), undefined)
  }
})
