// A payer's fnn: its JSON-RPC, and paying one invoice exactly once.
//
// fnn keys a payment by its payment hash. Whatever breaks, "did it happen?" is answered by
// get_payment, and a second send is made only after the node said that nothing is under way.

import { divCeil } from './encoding.js'
import { FiberPaymentError } from './errors.js'

const CALL_TIMEOUT_MS = 10_000
const MAX_ANSWER_BYTES = 1024 * 1024
const POLL_MS = [50, 100, 250, 500]
const MAX_SENDS = 3
const RESEND_AFTER_MS = 2_000
const NOT_FOUND = /Payment session not found/i
const EXISTS = /Payment session already exists|attempts that are in flight/i

/** The node answered with an error. */
class RpcError extends Error {}

export class FiberNode {
  #url
  #token
  #fetch
  #id = 0

  constructor({ rpcUrl, rpcToken, fetch = globalThis.fetch }) {
    this.#url = rpcUrl
    this.#token = rpcToken
    this.#fetch = fetch
  }

  /** Call one method. Throws RpcError for the node's own error, anything else for a broken wire. */
  async call(method, params) {
    const response = await this.#fetch(this.#url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(this.#token && { authorization: `Bearer ${this.#token}` }),
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: ++this.#id, method, params: [params] }),
      redirect: 'error',
      signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
    })
    const answer = JSON.parse(await readText(response, MAX_ANSWER_BYTES))
    if (answer.error) throw new RpcError(String(answer.error.message ?? 'no reason given'))
    return answer.result
  }

  /** What an invoice says. The node refuses one whose signature is not its payee's. */
  async parseInvoice(text) {
    let invoice
    try {
      ;({ invoice } = await this.call('parse_invoice', { invoice: text }))
    } catch (error) {
      if (!(error instanceof RpcError)) throw away(error)
      throw new FiberPaymentError('invalid_invoice', `The node cannot read the invoice: ${error.message}. Nothing was paid.`)
    }
    const attributes = {}
    for (const attribute of invoice.data.attrs) {
      for (const [name, value] of Object.entries(attribute)) {
        if (name in attributes) throw new FiberPaymentError('invalid_invoice', `The invoice has ${name} twice. Nothing was paid.`)
        attributes[name] = value
      }
    }
    return {
      currency: invoice.currency,
      amount: number(invoice.amount),
      isSigned: typeof invoice.signature === 'string',
      timestampMs: number(invoice.data.timestamp) ?? 0n,
      paymentHash: String(invoice.data.payment_hash).replace(/^0x/, ''),
      payee: attributes.payee_public_key,
      description: attributes.description,
      expiryS: number(attributes.expiry_time),
      hashAlgorithm: attributes.hash_algorithm,
      isUdt: attributes.udt_script !== undefined,
      finalDeltaMs: number(attributes.final_htlc_minimum_expiry_delta),
    }
  }

  /**
   * Pay one invoice, or learn what became of it. Returns `{preimage}` when it is paid. Throws a
   * FiberPaymentError: `unmoved` only when the node is certain that nothing was paid.
   */
  async pay({ invoice, paymentHash, amount, feeCap, lookUpFirst, timeoutMs, signal }) {
    const run = new Payment(this, { invoice, paymentHash, amount, feeCap })
    return run.finish({ lookUpFirst, deadline: Date.now() + timeoutMs, signal })
  }
}

/** One run of paying one invoice. */
class Payment {
  #node
  #payment
  #sends = 0
  #sentAt = 0
  /** A send of this run got no clear answer and the node has not accounted for it since. */
  #inDoubt = false
  /** The node refused a send because of a payment it does not show. */
  #isContested = false
  #wasUnderWay = false
  /** The failed payment that was there before this run sent anything. */
  #oldFailure
  #refusal

  constructor(node, payment) {
    this.#node = node
    this.#payment = payment
  }

  async finish({ lookUpFirst, deadline, signal }) {
    let mayLookUp = lookUpFirst
    for (let turn = 0; ; turn++) {
      const paid = mayLookUp ? await this.#lookUp() : await this.#send()
      if (paid !== undefined) return paid
      mayLookUp = true
      if (turn === 0 && !lookUpFirst) continue
      if (signal?.aborted || Date.now() > deadline) throw unknownOutcome('the payment did not end in time')
      await sleep(POLL_MS[Math.min(turn, POLL_MS.length - 1)], signal)
    }
  }

  async #send() {
    const { invoice, amount, feeCap } = this.#payment
    this.#sends += 1
    this.#sentAt = Date.now()
    try {
      const record = await this.#node.call('send_payment', {
        invoice,
        max_fee_amount: hex(feeCap),
        max_fee_rate: hex(feeRate(amount, feeCap)),
      })
      return this.#read(record)
    } catch (error) {
      if (error instanceof FiberPaymentError) throw error
      if (isUnsent(error) && !this.#inDoubt) throw away(error)
      if (!(error instanceof RpcError)) this.#inDoubt = true
      else if (EXISTS.test(error.message)) this.#isContested = true
      else this.#refusal = error.message
    }
  }

  async #lookUp() {
    try {
      return this.#read(await this.#node.call('get_payment', { payment_hash: `0x${this.#payment.paymentHash}` }))
    } catch (error) {
      if (error instanceof FiberPaymentError) throw error
      if (error instanceof RpcError && NOT_FOUND.test(error.message)) return this.#foundNothing()
    }
  }

  /** Nothing is under way, as far as the node knows. It stores a payment before it moves anything. */
  #foundNothing() {
    if (this.#wasUnderWay || this.#isContested) return undefined
    if (this.#refusal !== undefined) throw failed(`the node refused it: ${this.#refusal}`)
    const settling = this.#inDoubt && Date.now() < this.#sentAt + RESEND_AFTER_MS
    return settling || this.#sends >= MAX_SENDS ? undefined : this.#send()
  }

  #read(record) {
    if (String(record.payment_hash).replace(/^0x/, '') !== this.#payment.paymentHash) {
      throw unknownOutcome('the node answered with another payment')
    }
    if (record.status === 'Success') return { preimage: record.payment_preimage?.replace(/^0x/, '') }
    if (record.status !== 'Failed') {
      this.#wasUnderWay = true
      return undefined
    }
    const failure = JSON.stringify(record)
    if (this.#wasUnderWay || (this.#sends > 0 && failure !== this.#oldFailure)) {
      throw failed(record.failed_error ?? 'the node gave no reason')
    }
    this.#oldFailure = failure
    return this.#foundNothing()
  }
}

/** The rate that leaves `feeCap` as the only real cap: fnn's own would be too low for small sums. */
function feeRate(amount, feeCap) {
  const wanted = divCeil(feeCap * 1000n, amount)
  return wanted > 5n ? wanted : 5n
}

function hex(amount) {
  return `0x${amount.toString(16)}`
}

function number(text) {
  return typeof text === 'string' && /^0x[0-9a-f]{1,32}$/.test(text) ? BigInt(text) : undefined
}

function failed(reason) {
  const isRoute = /Failed to build route|no path found|Insufficient balance/.test(reason)
  const code = isRoute ? 'no_route' : 'payment_failed'
  return new FiberPaymentError(code, `The payment failed, nothing was paid: ${reason}`)
}

/** Nobody knows yet whether the money left; nothing may be paid for the same need. */
export function unknownOutcome(why) {
  return new FiberPaymentError(
    'payment_outcome_unknown',
    `${why}: it may still succeed. Repeat the same request later; it is not paid again.`,
    { money: 'unknown' },
  )
}

/** True when the call certainly never reached the node. */
function isUnsent(error) {
  return ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN'].includes(error.cause?.code)
}

function away(error) {
  return new FiberPaymentError('fiber_unavailable', `The Fiber node does not answer: ${error.message}. Nothing was paid.`)
}

/** A body as text, at most so many bytes. */
export async function readText(response, limit) {
  const chunks = []
  let size = 0
  for await (const chunk of response.body ?? []) {
    size += chunk.length
    if (size > limit) throw new Error(`the answer is over ${limit} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** Wait; ends early, without an error, when the signal does. */
export function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms)
    function done() {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    signal?.addEventListener('abort', done, { once: true })
  })
}
