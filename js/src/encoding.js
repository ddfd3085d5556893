// Texts that are hashed, signed or compared: each value has exactly one.

import { createHash } from 'node:crypto'

export const MAX_AMOUNT = 2n ** 128n - 1n

/** SHA-256 of a string or bytes, as lower-case hex. */
export function sha256Hex(data) {
  return createHash('sha256').update(data).digest('hex')
}

/** Base64url without padding. */
export function toBase64url(data) {
  return Buffer.from(data).toString('base64url')
}

/** The bytes of strict base64url; undefined for padding, another alphabet or stray bits. */
export function fromBase64url(text) {
  if (typeof text !== 'string' || !/^[A-Za-z0-9_-]*$/.test(text)) return undefined
  const raw = Buffer.from(text, 'base64url')
  return raw.toString('base64url') === text ? raw : undefined
}

/** RFC 8785 without floats. Throws for what it cannot hold. */
export function jcs(value) {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') {
    return JSON.stringify(value)
  }
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw new TypeError('canonical JSON holds safe integers only')
    return String(value)
  }
  if (Array.isArray(value)) return `[${value.map(jcs).join(',')}]`
  if (typeof value !== 'object') throw new TypeError(`canonical JSON has no ${typeof value}`)
  // Array.prototype.sort compares UTF-16 code units, as the RFC demands.
  const names = Object.keys(value).sort()
  return `{${names.map((name) => `${JSON.stringify(name)}:${jcs(value[name])}`).join(',')}}`
}

/** An amount as a BigInt; undefined for any other text than its one decimal form. */
export function parseAmount(text) {
  if (typeof text !== 'string' || !/^(0|[1-9][0-9]{0,38})$/.test(text)) return undefined
  const amount = BigInt(text)
  return amount <= MAX_AMOUNT ? amount : undefined
}

/** True for exactly this many bytes of lower-case hex. */
export function isHex(text, bytes) {
  return typeof text === 'string' && text.length === 2 * bytes && /^[0-9a-f]*$/.test(text)
}

/** Division that rounds up: the payer is never short by one. */
export function divCeil(amount, by) {
  return (amount + by - 1n) / by
}

/** The digest that names one HTTP request (f402-spec, "Request digest"). */
export function requestDigest(method, target, body) {
  return sha256Hex(jcs({ body: sha256Hex(body), domain: 'f402:http:1', method, target }))
}
