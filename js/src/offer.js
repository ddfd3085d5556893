// The offer of a 402: read from its body, the claims taken from the token itself.

import { fromBase64url, isHex, jcs, parseAmount } from './encoding.js'
import { refused } from './errors.js'

export const MAX_OFFER_BYTES = 64 * 1024
const MAX_INVOICE_CHARS = 2048
const MAX_TOKEN_CHARS = 4096
const MAX_SAFE_TOKENS = 2 ** 40

/** The members of `error.f402` that repeat the token's claims. */
const REPEATED = {
  network: 'net',
  asset: 'ast',
  amount: 'amt',
  mode: 'mod',
  payment_hash: 'ph',
  pay_to: 'pay',
  expires_at: 'exp',
  redeem_until: 'rdm',
  request_hash: 'rd',
  listing: 'lst',
}

/** The offer in a 402's body; undefined when it has no invoice to pay. Throws when it lies. */
export function readOffer(text) {
  const details = errorOf(text)?.f402
  const { invoice, challenge: token } = details ?? {}
  if (typeof invoice !== 'string' || typeof token !== 'string') return undefined
  if (invoice.length > MAX_INVOICE_CHARS || token.length > MAX_TOKEN_CHARS) {
    throw refused('size', 'the invoice or the challenge is too long')
  }
  const claims = readClaims(token)
  for (const [name, claim] of Object.entries(REPEATED)) {
    if (details[name] !== claims[claim]) {
      throw refused('agreement', `the offer's ${name} is not what its challenge says`)
    }
  }
  if (details.version !== 1 || ('quote' in details && !isSame(details.quote, quoteOf(claims)))) {
    throw refused('agreement', 'the offer is not what its challenge says')
  }
  return { invoice, token, claims }
}

function isSame(given, expected) {
  try {
    return jcs(given) === jcs(expected)
  } catch {
    return false
  }
}

/** The `quote` member as the claims say it; null where they say none. */
function quoteOf({ ast, amt, prc, tok }) {
  if (prc === undefined) return null
  return {
    asset: ast,
    unit: 'shannon',
    request_fee: prc[0],
    input_per_mtok: prc[1],
    output_per_mtok: prc[2],
    prompt_tokens_max: tok[0],
    completion_tokens_max: tok[1],
    n: tok[2],
    max: amt,
  }
}

/** The `error` object of an answer's body, or undefined. */
export function errorOf(text) {
  try {
    const error = JSON.parse(text).error
    return error !== null && typeof error === 'object' ? error : undefined
  } catch {
    return undefined
  }
}

function readClaims(token) {
  const parts = token.split('.')
  const raw = parts.length === 4 && parts[0] === 'f1' ? fromBase64url(parts[2]) : undefined
  let claims
  try {
    claims = JSON.parse(raw.toString('utf8'))
  } catch {
    throw refused('challenge', 'the challenge cannot be read')
  }
  // The token is canonical, so reading and writing it gives it back. That also refuses a member
  // that stands twice, which JSON.parse would not notice.
  if (!isClaims(claims) || jcs(claims) !== raw.toString('utf8')) {
    throw refused('challenge', 'the challenge cannot be read')
  }
  return claims
}

function isClaims(c) {
  const isTime = (value) => Number.isSafeInteger(value) && value >= 0
  return (
    c !== null &&
    typeof c === 'object' &&
    c.v === 1 &&
    ['iss', 'lst'].every((name) => typeof c[name] === 'string') &&
    /^fiber:(mainnet|testnet|dev)$/.test(c.net) &&
    /^(ckb|udt:0x(?!0{64})[0-9a-f]{64})$/.test(c.ast) &&
    ['upfront', 'hold'].includes(c.mod) &&
    parseAmount(c.amt) !== undefined &&
    isPubkey(c.pay) &&
    (c.rto === undefined || isPubkey(c.rto)) &&
    isHex(c.ph, 32) &&
    isHex(c.rd, 32) &&
    isHex(c.jti, 16) &&
    [c.iat, c.exp, c.rdm].every(isTime) &&
    c.iat <= c.exp &&
    c.exp <= c.rdm &&
    ('prc' in c || 'tok' in c ? isTerms(c.prc, c.tok) : true)
  )
}

function isPubkey(text) {
  return isHex(text, 33) && /^0[23]/.test(text)
}

function isTerms(prices, tokens) {
  const isCount = (value) => Number.isSafeInteger(value) && value >= 0 && value <= MAX_SAFE_TOKENS
  return (
    Array.isArray(prices) &&
    Array.isArray(tokens) &&
    prices.length === 3 &&
    tokens.length === 3 &&
    prices.every((price) => parseAmount(price) !== undefined) &&
    tokens.every(isCount) &&
    tokens[2] >= 1
  )
}
