// The stock openai package with a prepaid key: plain, streamed with usage, and a refused key.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey });
const request = {
  model: "infern-tiny",
  messages: [{ role: "user", content: "What is Infern?" }],
  max_tokens: 64,
  temperature: 0,
};

const plain = await client.chat.completions.create(request);
const stream = await client.chat.completions.create({
  ...request,
  stream: true,
  stream_options: { include_usage: true },
});
let text = "";
let usage = null;
let cost = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) {
    usage = chunk.usage;
    cost = chunk.f402?.charged ?? null;
  }
}
const refused = await new OpenAI({ baseURL, apiKey: "none" }).chat.completions
  .create(request)
  .then(() => null)
  .catch((error) => ({ status: error.status, code: error.code, f402: !!error.error?.f402 }));
const embedding = await client.embeddings.create({ model: "infern-tiny", input: "hello" });

console.log(
  JSON.stringify({
    plain: plain.choices[0].message.content,
    plainCost: plain.f402?.charged ?? null,
    text,
    usage,
    cost,
    refused,
    dimensions: embedding.data[0].embedding.length,
  }),
);
