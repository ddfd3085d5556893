// A payment framework between two ends of ours:
//
//     SDK ─► payable() ─► the framework's fetch ─► wire() ─► seller
//
// `payable` shows a payment that is on record without asking the framework. `wire` sees the bytes
// and the offer, so that the scheme can make every check, and shows the proof the framework made
// until it is answered. In between, nothing can lead from one payment to another.

import { AsyncLocalStorage } from 'node:async_hooks'

import { watch } from './answer.js'
import { checkOffer, ownCeilings } from './checks.js'
import { requestDigest } from './encoding.js'
import { FiberPaymentError, refused } from './errors.js'
import { readText, sleep, unknownOutcome } from './node.js'
import { errorOf, MAX_OFFER_BYTES, readOffer } from './offer.js'

const PROOF_HEADER = 'payment-signature'
const MPP_HEADER = 'payment-authorization'
const OFFER_HEADERS = ['payment-required', 'www-authenticate']
const MAX_ADOPTIONS = 4
/** Codes with which a seller may refuse a proof by a 402. */
const PROOF_REFUSALS = new Set([
  'invalid_challenge',
  'wrong_realm',
  'challenge_expired',
  'request_mismatch',
  'invalid_preimage',
  'amount_mismatch',
  'asset_mismatch',
  'pay_to_mismatch',
  'payment_not_received',
])

/** Codes with which a payment is certainly over and nothing was paid. */
const FAILURES = new Set(['payment_failed', 'no_route'])

const running = new AsyncLocalStorage()

/** The request that is being paid for. Schemes call it; outside of `payable` it throws. */
export function currentRun() {
  const run = running.getStore()
  if (run === undefined) {
    throw refused('request', 'the request was not seen; send it through the fetch that payable() returns')
  }
  return run
}

/**
 * A fetch that pays through a framework, once per request.
 *
 * `middle` gets the fetch the framework must send by, and returns the framework's fetch.
 */
export function payable(wallet, middle, { fetch = globalThis.fetch } = {}) {
  const framework = middle(wire(fetch))
  return async (input, init) => {
    const request = new Request(input, init)
    if (!isPayable(request)) return framework(input, init)
    const body = new Uint8Array(await request.arrayBuffer())
    const run = new Run(wallet, fetch, request, body, init)
    const plain = { ...init, method: 'POST', headers: request.headers, body, signal: request.signal }
    return running.run(run, () => run.answer(() => framework(request.url, plain)))
  }
}

/** The framework's inner fetch. */
function wire(fetch) {
  return async (input, init) => {
    const run = running.getStore()
    const request = new Request(input, init)
    if (run === undefined || request.url !== run.url || request.method !== 'POST') return fetch(input, init)
    return run.send(request.headers)
  }
}

/** POSTs that are not the seller's own F402 API. One with a proof is paid by somebody above us. */
function isPayable(request) {
  return request.method === 'POST' && !new URL(request.url).pathname.includes('/f402/') && !carriesProof(request.headers)
}

function carriesProof(headers) {
  return headers.has(PROOF_HEADER) || headers.has(MPP_HEADER) || /^payment /i.test(headers.get('authorization') ?? '')
}

/** One request under way below a framework. */
class Run {
  #wallet
  #fetch
  #init
  #body
  #signal
  #headers
  #row
  #offered
  #failure
  #abandon = () => {}
  /** The row of the payment made in this run. */
  paid

  constructor(wallet, fetch, request, body, init) {
    const url = new URL(request.url)
    this.#wallet = wallet
    this.#fetch = fetch
    this.#init = init
    this.#body = body
    this.#signal = request.signal
    this.#headers = request.headers
    this.url = request.url
    this.origin = url.origin
    this.target = url.pathname + url.search
    this.digest = requestDigest('POST', this.target, body)
  }

  /** Show what was paid for this request already, or let the framework ask and pay. */
  async answer(framework) {
    try {
      const row = await this.#resume()
      if (row === undefined) return await framework()
      this.#headers.set(PROOF_HEADER, proofHeader(row))
      return await this.#prove(row, this.#headers)
    } catch (error) {
      this.#abandon()
      return this.#explain(error)
    } finally {
      this.#leave()
    }
  }

  /** One leg of the framework. */
  async send(headers) {
    if (carriesProof(headers) && this.paid !== undefined) {
      return this.#failing(() => this.#prove(this.paid, headers))
    }
    if (!headers.has('f402-max-amount')) headers.set('f402-max-amount', String(this.#wallet.maxShannon))
    const response = await this.#ask(headers)
    this.#offered = undefined
    if (response.status !== 402) return response
    const text = await readText(response, MAX_OFFER_BYTES).catch(() => {
      this.#failure = refused('size', 'the 402 is too large or broke off')
      throw this.#failure
    })
    this.#offered = { text, response: copyOf(response, text) }
    return copyOf(response, text)
  }

  /** Check and pay the offer the wire last brought, if it is the one the framework accepted. */
  async pay(accepted) {
    return this.#failing(async () => {
      if (this.paid !== undefined) {
        throw refused('paid already', 'this request was paid and its proof was not accepted yet')
      }
      const offer = this.#offered && readOffer(this.#offered.text)
      if (offer === undefined || !isSame(accepted, offer)) {
        throw refused('accepted', 'the framework accepted another offer than was made')
      }
      await this.#check(offer)
      this.paid = await this.#begin(offer)
      return this.paid
    })
  }

  async #check(offer) {
    const { payTo, price } = this.#wallet.pinnedOf(this.origin)
    checkOffer(offer, await this.#wallet.node.parseInvoice(offer.invoice), {
      origin: this.origin,
      network: this.#wallet.network,
      digest: this.digest,
      maxShannon: this.#wallet.maxShannon,
      ceilings: ownCeilings(this.target, this.#body),
      nowS: Math.floor(Date.now() / 1000),
      payTo,
      price,
    })
  }

  async #begin({ invoice, token, claims }) {
    this.#signal.throwIfAborted()
    const row = {
      paymentHash: claims.ph,
      origin: this.origin,
      digest: this.digest,
      target: this.target,
      network: claims.net,
      amount: claims.amt,
      payTo: claims.pay,
      redeemUntil: claims.rdm,
      invoice,
      token,
      session: this.#wallet.session,
      state: 'intended',
    }
    this.#wallet.admit(row)
    let paying
    try {
      this.#wallet.journal.intend(row)
      this.#row = row
      paying = this.#step(row, 'pay_sent')
    } catch (error) {
      this.#wallet.giveBack(row)
      throw new FiberPaymentError('ledger_unavailable', `The journal did not take the payment: ${error.message}. Nothing was paid.`)
    }
    return this.#pay(paying, { lookUpFirst: false })
  }

  /** A payment made earlier for this very request, certainly paid, or undefined. */
  async #resume() {
    for (let turn = 0; turn < MAX_ADOPTIONS; turn++) {
      const row = this.#wallet.journal.adopt(this.origin, this.digest, Date.now() / 1000)
      this.#row = row
      if (row === undefined || row.state !== 'paying') return row
      try {
        return await this.#pay(row, { lookUpFirst: true })
      } catch (error) {
        if (!FAILURES.has(error.code)) throw error
      }
    }
    throw unknownOutcome('too many unfinished payments for this request')
  }

  async #pay(row, { lookUpFirst }) {
    const amount = BigInt(row.amount)
    try {
      const { preimage } = await this.#wallet.node.pay({
        invoice: row.invoice,
        paymentHash: row.paymentHash,
        amount,
        feeCap: this.#wallet.feeCap(amount),
        lookUpFirst,
        timeoutMs: this.#wallet.patience.payMs,
        signal: this.#signal,
      })
      return this.#step(row, 'pay_succeeded', preimage && { preimage })
    } catch (error) {
      // What a resumed run could not do says nothing of the one before it; only the node's word does.
      const isCertain = error.money === 'unmoved' && (!lookUpFirst || FAILURES.has(error.code))
      this.#step(row, isCertain ? 'pay_failed' : 'pay_unknown')
      if (!isCertain) throw isUnknown(error) ? error : unknownOutcome(error.message)
      this.#leave()
      this.#wallet.giveBack(row)
      throw error
    }
  }

  /** Present a proof until it is answered, refused, or patience ends. */
  async #prove(paid, headers) {
    const { proofs, proveMs } = this.#wallet.patience
    const giveUp = Date.now() + proveMs
    let row = paid.state === 'proving' ? this.#step(paid, 'seller_failed') : paid
    for (let turn = 1; ; turn++) {
      row = this.#step(row, 'proof_sent')
      const answer = await this.#askOnce(headers)
      if (answer.event === 'answered') return this.#deliver(row, answer.response)
      row = this.#step(row, answer.event)
      const pause = this.#pause(answer, turn)
      if (pause === undefined || turn >= proofs || Date.now() + pause > giveUp) return this.#unanswered(answer, row)
      await sleep(pause, this.#signal)
      if (this.#signal.aborted) return this.#unanswered(answer, row)
    }
  }

  async #askOnce(headers) {
    let response
    try {
      response = await this.#ask(headers)
      if (response.ok) return { event: 'answered', response }
      const text = await readText(response, MAX_OFFER_BYTES).catch(() => '')
      return { event: judge(response, errorOf(text)), response: copyOf(response, text), error: errorOf(text) }
    } catch (error) {
      return { event: 'seller_failed', broken: error }
    }
  }

  #ask(headers) {
    // Never over a redirect: a proof goes to the address it was made for.
    return this.#fetch(this.url, {
      ...this.#init,
      method: 'POST',
      headers,
      body: this.#body,
      signal: this.#signal,
      redirect: 'manual',
    })
  }

  #pause({ event, response, broken, error }, turn) {
    const { pauseMs, retryAfterMs } = this.#wallet.patience
    if (event !== 'proof_pending' && event !== 'seller_failed') return undefined
    const own = Math.min(pauseMs * 2 ** (turn - 1), retryAfterMs)
    if (broken !== undefined) return this.#signal.aborted ? undefined : own
    if (error?.retry === 'never') return undefined
    const wish = response.headers.get('retry-after') ?? ''
    if (!/^[0-9]{1,6}$/.test(wish)) return own
    return Number(wish) * 1000 <= retryAfterMs ? Math.max(own, Number(wish) * 1000) : undefined
  }

  #deliver(row, response) {
    this.#row = undefined
    const { journal } = this.#wallet
    const watched = watch(response, (how) => lastWords(journal, row, how === 'broken' ? 'seller_failed' : 'answered'))
    this.#abandon = watched.abandon
    return watched.response
  }

  /** The end of an exchange whose payment is not answered. */
  #unanswered({ response, broken, error }, row) {
    if (broken !== undefined) throw broken
    const isElsewhere = response.status >= 300 && response.status < 400
    if (isElsewhere || (response.status === 402 && !PROOF_REFUSALS.has(error?.code))) {
      const what = isElsewhere ? 'points to another address' : 'was paid for this request and asks for money again'
      throw new FiberPaymentError(
        'offer_refused',
        `The seller ${what}. Nothing more was paid. The payment stays on record: repeat the same request to present it again.`,
        { money: 'moved', details: { check: 'paid already', payment_hash: row.paymentHash } },
      )
    }
    const headers = new Headers(response.headers)
    headers.set('x-should-retry', 'false')
    for (const name of OFFER_HEADERS) headers.delete(name)
    return new Response(response.body, { status: response.status, statusText: response.statusText, headers })
  }

  /** What whoever called a framework that threw is told. */
  #explain(error) {
    if (this.#signal.aborted) throw this.#signal.reason ?? error
    const failure = this.#failure ?? error
    if (failure instanceof FiberPaymentError) return failure.toResponse()
    if (this.#failure !== undefined || this.paid !== undefined || this.#offered === undefined) throw failure
    // An SDK repeats what a framework throws, and every repetition costs the seller an invoice.
    const { response } = this.#offered
    const hasOffer = OFFER_HEADERS.some((name) => response.headers.has(name))
    return hasOffer ? refused('framework', `the payment framework says: ${error.message}`).toResponse() : response
  }

  async #failing(work) {
    try {
      return await work()
    } catch (error) {
      this.#failure = error
      throw error
    }
  }

  #step(row, event, changes) {
    const after = this.#wallet.journal.record(row, event, changes)
    this.#row = after
    return after
  }

  /** The row is left as it must be when its request ends without an answer. */
  #leave() {
    const row = this.#row
    this.#row = undefined
    if (row !== undefined) lastWords(this.#wallet.journal, row, { intended: 'offer_declined', proving: 'seller_failed' }[row.state])
  }
}

/** Write a last event, if there is one, and give the row up. */
function lastWords(journal, row, event) {
  try {
    if (event !== undefined) journal.record(row, event)
  } catch (error) {
    // The row then says less than we know, which costs a repetition and never a payment.
    process.emitWarning(`payment ${row.paymentHash}: ${error.message}`)
  } finally {
    journal.release(row.paymentHash)
  }
}

function isUnknown(error) {
  return error instanceof FiberPaymentError && error.money === 'unknown'
}

/** What an answer to a proof means for the payment. */
function judge({ status }, error) {
  if (status === 409 && error?.code === 'already_delivered') return 'already_delivered'
  if (status === 425 || status === 429 || (status === 409 && error?.code === 'request_in_progress')) return 'proof_pending'
  return status >= 500 || status === 408 ? 'seller_failed' : 'proof_refused'
}

function copyOf({ status, statusText, headers }, text) {
  const kept = new Headers(headers)
  for (const name of ['content-length', 'content-encoding', 'transfer-encoding']) kept.delete(name)
  return new Response(text, { status, statusText, headers: kept })
}

function isSame(accepted, { invoice, token, claims }) {
  return (
    accepted.token === token &&
    accepted.invoice === invoice &&
    accepted.network === claims.net &&
    accepted.amount === claims.amt &&
    accepted.asset === claims.ast &&
    accepted.payTo === claims.pay
  )
}

/** The `PAYMENT-SIGNATURE` of a payment on record. */
function proofHeader(row) {
  const accepted = {
    scheme: 'exact',
    network: row.network,
    amount: row.amount,
    asset: 'ckb',
    payTo: row.payTo,
    extra: { invoice: row.invoice, challenge: row.token },
  }
  const payload = { invoice: row.invoice, challenge: row.token, ...(row.preimage && { paymentPreimage: row.preimage }) }
  return Buffer.from(JSON.stringify({ x402Version: 2, accepted, payload })).toString('base64')
}
