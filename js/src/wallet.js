// What a client pays with: a Fiber node, a journal and caps.

import { randomUUID } from 'node:crypto'

import { divCeil, isHex } from './encoding.js'
import { FiberPaymentError } from './errors.js'
import { FileJournal, MemoryJournal } from './journal.js'
import { FiberNode } from './node.js'

const NETWORKS = new Set(['mainnet', 'testnet', 'dev'])
const MAX_SHANNON = 2n ** 63n - 1n
const MILLION = 1_000_000n
const PATIENCE = { payMs: 60_000, proveMs: 120_000, proofs: 6, pauseMs: 500, retryAfterMs: 15_000 }

/** Open a wallet; see the README for the options. `maxShannon` has no default on purpose. */
export function openWallet(options) {
  return new Wallet(options)
}

class Wallet {
  #spent = 0n
  #maxSession
  #feeBase
  #feePpm
  #pinned

  constructor({
    rpcUrl,
    rpcToken,
    network,
    maxShannon,
    maxSessionShannon,
    feeBase = 1_000n,
    feePpm = 10_000n,
    journal,
    pinned = {},
    patience = {},
    fetch,
  }) {
    if (!NETWORKS.has(network)) throw new TypeError('network is mainnet, testnet or dev')
    this.maxShannon = amount(maxShannon, 'maxShannon')
    if (this.maxShannon === 0n) throw new TypeError('maxShannon is above zero')
    this.#maxSession = amount(maxSessionShannon ?? 10n * this.maxShannon, 'maxSessionShannon')
    this.#feeBase = amount(feeBase, 'feeBase')
    this.#feePpm = amount(feePpm, 'feePpm')
    this.session = randomUUID()
    this.network = `fiber:${network}`
    this.node = new FiberNode({ rpcUrl: new URL(rpcUrl).href, rpcToken, fetch })
    this.patience = { ...PATIENCE, ...patience }
    this.#pinned = checkPins(pinned)
    this.journal = typeof journal === 'string' ? new FileJournal(journal) : (journal ?? new MemoryJournal())
  }

  /** Shannon spent or at stake by this wallet since it was opened, fees included. */
  get spent() {
    return this.#spent
  }

  /** Payments that are made or under way and not answered: rows to repeat a request for, or redeem. */
  atStake() {
    return this.journal.atStake()
  }

  /** The most routing may take on top of an amount. */
  feeCap(amount) {
    return this.#feeBase + divCeil(amount * this.#feePpm, MILLION)
  }

  /** Reserve what a payment may cost; throws when the session's cap says no. */
  admit(row) {
    const need = this.#cost(row)
    const left = this.#maxSession - this.#spent
    if (need > left) {
      throw new FiberPaymentError(
        'budget_exceeded',
        `${need} shannon is over what is left of maxSessionShannon (${left} of ${this.#maxSession}). Nothing was paid.`,
      )
    }
    this.#spent += need
  }

  /** Give back what a payment that failed had reserved in this session. */
  giveBack(row) {
    if (row.session === this.session) this.#spent -= this.#cost(row)
  }

  #cost({ amount }) {
    return BigInt(amount) + this.feeCap(BigInt(amount))
  }

  /** What is known of a seller beforehand. */
  pinnedOf(origin) {
    return this.#pinned[origin] ?? {}
  }

  /** Close the journal; payments on record stay there. */
  close() {
    this.journal.close()
  }
}

function amount(value, name) {
  const isWhole = typeof value === 'bigint' || Number.isSafeInteger(value)
  if (!isWhole || value < 0 || BigInt(value) > MAX_SHANNON) {
    throw new TypeError(`${name} is a whole number of shannon, as a bigint or a safe integer`)
  }
  return BigInt(value)
}

function checkPins(pinned) {
  const checked = {}
  for (const [origin, { payTo, price }] of Object.entries(pinned)) {
    if (payTo !== undefined && !isHex(payTo, 33)) throw new TypeError(`pinned payTo of ${origin} is 33 bytes of hex`)
    checked[new URL(origin).origin] = {
      payTo,
      price: price && {
        requestFee: amount(price.requestFee, 'requestFee'),
        inputPerMtok: amount(price.inputPerMtok, 'inputPerMtok'),
        outputPerMtok: amount(price.outputPerMtok, 'outputPerMtok'),
      },
    }
  }
  return checked
}
