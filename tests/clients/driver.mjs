// What the drivers of both TypeScript SDK lines share: one session, obeying JSON lines (tests/support/clients.py
// describes them). Every op runs beside the others and ends in exactly one `result` or `error` line. It adds nothing
// to an SDK's behaviour and must not know which line it drives: what differs comes in as an adapter.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';

export function emit(event, members = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...members })}\n`);
}

/** Read the version of a package; most packages do not export their package.json. */
export function versionOf(home, name) {
  return JSON.parse(readFileSync(path.join(home, 'node_modules', name, 'package.json'), 'utf8')).version;
}

function reason(error) {
  const cause = error?.cause?.code ?? error?.cause?.message;
  return `${error?.name ?? 'Error'}: ${error?.message ?? error}${cause ? ` (${cause})` : ''}`;
}

/** Wrap `fetch` so that the head of every answer is reported. */
async function recordingFetch(url, init) {
  const sent = new Headers(init?.headers);
  let rpc = null;
  try {
    rpc = JSON.parse(init?.body).method ?? null;
  } catch {
    // a GET, or a response without a method
  }
  const seen = {
    method: init?.method ?? 'GET',
    rpc,
    sent_session: sent.get('mcp-session-id'),
    last_event_id: sent.get('last-event-id'),
  };
  try {
    const response = await fetch(url, init);
    const got = response.headers;
    emit('http', {
      ...seen,
      status: response.status,
      got_session: got.get('mcp-session-id'),
      content_type: got.get('content-type'),
    });
    return response;
  } catch (error) {
    emit('http', { ...seen, status: null, error: reason(error), got_session: null, content_type: null });
    throw error;
  }
}

/**
 * Serve ops until stdin ends; then stop without closing the session.
 *
 * The adapter gives `sdk` (its version), `Transport`, `connect(transport, mode, hooks)` to a client, and for a
 * connected client `protocol`, `call`, `subscribe`, `unsubscribe`.
 */
export function serve(adapter) {
  let client = null;
  let transport = null;
  let isHeld = false;
  const held = [];
  const running = new Map();

  async function mayAnswer(method, params) {
    const gate = isHeld ? new Promise((resolve) => held.push(resolve)) : null;
    emit('request', { method, params });
    await gate;
  }

  const hooks = {
    onNotification: (method, params) => emit('notification', { method, params: params ?? {} }),
    onFault: (error) => emit('fault', { message: reason(error) }),
    onSubscriptionEnd: (uri, cause) => emit('subscription_ended', { uri, reason: cause }),
    onElicit: async (params) => {
      await mayAnswer('elicitation/create', params);
      return { action: 'accept', content: { answer: 'yes' } };
    },
    onSample: async (params) => {
      await mayAnswer('sampling/createMessage', params);
      return { role: 'assistant', content: { type: 'text', text: 'sampled' }, model: 'none' };
    },
  };

  const ops = {
    async open(_, { url, mode = 'legacy', headers = {} }) {
      const made = new adapter.Transport(new URL(url), { requestInit: { headers }, fetch: recordingFetch });
      const opened = await adapter.connect(made, mode, hooks);
      client = opened;
      transport = made;
      return {
        protocol: adapter.protocol(client, transport),
        session: transport.sessionId ?? null,
        server: client.getServerVersion()?.name ?? null,
        capabilities: client.getServerCapabilities() ?? {},
      };
    },
    async close() {
      // What a well-behaved host does; the SDK's own close() sends no DELETE.
      await transport?.terminateSession();
      await client?.close();
      client = null;
    },
    call: (id, { tool, args = {}, timeout }) => {
      const abort = new AbortController();
      running.set(id, abort);
      const onprogress = (params) =>
        emit('progress', { id, progress: params.progress, total: params.total ?? null, message: params.message ?? null });
      const options = { onprogress, signal: abort.signal, ...(timeout ? { timeout: timeout * 1000 } : {}) };
      return adapter.call(client, { name: tool, arguments: args }, options).finally(() => running.delete(id));
    },
    cancel: async (_, { call }) => running.get(call).abort(),
    subscribe: (_, { uri }) => adapter.subscribe(client, uri, hooks),
    unsubscribe: (_, { uri }) => adapter.unsubscribe(client, uri),
    set_level: (_, { level }) => client.setLoggingLevel(level),
    list_tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
    list_resources: async () => (await client.listResources()).resources.map((resource) => resource.uri),
    read: (_, { uri }) => client.readResource({ uri }),
    ping: () => client.ping(),
    async hold(_, { on }) {
      isHeld = on;
    },
    answer: async () => held.shift()(),
  };

  async function run({ op, id = op, ...members }) {
    try {
      if (client === null && !['open', 'close', 'hold'].includes(op)) {
        throw new Error('no session');
      }
      emit('result', { id, value: (await ops[op](id, members)) ?? null });
    } catch (error) {
      // Numeric codes are JSON-RPC's or, from the transport, HTTP's; strings are the SDK's own kinds of error.
      emit('error', { id, code: error?.code ?? null, message: reason(error), data: error?.data ?? null });
    }
  }

  readline
    .createInterface({ input: process.stdin })
    .on('line', (line) => void run(JSON.parse(line)))
    .on('close', () => process.exit(0));
  emit('ready', { sdk: adapter.sdk });
}
