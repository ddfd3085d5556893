// A seller, a payer's node and a framework for the tests: just enough of each, and no socket.

import { createHash } from 'node:crypto'

import { jcs, requestDigest, toBase64url } from '../src/encoding.js'

export const PAYEE = `02${'ab'.repeat(32)}`
export const ORIGIN = 'https://seller.test'
export const URL_ = `${ORIGIN}/v1/chat/completions`
export const BODY = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hi' }], max_tokens: 64 })

export function hashOf(preimage) {
  return createHash('sha256').update(Buffer.from(preimage, 'hex')).digest('hex')
}

/** An honest offer as its parts, each of which a test may change. */
export function parts(number = 0, body = BODY) {
  const nowS = Math.floor(Date.now() / 1000)
  const preimage = number.toString(16).padStart(64, '0')
  const digest = requestDigest('POST', '/v1/chat/completions', Buffer.from(body))
  const claims = {
    v: 1,
    iss: 'seller.test',
    net: 'fiber:dev',
    ast: 'ckb',
    amt: '184320',
    pay: PAYEE,
    ph: hashOf(preimage),
    rd: digest,
    lst: `0x${'11'.repeat(32)}`,
    mod: 'upfront',
    iat: nowS,
    exp: nowS + 120,
    rdm: nowS + 86_400,
    jti: number.toString(16).padStart(32, '0'),
    prc: ['1120', '200000000', '600000000'],
    tok: [724, 64, 1],
  }
  const invoice = {
    currency: 'Fibd',
    amount: `0x${(184_320).toString(16)}`,
    signature: '00',
    data: {
      timestamp: `0x${(nowS * 1000).toString(16)}`,
      payment_hash: `0x${claims.ph}`,
      attrs: [
        { description: `f402:1:${digest}` },
        { expiry_time: '0x78' },
        { final_htlc_minimum_expiry_delta: '0x927c00' },
        { hash_algorithm: 'sha256' },
        { payee_public_key: PAYEE },
      ],
    },
  }
  return { claims, invoice, preimage }
}

export function tokenOf(claims) {
  return `f1.k1.${toBase64url(jcs(claims))}.AAAA`
}

/** The 402 that offers these claims. */
export function offerAnswer(claims, invoice, code = 'payment_required') {
  const token = tokenOf(claims)
  const f402 = {
    version: 1,
    network: claims.net,
    asset: claims.ast,
    amount: claims.amt,
    mode: claims.mod,
    invoice,
    payment_hash: claims.ph,
    pay_to: claims.pay,
    expires_at: claims.exp,
    redeem_until: claims.rdm,
    challenge: token,
    request_hash: claims.rd,
    listing: claims.lst,
  }
  const accepted = {
    network: claims.net,
    amount: claims.amt,
    asset: claims.ast,
    payTo: claims.pay,
    invoice,
    token,
  }
  return new Response(JSON.stringify({ error: { code, f402 } }), {
    status: 402,
    headers: { 'payment-required': Buffer.from(JSON.stringify(accepted)).toString('base64') },
  })
}

/** A seller and the payer's node in one: they share what was paid. */
export class World {
  /** How the next requests with a proof go: a function from the request to a response. */
  turns = []
  /** How the next send_payment goes; by default it succeeds. */
  sends = []
  requests = []
  calls = []
  offers = 0
  invoices = new Map()
  payments = new Map()
  delivered = new Set()

  get paid() {
    return [...this.payments.values()].filter(({ status }) => status === 'Success').length
  }

  seller = async (url, init) => {
    const request = new Request(url, init)
    this.requests.push(request.headers)
    const proof = request.headers.get('payment-signature')
    if (proof === null) return this.offer(Buffer.from(await request.arrayBuffer()).toString())
    const turn = this.turns.shift()
    const early = await turn?.(request, init)
    if (early !== undefined) return early
    const { payload } = JSON.parse(Buffer.from(proof, 'base64').toString())
    const claims = JSON.parse(Buffer.from(payload.challenge.split('.')[2], 'base64url').toString())
    if (this.payments.get(claims.ph)?.status !== 'Success') return json(402, 'payment_not_received')
    this.delivered.add(claims.ph)
    return new Response('{"ok":true}', { status: 200, headers: { 'content-type': 'application/json' } })
  }

  offer(body) {
    const { claims, invoice } = parts(++this.offers, body)
    const text = `fibd${this.offers}`
    this.invoices.set(text, invoice)
    return offerAnswer(claims, text)
  }

  node = async (_url, { body }) => {
    const { method, params } = JSON.parse(body)
    this.calls.push(method)
    return Response.json(await this.rpc(method, params[0]))
  }

  async rpc(method, { invoice: text, payment_hash: hash }) {
    if (method === 'parse_invoice') return { result: { invoice: this.invoices.get(text) } }
    if (method === 'get_payment') {
      const record = this.payments.get(hash.slice(2))
      return record ? { result: record } : { error: { message: 'Payment session not found: x' } }
    }
    const known = this.invoices.get(text).data.payment_hash
    const how = this.sends.shift() ?? 'Success'
    if (typeof how === 'function') return how(known)
    const record = { payment_hash: known, status: how, failed_error: how === 'Failed' ? 'x' : null }
    this.payments.set(known.slice(2), record)
    return { result: { ...record, status: 'Created' } }
  }
}

/** The least a payment framework does: pay a 402 by its header and repeat with the proof. */
export function framework(currentRun, { rounds = 1 } = {}) {
  return (inner) => async (input, init) => {
    let response = await inner(input, init)
    for (let round = 0; round < rounds && response.status === 402; round++) {
      const header = response.headers.get('payment-required')
      if (header === null) throw new Error('no payment requirements')
      const row = await currentRun().pay(JSON.parse(Buffer.from(header, 'base64').toString()))
      const payload = { invoice: row.invoice, challenge: row.token }
      const headers = new Headers(init.headers)
      headers.set('payment-signature', Buffer.from(JSON.stringify({ payload })).toString('base64'))
      response = await inner(input, { ...init, headers })
    }
    return response
  }
}

export function json(status, code, headers = {}) {
  return Response.json({ error: { code, message: code } }, { status, headers })
}
