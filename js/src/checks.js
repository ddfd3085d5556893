// What is checked before anything is paid (f402-spec, "Checks before paying"). One failure and
// nothing is sent. What an invoice says is read by the payer's own node, which also checks its
// signature, so that no cryptography is needed here.

import { divCeil, parseAmount } from './encoding.js'
import { refused } from './errors.js'

const SKEW_S = 60
const MAX_INVOICE_LIFE_S = 600
const MIN_REDEEM_S = 600
const MAX_FINAL_DELTA_MS = 12_600_000n
const TEMPLATE_ROOM_TOKENS = 4_096
const FRAME_ROOM_TOKENS = 64
const CURRENCIES = { 'fiber:mainnet': 'Fibb', 'fiber:testnet': 'Fibt', 'fiber:dev': 'Fibd' }
const LOOPBACK = new Set(['localhost', '127.0.0.1', '[::1]'])

/** Throws for the first check that fails. `expected` is what the payer itself knows. */
export function checkOffer(offer, invoice, expected) {
  for (const [name, holds, complaint] of [
    ...originChecks(offer.claims, expected),
    ...claimChecks(offer.claims, expected),
    ...invoiceChecks(offer.claims, invoice, expected),
  ]) {
    if (!holds) throw refused(name, complaint)
  }
}

function originChecks(c, e) {
  const { protocol, host, hostname } = new URL(e.origin)
  const isSafe = protocol === 'https:' || LOOPBACK.has(hostname)
  return [
    ['origin', isSafe, 'payments need https, or a loopback address'],
    ['realm', c.iss === host, 'the offer is not of this origin'],
  ]
}

function claimChecks(c, e) {
  const amount = parseAmount(c.amt)
  return [
    ['network', c.net === e.network, 'the offer is for another network'],
    ['asset', c.ast === 'ckb', 'the offer is in another asset'],
    ['request', c.rd === e.digest, 'the offer is for another request'],
    ['mode', c.mod === 'upfront', "the offer's settlement mode was not asked for"],
    ['amount', amount > 0n, 'the offer is for nothing'],
    ['cap', amount <= e.maxShannon, `${c.amt} shannon is over the cap of ${e.maxShannon}`],
    ['quote', c.prc !== undefined && cost(c) === amount, 'the amount is not what the quote adds up to'],
    ['ceilings', isWithin(c, e.ceilings), 'the quote is for more tokens than the request can use'],
    ['price', isPriceWithin(c, e.price), 'the quote is above the price known for this seller'],
    [
      'expiry',
      e.nowS - SKEW_S <= c.exp && c.exp <= e.nowS + MAX_INVOICE_LIFE_S && c.rdm >= c.exp + MIN_REDEEM_S,
      'the offer has expired, lives too long or leaves no time to use the payment',
    ],
    ['payee', e.payTo === undefined || c.pay === e.payTo, "the offer pays somebody else than the seller's known Fiber node"],
    // Nobody here asks for a remainder to be sent, so who did was somebody on the way.
    ['refund', c.rto === undefined, 'the remainder would be sent to somebody else'],
  ]
}

function invoiceChecks(c, invoice, e) {
  const made = BigInt(e.nowS)
  const bornS = invoice.timestampMs / 1000n
  return [
    ['signed', invoice.isSigned && invoice.payee !== undefined, 'the invoice is not signed by a named node'],
    ['signer', invoice.payee === c.pay, 'the invoice is signed by another node'],
    ['invoice network', invoice.currency === CURRENCIES[e.network], "the invoice's network differs"],
    ['invoice amount', invoice.amount === parseAmount(c.amt), "the invoice's amount differs"],
    ['invoice asset', !invoice.isUdt, "the invoice's asset differs"],
    ['payment hash', invoice.paymentHash === c.ph, "the invoice's payment hash differs"],
    ['hash algorithm', invoice.hashAlgorithm === 'sha256', 'the invoice does not use sha256'],
    ['description', invoice.description === `f402:1:${e.digest}`, 'the invoice was made for another request'],
    [
      'invoice expiry',
      invoice.expiryS !== undefined &&
        invoice.expiryS <= BigInt(MAX_INVOICE_LIFE_S) &&
        bornS + invoice.expiryS >= made &&
        bornS <= made + BigInt(SKEW_S),
      'the invoice has expired, lives too long or is from the future',
    ],
    [
      'lock time',
      invoice.finalDeltaMs === undefined || invoice.finalDeltaMs <= MAX_FINAL_DELTA_MS,
      'the invoice could lock the payment for longer than an ordinary one',
    ],
  ]
}

function cost({ prc, tok }) {
  const [fee, input, output] = prc.map(BigInt)
  const [prompt, completion, n] = tok.map(BigInt)
  return fee + divCeil(prompt * input + n * completion * output, 1_000_000n)
}

function isWithin(c, own) {
  if (own === undefined) return true
  if (c.tok === undefined) return false
  const [prompt, completion, n] = c.tok
  return prompt <= own.prompt && (own.completion === undefined || completion <= own.completion) && n <= own.n
}

function isPriceWithin(c, known) {
  if (known === undefined) return true
  if (c.prc === undefined) return false
  const [fee, input, output] = c.prc.map(BigInt)
  return fee <= known.requestFee && input <= known.inputPerMtok && output <= known.outputPerMtok
}

/**
 * The most tokens the request itself can use; undefined where that cannot be known here: another
 * path, a body that is not understood, images and audio.
 */
export function ownCeilings(target, body) {
  const path = target.split('?')[0]
  const isChat = path.endsWith('/chat/completions')
  const isEmbedding = path.endsWith('/embeddings')
  if (!isChat && !isEmbedding && !path.endsWith('/completions')) return undefined
  let request
  try {
    request = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    return undefined
  }
  const frames = countFrames(request)
  if (request === null || typeof request !== 'object' || frames === undefined) return undefined
  const asked = isEmbedding ? request.input : request.prompt
  const prompts = isChat || !Array.isArray(asked) ? 1 : Math.max(1, asked.length)
  return {
    prompt: body.length + TEMPLATE_ROOM_TOKENS * prompts + FRAME_ROOM_TOKENS * frames,
    completion: isEmbedding ? undefined : (request.max_completion_tokens ?? request.max_tokens ?? undefined),
    n: isEmbedding ? prompts : (request.n ?? 1) * prompts,
  }
}

/** How many values a request has; undefined when some are images or audio. */
function countFrames(value) {
  if (value === null || typeof value !== 'object') return 1
  if (value.type === 'image_url' || value.type === 'input_audio') return undefined
  let count = 1
  for (const member of Object.values(value)) {
    const inside = countFrames(member)
    if (inside === undefined) return undefined
    count += inside
  }
  return count
}
