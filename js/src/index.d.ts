/** A refusal, a failure or an unknown outcome. `money` is what happened to the payer's money. */
export class FiberPaymentError extends Error {
  readonly code: string
  readonly money: 'unmoved' | 'moved' | 'unknown'
  readonly details: Readonly<Record<string, unknown>>
  /** The same as a 402 in the OpenAI error shape. */
  toResponse(): Response
}

/** Whole shannon: a bigint, or a number that is a safe integer. */
export type Shannon = bigint | number

/** A payment on record. Its token is a bearer secret. */
export interface PaymentRow {
  readonly paymentHash: string
  readonly origin: string
  readonly digest: string
  readonly target: string
  readonly network: string
  readonly amount: string
  readonly payTo: string
  readonly redeemUntil: number
  readonly invoice: string
  readonly token: string
  readonly session: string
  readonly state: string
  readonly preimage?: string
}

/** Written before any money moves. Methods are synchronous: what returned is recorded. */
export interface Journal {
  adopt(origin: string, digest: string, nowS: number): PaymentRow | undefined
  intend(row: PaymentRow): void
  record(row: PaymentRow, event: string, changes?: Partial<PaymentRow>): PaymentRow
  release(paymentHash: string): void
  atStake(): PaymentRow[]
  close(): void
}

/** Keeps rows for as long as the process lives. */
export class MemoryJournal implements Journal {
  adopt(origin: string, digest: string, nowS: number): PaymentRow | undefined
  intend(row: PaymentRow): void
  record(row: PaymentRow, event: string, changes?: Partial<PaymentRow>): PaymentRow
  release(paymentHash: string): void
  atStake(): PaymentRow[]
  close(): void
}

/** Keeps rows in a file, durably. One process at a time. */
export class FileJournal extends MemoryJournal {
  constructor(file: string)
}

export interface Price {
  requestFee: Shannon
  inputPerMtok: Shannon
  outputPerMtok: Shannon
}

export interface WalletOptions {
  /** fnn's JSON-RPC. */
  rpcUrl: string | URL
  /** Its biscuit, when it asks for one. */
  rpcToken?: string
  network: 'mainnet' | 'testnet' | 'dev'
  /** The most one payment may be, without its routing fee. */
  maxShannon: Shannon
  /** The most this wallet may spend until it is closed, fees included; default ten times as much. */
  maxSessionShannon?: Shannon
  /** Part of the fee cap that does not depend on the amount; default 1000. */
  feeBase?: Shannon
  /** Part of the fee cap in millionths of the amount; default 10 000. */
  feePpm?: Shannon
  /** A file, or a journal; default in memory. */
  journal?: string | Journal
  /** What is known of sellers beforehand, by origin. */
  pinned?: Record<string, { payTo?: string; price?: Price }>
  patience?: Partial<{
    payMs: number
    proveMs: number
    proofs: number
    pauseMs: number
    retryAfterMs: number
  }>
  /** For calls to the node; default the global one. */
  fetch?: typeof globalThis.fetch
}

export interface Wallet {
  readonly maxShannon: bigint
  readonly network: string
  readonly session: string
  /** Spent or at stake since it was opened, fees included. */
  readonly spent: bigint
  /** Payments that are made or under way and not answered. */
  atStake(): PaymentRow[]
  close(): void
}

export function openWallet(options: WalletOptions): Wallet

/** A fetch that pays through a framework, once per request. */
export function payable(
  wallet: Wallet,
  middle: (fetch: typeof globalThis.fetch) => typeof globalThis.fetch,
  options?: { fetch?: typeof globalThis.fetch },
): typeof globalThis.fetch

/** x402's `exact` scheme on `fiber:*`, for `x402Client.register("fiber:*", ...)`. */
export function fiberScheme(): {
  readonly scheme: 'exact'
  createPaymentPayload(
    x402Version: number,
    paymentRequirements: {
      network: string
      amount: string
      asset: string
      payTo: string
      extra: Record<string, unknown>
    },
  ): Promise<{ x402Version: number; payload: Record<string, unknown> }>
}

/** Register the scheme, and CKB with the wallet's cap as the one more asset x402 may spend. */
export function registerFiber<Client>(client: Client, wallet: Wallet): Client

/** The entry of x402's `allowedAssets` that lets CKB over Fiber be spent. */
export function fiberAsset(wallet: Wallet): {
  network: `${string}:${string}`
  asset: string
  maxAmountPerPayment: string
}

/** mppx's client method for `fiber/charge`, for `Mppx.create({ methods: [...] })`. */
export function fiberCharge(): any
