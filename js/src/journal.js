// The payment journal: written before any money moves, asked before any money moves again.
//
// A row whose money is at stake is used again for the same request to the same seller. Two live
// requests with equal bytes stay two needs; a row is free to be taken over when its request has
// ended or its process is gone.

import * as fs from 'node:fs'
import * as path from 'node:path'

import { advance, isAtStake } from './states.js'

/** The files this process has open: a process number may be that of one before us. */
const opened = new Set()
const COMPACT_AFTER_BYTES = 8 * 1024 * 1024
/** A seller gives credit for this long after redeem-until; then a row is of no use to anybody. */
const FORGET_AFTER_S = 30 * 86_400

/** Keeps rows for as long as the process lives. */
export class MemoryJournal {
  #rows = new Map()
  #held = new Set()

  /** Take over a payment at stake for this need that no live request uses; undefined without one. */
  adopt(origin, digest, nowS) {
    for (const row of this.#rows.values()) {
      const isFree = isAtStake(row.state) && !this.#held.has(row.paymentHash)
      if (isFree && row.origin === origin && row.digest === digest && nowS <= row.redeemUntil) {
        this.#held.add(row.paymentHash)
        return row
      }
    }
    return undefined
  }

  /** Write a new row, held by the caller. Throws when its payment is known already. */
  intend(row) {
    if (this.#rows.has(row.paymentHash)) throw new Error('this payment is on record already')
    this._write(row)
    this.#rows.set(row.paymentHash, row)
    this.#held.add(row.paymentHash)
  }

  /** Move a row by an event; returns the row as it is then. */
  record(row, event, changes = {}) {
    const after = { ...row, ...changes, state: advance(row.state, event) }
    this._write(after)
    if (isAtStake(after.state) || after.state === 'intended') this.#rows.set(row.paymentHash, after)
    else this.#rows.delete(row.paymentHash)
    return after
  }

  /** Give a row up, so that a later request may take it over. */
  release(paymentHash) {
    this.#held.delete(paymentHash)
  }

  /** The rows whose money is at stake: paid and not answered, or of unknown outcome. */
  atStake() {
    return [...this.#rows.values()].filter((row) => isAtStake(row.state))
  }

  close() {}

  /** Make a row durable before it counts. */
  _write(_row) {}

  _load(rows) {
    for (const row of rows) this.#rows.set(row.paymentHash, row)
  }
}

/**
 * Keeps rows in a file of one JSON object a line, written through to the disk, mode 0600: a row
 * holds a token, which is a bearer secret. One process at a time; a lock file refuses the second.
 */
export class FileJournal extends MemoryJournal {
  #file
  #handle
  #bytes = 0

  constructor(file) {
    super()
    this.#file = path.resolve(file)
    fs.mkdirSync(path.dirname(this.#file), { recursive: true, mode: 0o700 })
    this.#lock()
    try {
      this._load(this.#read())
      this.#compact()
    } catch (error) {
      this.#unlock()
      throw error
    }
  }

  close() {
    if (this.#handle === undefined) return
    fs.closeSync(this.#handle)
    this.#handle = undefined
    this.#unlock()
  }

  _write(row) {
    if (this.#handle === undefined) throw new Error('the journal is closed')
    if (this.#bytes > COMPACT_AFTER_BYTES) this.#compact()
    const line = `${JSON.stringify(row)}\n`
    fs.writeSync(this.#handle, line)
    fs.fsyncSync(this.#handle)
    this.#bytes += line.length
  }

  #read() {
    let text
    try {
      text = fs.readFileSync(this.#file, 'utf8')
    } catch (error) {
      if (error.code === 'ENOENT') return []
      throw error
    }
    // A line without an end was being written when the process died: it never counted.
    const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
    const last = new Map()
    for (const line of lines.filter(Boolean)) {
      const row = JSON.parse(line)
      last.set(row.paymentHash, row)
    }
    // What was only intended is given up: nothing was sent for it.
    const oldest = Date.now() / 1000 - FORGET_AFTER_S
    return [...last.values()].filter((row) => isAtStake(row.state) && row.redeemUntil > oldest)
  }

  /** Write the file anew with what still matters. */
  #compact() {
    const fresh = `${this.#file}.new`
    const handle = fs.openSync(fresh, 'w', 0o600)
    const text = this.atStake().map((row) => `${JSON.stringify(row)}\n`).join('')
    fs.writeSync(handle, text)
    fs.fsyncSync(handle)
    if (this.#handle !== undefined) fs.closeSync(this.#handle)
    fs.renameSync(fresh, this.#file)
    this.#handle = handle
    this.#bytes = 0
    const directory = fs.openSync(path.dirname(this.#file), 'r')
    fs.fsyncSync(directory)
    fs.closeSync(directory)
  }

  get #lockFile() {
    return `${this.#file}.lock`
  }

  #lock() {
    for (let attempt = 0; ; attempt++) {
      try {
        fs.writeFileSync(this.#lockFile, String(process.pid), { flag: 'wx', mode: 0o600 })
        opened.add(this.#file)
        return
      } catch (error) {
        if (error.code !== 'EEXIST' || attempt > 0 || this.#isInUse()) {
          throw new Error(`the journal ${this.#file} is in use; remove ${this.#lockFile} if it is not`, {
            cause: error,
          })
        }
        fs.rmSync(this.#lockFile, { force: true })
      }
    }
  }

  #isInUse() {
    const owner = Number(fs.readFileSync(this.#lockFile, 'utf8'))
    return owner === process.pid ? opened.has(this.#file) : isAlive(owner)
  }

  #unlock() {
    opened.delete(this.#file)
    fs.rmSync(this.#lockFile, { force: true })
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code !== 'ESRCH'
  }
}
