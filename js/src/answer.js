// The end of a paid request: a payment counts as answered only when the last byte is here.

const LINE_START_BYTES = 24
const DECODER = new TextDecoder('latin1')

/** Follows a body to its end and says once how it ended: `whole`, `left` or `broken`. */
export function watch(response, onEnd) {
  const isStream = (response.headers.get('content-type') ?? '').startsWith('text/event-stream')
  const lines = new EventLines()
  const reader = response.body?.getReader()
  let over = false
  const end = (how) => {
    if (!over) onEnd(how)
    over = true
  }
  const isWhole = () => !isStream || (lines.sawDone && !lines.sawError) || lines.sawReceipt
  if (reader === undefined) {
    end('whole')
    return { response, abandon: () => {} }
  }
  const body = new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read()
        if (done) {
          end(isWhole() ? 'whole' : 'broken')
          controller.close()
          return
        }
        if (isStream) lines.update(value)
        controller.enqueue(value)
      } catch (error) {
        end(isStream && isWhole() ? 'whole' : 'broken')
        controller.error(error)
      }
    },
    cancel(reason) {
      // Who leaves a stream is charged for what was delivered; who leaves at an error is not.
      if (isStream && isWhole()) end('whole')
      else end(lines.sawError ? 'broken' : 'left')
      return reader.cancel(reason)
    },
  })
  const { status, statusText, headers } = response
  return {
    response: new Response(body, { status, statusText, headers }),
    abandon: () => {
      end('broken')
      reader.cancel().catch(() => {})
    },
  }
}

/** Looks at the beginnings of an event stream's lines. */
class EventLines {
  sawDone = false
  sawError = false
  sawReceipt = false
  #start = ''

  update(chunk) {
    const pieces = DECODER.decode(chunk).split('\n')
    pieces.forEach((piece, index) => {
      if (index > 0) this.#start = ''
      if (this.#start.length >= LINE_START_BYTES) return
      this.#start = (this.#start + piece).slice(0, LINE_START_BYTES)
      if (this.#start.startsWith('data: [DONE]')) this.sawDone = true
      else if (this.#start.startsWith('data: {"error"')) this.sawError = true
      else if (this.#start.startsWith(': f402-receipt ')) this.sawReceipt = true
    })
  }
}
